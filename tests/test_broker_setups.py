"""Brokers that are set up in a way that the detector cannot work with: the line says what, and what to change."""

import os
import signal
import socket
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

from embedded import Cluster, Line
from embedded.cluster import free_ports
from embedded.pipeline import Pipeline
from embedded.records import Record
from embedded.service import wait_until
from harness import transaction, wait_for_error, wait_for_shares, wait_until_at_work

pytestmark = pytest.mark.long

TOPIC, GROUP, ID, CLUSTER = (
    ResourceType.TOPIC,
    ResourceType.GROUP,
    ResourceType.TRANSACTIONAL_ID,
    ResourceType.CLUSTER,
)


UNREACHABLE = ["127.0.0.1:1", "no-such-host.invalid:9092"]


def has_ipv6() -> bool:
    """Return whether this machine has IPv6."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def ports() -> list[int]:
    """Ports of the guarded broker: the usual one, two that advertise what cannot be reached, and one on IPv6."""
    return free_ports(4)


@pytest.fixture(scope="module")
def guarded(line: Line, ports: list[int]) -> Iterator[Cluster]:
    """A broker that looks at permissions; what none is set for, everybody may do. It has several listeners."""
    listens = [f"127.0.0.1:{port}" for port in ports[:3]]
    advertises = [listens[0], *UNREACHABLE]
    if has_ipv6():
        listens.append(f"[::1]:{ports[3]}")
        advertises.append(listens[3])
    names = ["PLAINTEXT", "WRONG", "UNKNOWN", "IPV6"][: len(listens)]
    config = {
        "authorizer.class.name": line.authorizer,
        "allow.everyone.if.no.acl.found": "true",
        "listeners": ",".join(f"{name}://{address}" for name, address in zip(names, listens, strict=True)),
        "advertised.listeners": ",".join(
            f"{name}://{address}" for name, address in zip(names, advertises, strict=True)
        ),
        "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in names),
        "inter.broker.listener.name": "PLAINTEXT",
    }
    with Cluster(port=ports[0], config=config, line=line) as cluster:
        yield cluster


def set_permissions(pipeline: Pipeline, kind: ResourceType, name: str, denied: str) -> None:
    """Allow all operations on a resource but one."""
    acls = [
        ACL("User:ANONYMOUS", "*", operation, permission, ResourcePattern(kind, name))
        for operation, permission in (
            (ACLOperation.ALL, ACLPermissionType.ALLOW),
            (ACLOperation[denied], ACLPermissionType.DENY),
        )
    ]
    with pipeline.admin() as admin:
        assert not admin.create_acls(acls)["failed"]


def allow_all(pipeline: Pipeline, kind: ResourceType, name: str) -> None:
    """Take the restrictions of a resource away."""
    pattern = ResourcePatternFilter(kind, name, ACLResourcePatternType.LITERAL)
    with pipeline.admin() as admin:
        admin.delete_acls([ACLFilter(None, None, ACLOperation.ANY, ACLPermissionType.ANY, pattern)])


def restricted(pipeline: Pipeline, kind: ResourceType, topic: str) -> str:
    """Return the name of the topic, or of the pipeline's group or transactional id."""
    return {TOPIC: f"{pipeline.name}.{topic}", GROUP: pipeline.name, ID: f"{pipeline.name}-id"}[kind]


CASES = [
    (TOPIC, "fraud", "DESCRIBE", "DESCRIBE"),
    (TOPIC, "fraud", "DESCRIBE_CONFIGS", "DESCRIBE_CONFIGS"),
    (TOPIC, "dead-letter", "WRITE", "WRITE"),
    (TOPIC, "transactions", "READ", "READ"),
    (TOPIC, "transactions", "DESCRIBE", "DESCRIBE"),
    (GROUP, "", "READ", "READ"),
    (GROUP, "", "DESCRIBE", "READ"),  # READ holds DESCRIBE
    (ID, "", "WRITE", "WRITE"),
    (ID, "", "DESCRIBE", "WRITE"),
]


@pytest.mark.parametrize(("kind", "topic", "denied", "named"), CASES)
def test_a_permission_that_is_missing_at_the_start(
    guarded: Cluster, kind: ResourceType, topic: str, denied: str, named: str
) -> None:
    """One line names it, and what it is for; with the permission, it works."""
    pipeline = Pipeline(guarded.bootstrap_servers)
    pipeline.create(pipeline.transactions, *pipeline.outputs)
    pipeline.write([Record(transaction())])
    name = restricted(pipeline, kind, topic)
    set_permissions(pipeline, kind, name, denied)
    with pipeline.restarted("detector", TRANSACTIONAL_ID=f"{pipeline.name}-id") as detector:
        wait_for_error(detector, f"no permission for {named} on ", name)
    allow_all(pipeline, kind, name)
    with pipeline.restarted("detector", TRANSACTIONAL_ID=f"{pipeline.name}-id"):
        pipeline.drain()


