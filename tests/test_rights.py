"""The rights in docs/security.md and compose/users.sh: with them all works, and without one it is said which."""

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from string import Template
from uuid import uuid4

import pytest
from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
)
from kafka.errors import AuthorizationError

from demo.observer import Observer
from embedded import Line
from embedded.pipeline import ROOT, Pipeline
from embedded.records import Record
from embedded.secure import USERS, SecuredCluster
from embedded.service import Restarted, surroundings, wait_until
from harness import wait_for_error
from service.settings import Environment

pytestmark = [pytest.mark.guarantee, pytest.mark.long]

COMMAND = "kafka-acls --bootstrap-server broker:9092 --command-config admin.properties"
COMMANDS = re.findall(rf"^\$ {COMMAND} (.*)$", (ROOT / "docs/security.md").read_text(), re.MULTILINE)


def start(kafka: SecuredCluster, user: str) -> Restarted:
    """Start a service with the names of docker-compose.yml, as the user of its name."""
    return Pipeline.of_compose("").restarted(user, **kafka.environ(user))


def run(kafka: SecuredCluster, command: str) -> None:
    """Run a command of the documentation on the cluster."""
    done = kafka.tool("kafka-acls", *command.split())
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def kafka(line: Line) -> Iterator[SecuredCluster]:
    """A broker that denies what is not allowed; the rights are those of the documentation but for CREATE."""
    with SecuredCluster(line=line) as cluster:
        *rights, _create = COMMANDS
        for command in rights:
            run(cluster, command)
        yield cluster


@pytest.fixture(scope="module")
def working(kafka: SecuredCluster) -> Pipeline:
    """The pipeline with all rights of the documentation, after it has done something."""
    with start(kafka, "detector") as detector:
        wait_for_error(detector, "topic queueing.transactions does not exist, and there is no permission for CREATE")
    run(kafka, COMMANDS[-1])
    pipeline = Pipeline.of_compose(kafka.bootstrap_servers)
    with start(kafka, "detector") as detector:
        detector.wait_for("rate=")
        with pipeline.service("generator", **kafka.environ("generator"), TRANSACTIONS_LIMIT="100") as generator:
            assert generator.wait() == 0
        pipeline.drain()
        assert detector.end() == 0
    return pipeline


def test_the_rights_are_enough(working: Pipeline) -> None:
    """What the generator has written is in the output topics, which the detector has created."""
    assert sum(len(working.read(topic)) for topic in working.outputs) == 100


@pytest.mark.parametrize(
    ("user", "kind", "name", "operation", "words"),
    [
        ("generator", ResourceType.TOPIC, "queueing.transactions", "WRITE", "DESCRIBE on the topic"),
        ("detector", ResourceType.TOPIC, "queueing.transactions", "READ", "DESCRIBE on the topic"),
        ("detector", ResourceType.TOPIC, "streaming.transactions.fraud", "WRITE", "DESCRIBE on the topic"),
        (
            "detector",
            ResourceType.TOPIC,
            "streaming.transactions.fraud",
            "DESCRIBE_CONFIGS",
            "DESCRIBE_CONFIGS on the topic",
        ),
        ("detector", ResourceType.GROUP, "fraud-detector", "READ", "READ on the group"),
        ("detector", ResourceType.TRANSACTIONAL_ID, "fraud-detector-", "WRITE", "WRITE on the transactional id"),
    ],
)
def test_each_right_is_needed(
    kafka: SecuredCluster, working: Pipeline, user: str, kind: ResourceType, name: str, operation: str, words: str
) -> None:
    """Without it the service ends with exit code 1, and a line that names it."""
    pattern = ACLResourcePatternType.PREFIXED if name.endswith("-") else ACLResourcePatternType.LITERAL
    right = (f"User:{user}", "*", ACLOperation[operation], ACLPermissionType.ALLOW)
    with working.admin() as admin:
        ((_, taken, _),) = admin.delete_acls([ACLFilter(*right, ResourcePatternFilter(kind, name, pattern))])
        assert len(taken) == 1
        try:
            with start(kafka, user) as service:
                wait_for_error(service, f"no permission for {words} {name}")
        finally:
            admin.create_acls([ACL(*right, ResourcePattern(kind, name, pattern))])


