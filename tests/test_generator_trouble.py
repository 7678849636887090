"""The generator where Kafka, the network or the machine is not as it should be: one line says what to change."""

import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType

from embedded import KAFKA_4, Cluster
from embedded.cluster import free_ports
from embedded.pipeline import Pipeline
from embedded.service import Service, wait_until

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def ports() -> list[int]:
    """Ports of the strict broker: the usual one, one on IPv6, one whose advertised address is wrong."""
    return free_ports(3)


@pytest.fixture(scope="module")
def strict(ports: list[int]) -> Iterator[Cluster]:
    """A broker that checks permissions, creates no topic by itself, and has three listeners."""
    usual, ipv6, wrong = ports
    config = {
        "auto.create.topics.enable": "false",
        "authorizer.class.name": KAFKA_4.authorizer,
        "allow.everyone.if.no.acl.found": "true",
        "listeners": f"PLAINTEXT://127.0.0.1:{usual},IPV6://[::1]:{ipv6},WRONG://127.0.0.1:{wrong}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{usual},IPV6://[::1]:{ipv6},WRONG://127.0.0.1:1",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,IPV6:PLAINTEXT,WRONG:PLAINTEXT",
    }
    with Cluster(port=usual, config=config) as cluster:
        yield cluster


@pytest.fixture
def refusing(strict: Cluster) -> Pipeline:
    """A transactions topic of its own on the strict broker."""
    pipeline = Pipeline(strict.bootstrap_servers)
    pipeline.create(pipeline.transactions)
    return pipeline


def deny(pipeline: Pipeline, operation: ACLOperation) -> None:
    """Deny every client an operation on the transactions topic, and allow the others."""
    topic = ResourcePattern(ResourceType.TOPIC, pipeline.transactions)
    rules = ((ACLOperation.ALL, ACLPermissionType.ALLOW), (operation, ACLPermissionType.DENY))
    with pipeline.admin() as admin:
        failed = admin.create_acls([ACL("User:*", "*", each, kind, topic) for each, kind in rules])["failed"]
    assert not failed


def errors(generator: Service) -> list[str]:
    """Return the lines with an error; a traceback is never among what it prints."""
    assert "Traceback" not in generator.log
    return [line for line in generator.log.splitlines() if " ERROR " in line]


def shows_life(heartbeat: Path) -> bool:
    """Return whether the heartbeat file has been touched since it was created or made to look old."""
    return heartbeat.exists() and time.time() - heartbeat.stat().st_mtime < 3600


@contextmanager
def paused(cluster: Cluster) -> Iterator[None]:
    """Freeze the broker within the block, and wait until it is fully back: it may have lost its place in ZooKeeper."""
    cluster.brokers[0].pause()
    try:
        yield
    finally:
        cluster.brokers[0].resume()
        create = ("kafka-topics", "--create", "--if-not-exists", "--topic", "after-a-pause")
        wait_until(lambda: cluster.tool(*create).returncode == 0, 120)


# --- permissions ---


@pytest.mark.parametrize("rate", ["1000", "unlimited"])
@pytest.mark.parametrize("operation", [ACLOperation.DESCRIBE, ACLOperation.WRITE])
def test_a_missing_permission_ends_it(refusing: Pipeline, operation: ACLOperation, rate: str) -> None:
    """One line names the topic and the permission, and the exit code is 1."""
    deny(refusing, operation)
    with refusing.service("generator", TRANSACTIONS_PER_SECOND=rate) as generator:
        assert generator.wait() == 1
        (line,) = errors(generator)
    assert f"no permission for {operation.name} on the topic {refusing.transactions}" in line


def test_a_permission_withdrawn_ends_it(refusing: Pipeline) -> None:
    """It does not go on as if nothing had happened when it may no longer write."""
    with refusing.service("generator") as generator:
        wait_until(lambda: refusing.count(refusing.transactions) > 0, 120)
        deny(refusing, ACLOperation.WRITE)
        assert generator.wait() == 1
        (line,) = errors(generator)
    assert f"no permission for WRITE on the topic {refusing.transactions}" in line


# --- addresses ---


def test_an_ipv6_address(refusing: Pipeline, ports: list[int]) -> None:
    """[::1]:port connects."""
    address = f"[::1]:{ports[1]}"
    with refusing.service("generator", KAFKA_BROKER_URL=address, TRANSACTIONS_LIMIT="10") as generator:
        assert generator.wait() == 0
    assert len(refusing.read(refusing.transactions)) == 10


def test_one_of_several_addresses_is_enough(refusing: Pipeline) -> None:
    """Of several addresses, those where nothing answers do no harm."""
    addresses = f"127.0.0.1:1,{refusing.broker_url}"
    with refusing.service("generator", KAFKA_BROKER_URL=addresses, TRANSACTIONS_LIMIT="10") as generator:
        assert generator.wait() == 0
    assert len(refusing.read(refusing.transactions)) == 10