# What an output's DESCRIBE and DESCRIBE_CONFIGS are for, and the transactional id's DESCRIBE, is known by then.
@pytest.mark.parametrize(
    ("kind", "topic", "denied", "named"),
    [case for case in CASES if case[1] != "fraud" and case[::2] != (ID, "DESCRIBE")],
)
def test_a_permission_that_is_taken_away_while_it_runs(
    guarded: Cluster, kind: ResourceType, topic: str, denied: str, named: str
) -> None:
    """The same line, and nothing is lost."""
    pipeline = Pipeline(guarded.bootstrap_servers)
    pipeline.create(pipeline.transactions)
    name = restricted(pipeline, kind, topic)
    records = [Record(value) for value in (transaction(10), transaction(900), b"dead")]
    with pipeline.restarted("detector", TRANSACTIONAL_ID=f"{pipeline.name}-id") as detector:
        wait_for_shares(pipeline, 1)
        os.kill(detector.pid, signal.SIGSTOP)  # so that it comes upon the records and the denial at once
        pipeline.write(records)
        set_permissions(pipeline, kind, name, denied)
        os.kill(detector.pid, signal.SIGCONT)
        wait_for_error(detector, f"no permission for {named} on ", name)
    allow_all(pipeline, kind, name)
    with pipeline.restarted("detector", TRANSACTIONAL_ID=f"{pipeline.name}-id"):
        pipeline.drain()
    assert [len(pipeline.read(topic)) for topic in (pipeline.legit, pipeline.fraud, pipeline.dead_letter)] == [1, 1, 1]


def test_no_permission_to_add_partitions(guarded: Cluster) -> None:
    """Where the outputs lack partitions that the input has got: exit code 2, and the command; after it, all is well."""
    pipeline = Pipeline(guarded.bootstrap_servers)
    pipeline.create(pipeline.transactions)
    two = Pipeline(pipeline.broker_url, 2, pipeline.name)
    with pipeline.service("detector") as detector, pipeline.admin() as admin:
        wait_until_at_work(pipeline)
        set_permissions(pipeline, TOPIC, pipeline.fraud, "ALTER")
        admin.create_partitions({pipeline.transactions: 2})
        two.write([Record(transaction(), partition=1)])
        assert detector.wait() == 2
        (line,) = [line for line in detector.log.splitlines() if " ERROR " in line]
        remedy = f"kafka-topics --alter --topic {pipeline.fraud} --partitions 2"
        assert f"{pipeline.fraud} has 1 partitions, fewer than the 2 of {pipeline.transactions}: {remedy}" in line
        assert line.endswith(remedy)
    allow_all(pipeline, TOPIC, pipeline.fraud)
    done = guarded.tool("kafka-topics", *remedy.split()[1:])
    assert done.returncode == 0, done.stderr
    set_permissions(pipeline, TOPIC, pipeline.fraud, "ALTER")
    with two.service("detector"):
        two.drain()
    assert [record.partition for record in two.read(two.legit)] == [1]


@pytest.mark.parametrize("missing", ["transactions", "legit"])
def test_no_permission_to_create_a_topic(guarded: Cluster, missing: str) -> None:
    """The line names the topic that does not exist; created by somebody else, all is well."""
    pipeline = Pipeline(guarded.bootstrap_servers, partitions=4)  # as many as a topic gets that the detector creates
    topics = [pipeline.transactions, *pipeline.outputs]
    topics.remove(f"{pipeline.name}.{missing}")
    pipeline.create(*topics)
    places = ((CLUSTER, "kafka-cluster"), (TOPIC, f"{pipeline.name}.{missing}"))
    for kind, name in places:
        set_permissions(pipeline, kind, name, "CREATE")
    with pipeline.restarted("detector") as detector:
        wait_for_error(detector, f"{pipeline.name}.{missing} does not exist", "no permission for CREATE")
    for kind, name in places:
        allow_all(pipeline, kind, name)
    with pipeline.restarted("detector"):
        wait_for_shares(pipeline, 4)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("transaction.state.log.replication.factor", ["__transaction_state"]),
        ("offsets.topic.replication.factor", ["__consumer_offsets"]),
        ("default.replication.factor", ["transactions does not exist", "replication factor of 3", "1 broker"]),
    ],
)
def test_a_broker_set_up_for_three(line: Line, setting: str, words: list[str]) -> None:
    """Where Kafka cannot create a topic for want of brokers, the line names it, and for an internal one the setting."""
    with Cluster(config={setting: "3"}, line=line) as cluster:
        pipeline = Pipeline(cluster.bootstrap_servers)
        with pipeline.restarted("detector") as detector:
            wait_for_error(detector, *words, *([setting] if words[0].startswith("__") else []))


@pytest.mark.parametrize("advertised", UNREACHABLE)
def test_an_advertised_address_that_does_not_answer(guarded: Cluster, ports: list[int], advertised: str) -> None:
    """The line names it, and the setting to look at."""
    address = f"127.0.0.1:{ports[1 + UNREACHABLE.index(advertised)]}"
    with Pipeline(address).restarted("detector") as detector:
        wait_for_error(
            detector, f"Kafka sends its clients to {advertised}, which cannot be reached", "advertised.listeners"
        )


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_an_ipv6_address(guarded: Cluster, ports: list[int]) -> None:
    """It is used as it stands in the variable, in brackets."""
    Pipeline(guarded.bootstrap_servers).create("made-elsewhere")
    with Pipeline(f"[::1]:{ports[3]}", transactions="made-elsewhere").restarted("detector") as detector:
        wait_until(lambda: "lag=0" in detector.log, 120, lambda: detector.log)
        assert detector.end() == 0