# --- the other programs, by compose/users.sh ---

NAMES = {
    "TRANSACTIONS_TOPIC": "queueing.transactions",
    "FRAUD_TOPIC": "streaming.transactions.fraud",
    "DEAD_LETTER_TOPIC": "streaming.transactions.dead-letter",
    "CANDIDATES_TOPIC": "streaming.smurfing.candidates",
    "ALERTS_TOPIC": "streaming.alerts",
    "CONSUMER_GROUP": "fraud-detector",
}
"""What docker-compose.yml calls them."""


def given(user: str) -> list[ACL]:
    """Return the rights that compose/users.sh gives a user."""
    script = (ROOT / "compose/users.sh").read_text().replace("\\\n", " ")
    script = script.replace("${OUTPUT_TOPICS// / --topic }", " --topic ".join(Pipeline.of_compose("").outputs))
    parser = argparse.ArgumentParser()
    for name in ("operation", "topic", "group", "transactional-id"):
        parser.add_argument(f"--{name}", action="append", default=[])
    parser.add_argument("--resource-pattern-type", default="literal")
    found = []
    for line in re.findall(rf"^kafka acls --add --allow-principal User:{user} (.*)$", script, re.M):
        words = parser.parse_args(shlex.split(Template(line).substitute(NAMES)))
        pattern = ACLResourcePatternType[words.resource_pattern_type.upper()]
        kinds = {
            ResourceType.TOPIC: words.topic,
            ResourceType.GROUP: words.group,
            ResourceType.TRANSACTIONAL_ID: words.transactional_id,
        }
        for kind, names in kinds.items():
            for name, operation in ((n, o) for n in names for o in words.operation):
                allowed = ACLOperation[re.sub(r"(?<!^)([A-Z])", r"_\1", operation).upper()]
                found.append(
                    ACL(f"User:{user}", "*", allowed, ACLPermissionType.ALLOW, ResourcePattern(kind, name, pattern))
                )
    return found


def of(right: ACL) -> tuple[str, str, ACLOperation, ACLPermissionType, ResourcePattern]:
    """Return what a filter needs to find this right alone."""
    return right.principal, right.host, right.operation, right.permission_type, right.resource_pattern


def start_by_users_sh(kafka: SecuredCluster, user: str) -> Restarted:
    """Start a service of ALERTS=1, as the user of its name, which takes nobody's place."""
    group = {"smurfing": "smurfing-detector", "alerter": "alerter"}[user]
    own = {"CONSUMER_GROUP": group, "TRANSACTIONAL_ID": f"{group}-{uuid4()}"}
    return Pipeline.of_compose("").restarted(user, **kafka.environ(user), **NAMES | own)


@pytest.fixture(scope="module")
def everything(kafka: SecuredCluster, working: Pipeline) -> Iterator[Pipeline]:
    """The pipeline with the services of ALERTS=1 at work on it, and every user of compose/users.sh."""
    rights = [right for user in USERS for right in given(user)]
    creating = [right for right in rights if right.operation is ACLOperation.CREATE and "smurfing" in right.principal]
    with working.admin() as admin:
        admin.create_acls([right for right in rights if right not in creating])
        for right, other in (creating, creating[::-1]):
            admin.create_acls([other])
            with start_by_users_sh(kafka, "smurfing") as smurfing:
                name = right.resource_pattern.resource_name
                wait_for_error(smurfing, f"topic {name} does not exist, and there is no permission for CREATE")
            # It may have been created meanwhile.
            admin.delete_topics({other.resource_pattern.resource_name} & set(admin.list_topics()))
            admin.delete_acls([ACLFilter(*of(other))])
        admin.create_acls(creating)
    with (
        start(kafka, "detector"),
        start_by_users_sh(kafka, "smurfing") as smurfing,
        start_by_users_sh(kafka, "alerter") as alerter,
    ):
        smurfing.wait_for("rate=")
        alerter.wait_for("Starting with")
        yield working


