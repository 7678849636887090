"""Set-ups that people have: quotas, other members of the group, names that lead to several addresses or clusters."""

import os
import re
import socket
import subprocess
import sys
import threading
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest
import yaml
from kafka import KafkaConsumer
from kafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

from embedded import KAFKA_4, Cluster, Line
from embedded.brokers import HOST
from embedded.cluster import free_ports
from embedded.pipeline import ROOT, Pipeline
from embedded.records import Record
from embedded.service import SETTINGS, Service, wait_until
from harness import transaction, wait_for_error, wait_until_at_work
from service import connecting, refusal
from service.access import OURS, Access
from service.settings import ConfigurationError, Environment

pytestmark = pytest.mark.long

QUOTA = 20_000  # bytes a second
ANOTHER_HOST = "127.0.0.2"
ROOMS = ("generator", "detector", "smurfing", "alerter", "redrive", "exactly_once", "service")


@contextmanager
def quota(cluster: Cluster, name: str, limit: int) -> Iterator[None]:
    """Limit what everybody may do on the cluster, for the duration of the block."""

    def alter(option: str, value: str) -> None:
        done = cluster.tool(
            "kafka-configs", "--alter", "--entity-type", "users", "--entity-name", "ANONYMOUS", option, value
        )
        assert done.returncode == 0, done.stderr

    alter("--add-config", f"{name}={limit}")
    try:
        yield
    finally:  # others use the cluster as well
        alter("--delete-config", name)


def test_a_quota_on_what_is_written(cluster: Cluster, pipeline: Pipeline) -> None:
    """Both services go on, as fast as it allows, and one line each names it; nothing else is blamed."""
    pipeline.write([Record(transaction(note="x" * 1000)) for _ in range(300)])
    with quota(cluster, "producer_byte_rate", QUOTA):
        generator = pipeline.service("generator", TRANSACTIONS_LIMIT="3000", TRANSACTIONS_PER_SECOND="unlimited")
        with generator, pipeline.service("detector") as detector:
            assert generator.wait() == 0
            pipeline.drain(240)
            detector.check()
            for service in (generator, detector):
                (line,) = [line for line in service.log.splitlines() if " INFO " not in line]
                assert "WARNING Kafka holds this user or client back by the quota producer_byte_rate" in line
    assert len(pipeline.read(pipeline.legit)) + len(pipeline.read(pipeline.fraud)) == 3300


def test_a_member_with_another_assignor(pipeline: Pipeline) -> None:
    """The line names the group, and the variable for another one."""
    config = {"group_id": pipeline.name, "partition_assignment_strategy": [StickyPartitionAssignor]}
    with closing(KafkaConsumer(pipeline.transactions, bootstrap_servers=pipeline.broker_url, **config)) as other:
        wait_until(lambda: bool(other.poll(100) or other.assignment()), 120)
        with pipeline.restarted("detector") as detector:
            wait_for_error(detector, f"the group {pipeline.name} has another kind of member", "CONSUMER_GROUP")


# --- names and addresses ---


class Elsewhere:
    """A pipeline whose services find the brokers at addresses that can be changed while they run."""

    def __init__(self, pipeline: Pipeline, file: Path) -> None:
        self.pipeline, self.file = pipeline, file

    def lead_to(self, *addresses: str) -> None:
        """Change where every name leads."""
        self.file.write_text(" ".join(addresses))

    def service(self, name: str, **more: str) -> Service:
        """Start a service."""
        command = (sys.executable, "tests/elsewhere/app.py", f"{name}.app")
        environ = self.pipeline.environ(name, ADDRESSES=str(self.file), **more)
        environ["KAFKA_BROKER_URL"] = environ["KAFKA_BROKER_URL"].replace(HOST, "broker.test")
        return Service(name, environ, command)


@pytest.fixture
def elsewhere(pipeline: Pipeline, tmp_path: Path) -> Elsewhere:
    """A pipeline of its own."""
    return Elsewhere(pipeline, tmp_path / "addresses")