def test_an_advertised_address_where_nothing_answers(refusing: Pipeline, ports: list[int], tmp_path: Path) -> None:
    """The log names that address and the broker's setting; there is no sign of life, and a signal ends it at once."""
    address, heartbeat = f"127.0.0.1:{ports[2]}", tmp_path / "heartbeat"
    with refusing.service("generator", KAFKA_BROKER_URL=address, HEARTBEAT_FILE=str(heartbeat)) as generator:
        generator.wait_for("rate=0.0/s")
        assert "Kafka sends its clients to 127.0.0.1:1, which cannot be reached" in generator.log
        assert "advertised.listeners" in generator.log
        assert not shows_life(heartbeat)
        assert generator.stop() == 0
        assert errors(generator) == []


# --- signs of life, and signals ---


def test_it_waits_for_a_topic_that_is_not_there(strict: Cluster, tmp_path: Path) -> None:
    """A warning names the topic; there is no sign of life until it is created; a signal ends the waiting."""
    pipeline, heartbeat = Pipeline(strict.bootstrap_servers), tmp_path / "heartbeat"
    with (
        pipeline.service("generator") as waiting,
        pipeline.service("generator", HEARTBEAT_FILE=str(heartbeat)) as other,
    ):
        waiting.wait_for(f"does not know the topic {pipeline.transactions} yet")
        assert waiting.stop() == 0
        other.wait_for("rate=0.0/s")
        assert not shows_life(heartbeat)
        pipeline.create(pipeline.transactions)
        wait_until(lambda: shows_life(heartbeat), 120)
        assert other.stop() == 0
    assert pipeline.read(pipeline.transactions)


def test_no_sign_of_life_while_nothing_is_delivered(cluster: Cluster, pipeline: Pipeline, tmp_path: Path) -> None:
    """The heartbeat stops with the broker and comes back with it, however many lines are logged meanwhile."""
    heartbeat = tmp_path / "heartbeat"
    with pipeline.service("generator", HEARTBEAT_FILE=str(heartbeat)) as generator:
        wait_until(lambda: shows_life(heartbeat), 120)
        with paused(cluster):
            lines = generator.log.count("rate=0.0/s")
            wait_until(lambda: generator.log.count("rate=0.0/s") > lines, 120)
            os.utime(heartbeat, (0, 0))
            lines = generator.log.count("rate=0.0/s")
            wait_until(lambda: generator.log.count("rate=0.0/s") >= lines + 2, 120)
            assert not shows_life(heartbeat)
        wait_until(lambda: shows_life(heartbeat), 120)
        assert generator.stop() == 0


def test_a_sign_of_life_while_there_is_nothing_to_do(pipeline: Pipeline, tmp_path: Path) -> None:
    """At one transaction an hour nothing is delivered for long, and that is as it should be."""
    heartbeat = tmp_path / "heartbeat"
    with pipeline.service("generator", TRANSACTIONS_PER_SECOND="0.0003", HEARTBEAT_FILE=str(heartbeat)) as generator:
        wait_until(lambda: shows_life(heartbeat), 120)
        assert generator.stop() == 0


def test_a_heartbeat_that_can_no_longer_be_written(pipeline: Pipeline, tmp_path: Path) -> None:
    """A warning names the file and the reason; the transactions go on."""
    folder = tmp_path / "folder"
    folder.mkdir()
    with pipeline.service("generator", HEARTBEAT_FILE=str(folder / "heartbeat")) as generator:
        generator.wait_for("Starting with")
        shutil.rmtree(folder)
        generator.wait_for(f"HEARTBEAT_FILE {folder}/heartbeat cannot be written: No such file or directory")
        warned = len(re.findall("rate=", generator.log))
        wait_until(lambda: len(re.findall(r"rate=[^0]", generator.log)) > warned, 120)
        assert generator.stop() == 0


def test_a_signal_ends_it_while_kafka_does_not_answer(cluster: Cluster, pipeline: Pipeline) -> None:
    """It waits some seconds for what is in flight, says how many were not delivered, and ends with exit code 1."""
    with pipeline.service("generator", TRANSACTIONS_PER_SECOND="unlimited") as generator:
        wait_until(lambda: pipeline.count(pipeline.transactions) > 0, 120)
        with paused(cluster):
            generator.wait_for("rate=0.0/s")
            assert generator.stop() == 1
        assert errors(generator) == []
        assert re.search(r"not_delivered=[1-9]\d*\n$", generator.log)  # the last line


# --- whatever the client raises ---


def test_what_listens_is_not_kafka() -> None:
    """A server that closes each connection, a name that is none: it goes on trying, and there is never a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        pipeline = Pipeline(f"127.0.0.1:{port},{'x' * 64}:9092,no.such.host.invalid:9092")
        with pipeline.service("generator") as generator:
            server.accept()[0].close()
            generator.wait_for("No Kafka at")
            assert generator.stop() == 0
            assert errors(generator) == []