def program(kafka: SecuredCluster, user: str) -> tuple[int, str]:
    """Run a program that ends by itself, as the user of its name, and return its exit code and what it prints."""
    command = {"attack": ["-m", "demo.attack"], "redrive": ["-m", "redrive.app"]}[user]
    more = (
        {**NAMES, "WRITE": "1", "CONSUMER_GROUP": "", "TRANSACTIONAL_ID": "fraud-redrive"} if user == "redrive" else {}
    )
    variables = {**surroundings(), **kafka.environ(user), **more}
    ended = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=variables, capture_output=True, text=True, timeout=240, check=False
    )
    return ended.returncode, ended.stdout + ended.stderr


def observer(kafka: SecuredCluster) -> Observer:
    """Return what the page and `make watch` look with, as the user dashboard."""
    return Observer(Pipeline.from_env(Environment(kafka.environ("dashboard"))), from_start=False)


def fails(kafka: SecuredCluster) -> bool:
    """Look once, as the page does, and return whether a permission is missing."""
    try:
        with closing(observer(kafka)) as watching:
            watching.poll(0.5)
            watching.lag_now()
    except AuthorizationError:
        return True
    return False


def test_every_user_can_do_its_work(kafka: SecuredCluster, everything: Pipeline) -> None:
    """A ring is found and told, a dead letter goes back, and the page sees both."""
    with closing(observer(kafka)) as watching:
        code, printed = program(kafka, "attack")
        assert code == 0, printed
        assert "The alerter has passed it on." in printed
        everything.write([Record(b"not JSON")])
        everything.drain()
        code, printed = program(kafka, "redrive")
        assert code == 0, printed
        assert "redriven=1" in printed
        wait_until(lambda: watching.poll(0.5) or len(watching.newest["dead_letter"]) > 1, 120)
        wait_until(lambda: watching.poll(0.5) or bool(watching.newest["alerts"]), 120)
        wait_until(lambda: watching.poll(0.5) or {group.lag for group in watching.groups.values()} == {0}, 120)


@pytest.fixture(scope="module")
def letters(everything: Pipeline) -> None:
    """Dead letters to redrive, one of them by reference."""
    everything.write([Record(b"not JSON"), Record(b"too large" * 200_000)], compression_type="gzip")
    everything.drain()


OTHERS = [
    pytest.param(user, right, id=f"{user}-{right.operation.name}-{right.resource_pattern.resource_name}")
    for user in ("smurfing", "alerter", "dashboard", "attack", "redrive")
    for right in given(user)
    if right.operation is not ACLOperation.CREATE  # above, as it is needed but once
]


@pytest.mark.usefixtures("letters")
@pytest.mark.parametrize(("user", "right"), OTHERS)
def test_what_it_does_without_a_right(kafka: SecuredCluster, everything: Pipeline, user: str, right: ACL) -> None:
    """It does not do its work, and ends with an error."""
    name = right.resource_pattern.resource_name
    with everything.admin() as admin:
        ((_, taken, _),) = admin.delete_acls([ACLFilter(*of(right))])
        assert len(taken) == 1
        try:
            if user == "dashboard":
                wait_until(lambda: fails(kafka), 60)  # a broker learns of it a moment later
            elif user in ("smurfing", "alerter"):
                with start_by_users_sh(kafka, user) as service:
                    wait_for_error(service, "no permission for ")
                    assert name in service.log.partition("no permission for ")[2].splitlines()[0]
            else:
                code, printed = program(kafka, user)
                assert code == 1, printed
                assert "Traceback" not in printed
        finally:
            admin.create_acls([right])