@contextmanager
def nobody(kind: str, port: int) -> Iterator[None]:
    """Listen at another address of this machine, and answer nobody: no connection, or nothing that comes by it."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((ANOTHER_HOST, port))
        listener.listen(0 if kind == "black hole" else 100)
        for _ in range(3 if kind == "black hole" else 0):  # its queue is full then, and the system drops what comes
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex((ANOTHER_HOST, port))
        yield


@pytest.mark.parametrize("kind", ["black hole", "silent"])
def test_a_name_with_an_address_where_nobody_answers(elsewhere: Elsewhere, kind: str) -> None:
    """Though it is the first one, both services get to the broker by the second."""
    elsewhere.lead_to(ANOTHER_HOST, HOST)
    pipeline = elsewhere.pipeline
    with nobody(kind, int(pipeline.broker_url.split(":")[1])), elsewhere.service("detector") as detector:
        with elsewhere.service("generator", TRANSACTIONS_LIMIT="100") as generator:
            assert generator.wait() == 0
        pipeline.drain()
        assert detector.stop() == 0
        assert " ERROR " not in detector.log


@pytest.fixture(scope="module")
def stranger(clusters: Callable[[Line], Cluster]) -> Iterator[Cluster]:
    """Another cluster, at the port of the shared one, and another address of this machine."""
    port, own = clusters(KAFKA_4).brokers[0].port, free_ports(1)[0]
    config = {
        "listeners": f"OWN://{HOST}:{own},THERE://{ANOTHER_HOST}:{port}",
        "listener.security.protocol.map": "OWN:PLAINTEXT,THERE:PLAINTEXT",
        "inter.broker.listener.name": "OWN",
    }
    with Cluster(port=own, config=config) as cluster:
        yield cluster


TWO = "Kafka failed, ending: KAFKA_BROKER_URL leads to two clusters, "


def test_a_name_that_leads_to_two_clusters(elsewhere: Elsewhere, stranger: Cluster) -> None:
    """Every service ends at its start, with one line that has both ids and addresses."""
    elsewhere.lead_to(HOST, ANOTHER_HOST)
    for name in ("generator", "detector"):
        with elsewhere.service(name) as service:
            assert service.wait() == 1
            (line,) = [line for line in service.log.splitlines() if " INFO " not in line]
            assert TWO in line
            assert ANOTHER_HOST in line
            assert HOST in line


def test_a_connection_that_leads_to_another_cluster(elsewhere: Elsewhere, stranger: Cluster, cluster: Cluster) -> None:
    """Both services end before anything of theirs gets there."""
    elsewhere.lead_to(HOST)
    pipeline = elsewhere.pipeline
    there = Pipeline(stranger.bootstrap_servers, name=pipeline.name)
    there.create(there.transactions)
    with elsewhere.service("generator") as generator, elsewhere.service("detector") as detector:
        wait_until_at_work(pipeline)
        generator.wait_for("delivered=")
        elsewhere.lead_to(ANOTHER_HOST)
        cluster.brokers[0].restart()
        for service in (generator, detector):
            assert service.wait() == 1
            (line,) = [line for line in service.log.splitlines() if " ERROR " in line]
            assert TWO in line
    assert there.read(there.transactions) == []


@pytest.mark.parametrize("cluster", ["kraft", "three-brokers"])
def test_each_volume_gets_a_cluster_id_of_its_own(cluster: str, tmp_path: Path) -> None:
    """At the first start of a composition; all its brokers have the same, and keep what is in a volume."""

    def start(folder: str, number: int) -> str:
        data, shared = tmp_path / f"{folder}-{number}", tmp_path / folder
        data.mkdir(exist_ok=True)
        shared.mkdir(exist_ok=True)
        places = {"/var/lib/kafka/data": str(data), "/etc/kafka/secrets": str(shared), "$$": "$"}
        script = command[-1].replace("/etc/confluent/docker/run", "printenv CLUSTER_ID")
        for place, instead in places.items():
            script = script.replace(place, instead)
        environ = {"PATH": os.environ["PATH"], "HOSTNAME": f"{number}"}
        id = subprocess.run([*command[:-1], script], env=environ, capture_output=True, text=True, check=True).stdout
        assert len(urlsafe_b64decode(f"{id.strip()}==")) == 16
        (data / "meta.properties").write_text(f"version=1\ncluster.id={id.strip()}\n")
        return id

    services = yaml.safe_load((ROOT / f"compose/{cluster}.yml").read_text())["services"]
    brokers = [service for service in services.values() if "command" in service]
    (command,) = {tuple(broker["command"]) for broker in brokers}
    assert not any("CLUSTER_ID" in broker["environment"] for broker in brokers)
    ids = {start("one", number) for number in range(len(brokers))}
    assert len(ids) == 1
    assert {start("one", 0)} == ids
    (tmp_path / "one" / "cluster-id").unlink(missing_ok=True)  # as before there was such a volume
    assert {start("one", number) for number in range(len(brokers))} == ids
    assert start("two", 0) not in ids


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL"])
def test_an_answer_that_comes_a_byte_at_a_time(monkeypatch: pytest.MonkeyPatch, protocol: str) -> None:
    """Whoever asks why Kafka refuses a client does not wait for its end."""
    monkeypatch.setattr(refusal, "ADDRESS_SECONDS", 1)
    has_ended = threading.Event()

    def drip() -> None:
        while not has_ended.is_set():
            with suppress(OSError), listener.accept()[0] as connection:
                for byte in b"\x16\x03\x03\x3f\xff" if protocol == "SSL" else b"\0\0\x3f\xff":
                    connection.send(bytes([byte]))
                while not has_ended.wait(0.1):
                    connection.send(b"\0")

    with socket.create_server((HOST, 0)) as listener:
        threading.Thread(target=drip, daemon=True).start()
        address, begin = f"{HOST}:{listener.getsockname()[1]}", time.monotonic()
        access = Access(security_protocol=protocol)
        assert refusal.refusal([address] * 3, access) == ""
        assert time.monotonic() - begin < 60
        has_ended.set()


# --- the environment ---


def test_a_shell_with_settings_for_another_kafka(monkeypatch: pytest.MonkeyPatch, pipeline: Pipeline) -> None:
    """The demo, the tests and the benchmarks start services with the settings that they give, and no others."""
    theirs = {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_JAAS_CONFIG": "x", "METRICS_PORT": "1"}
    for name, value in theirs.items():
        monkeypatch.setenv(name, value)
    with pipeline.service("generator", TRANSACTIONS_LIMIT="10") as generator:
        assert generator.wait() == 0


def test_all_settings_are_known() -> None:
    """The pattern of what such a shell may have covers each variable that a service reads."""
    sources = [file.read_text() for room in ROOMS for file in (ROOT / room).glob("*.py")]
    read = r'\b(?:text|name|topic|secret|number|moment|read|get|read_secret)\((?:\w+, )?"([A-Z][A-Z_]+)"'
    found = {name for source in sources for name in re.findall(read, source)}
    assert {"TRANSACTIONS_TOPIC", "METRICS_PORT", "SINCE", "ALERT_URLS", "SMURFING_HOURS"} <= found
    assert [name for name in (*found, *OURS) if not SETTINGS.fullmatch(name)] == []


@pytest.mark.parametrize("is_container", [True, False])
def test_localhost_in_a_container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_container: bool) -> None:
    """A remark says that it is the container itself."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr(connecting, "CONTAINER_FILES", [tmp_path if is_container else tmp_path / "absent"])
    for address in ("localhost:9092", "127.0.0.1:9092", "[::1]:9092"):
        cluster = Environment({"KAFKA_BROKER_URL": f"broker:9092, {address}"}).cluster()
        assert (f"{address} is this container itself" in connecting.remark(cluster)) == is_container
    assert connecting.remark(Environment({"KAFKA_BROKER_URL": "broker:9092"}).cluster()) == ""


def test_spaces_between_addresses() -> None:
    """They are no part of the addresses."""
    cluster = Environment({"KAFKA_BROKER_URL": " a:9092, b:9092 "}).cluster()
    assert cluster.addresses == ["a:9092", "b:9092"]


def test_the_name_that_others_have_for_the_addresses() -> None:
    """It is of no use, and the line says so."""
    with pytest.raises(ConfigurationError, match=r"KAFKA_BROKER_URL is not set \(KAFKA_BOOTSTRAP_SERVERS is of no use"):
        Environment({"KAFKA_BOOTSTRAP_SERVERS": "broker:9092"}).cluster()
