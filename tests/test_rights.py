"""The rights in docs/security.md: with them all works, and without one of them the service says which."""

import re
from collections.abc import Iterator

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

from embedded import Line
from embedded.pipeline import ROOT, Pipeline
from embedded.secure import SecuredCluster
from embedded.service import Restarted
from harness import wait_for_error

pytestmark = pytest.mark.guarantee

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
