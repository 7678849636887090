"""What compose/ has beside the tutorial's two compositions: each is brought up from nothing by its `make up`."""

import json
import os
import re
import signal
import urllib.request
from contextlib import closing
from itertools import pairwise

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError

from compositions.engine import (
    HOST_PORT,
    NETWORK,
    ROOT,
    SERVICES,
    V1,
    V2,
    containers,
    log,
    passes_its_check,
    run,
    service,
)
from compositions.stack import Stack
from embedded.pipeline import Pipeline
from embedded.secure import USERS
from embedded.service import wait_until
from harness import PLAIN_LINE
from service.settings import Environment

KRAFT, SECURE, THREE_BROKERS = (V2, "KRAFT=1"), (V2, "SECURE=1"), (V2, "THREE_BROKERS=1")
SECURE_KRAFT = (V1, "KRAFT=1 SECURE=1 MONITORING=1 ALERTS=1")
EVERYTHING = (V2, "THREE_BROKERS=1 SECURE=1 MONITORING=1 ALERTS=1")
BROKERS = ("broker", "broker-2", "broker-3")

SCAN = """
import socket, ssl
METADATA = bytes.fromhex("0000000e 0003 0000 00000001 ffff 00000000")
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

def answer(connection):
    try:
        connection.sendall(METADATA)
        return connection.recv(100).hex()
    except OSError:
        return ""

for port in range(1, 65536):
    try:
        plain = socket.create_connection(("broker", port), 5)
    except OSError:
        continue
    secured = context.wrap_socket(socket.create_connection(("broker", port), 5))
    print(port, answer(plain) or "-", answer(secured) or "-")
"""
"""Asks each port that is open for the brokers and topics, without and with TLS, and prints what comes back."""


def overlays(*params: tuple[str, str]) -> pytest.MarkDecorator:
    """Let a test have each of these bring-ups."""
    ids = [variables.replace("=1", "").replace(" ", "-").lower() for _, variables in params]
    return pytest.mark.parametrize("stack", params, ids=ids, indirect=True)


def tool(command: str) -> str:
    """Run a tool of Kafka's in the broker's container."""
    (broker,) = containers("broker")
    name, arguments = command.split(maxsplit=1)
    return run(f"docker exec {broker['Id']} {name} --bootstrap-server localhost:9092 {arguments}")


@overlays(KRAFT, SECURE_KRAFT, SECURE, THREE_BROKERS, EVERYTHING)
def test_make_looks_into_it(stack: Stack) -> None:
    """`make topics`, `consume` and `ps` work with the same variables; nothing but the brokers and services runs on."""
    pipeline = Pipeline.of_compose("")
    topics = stack.make("topics")
    copies = 3 if "THREE" in stack.variables else 1
    for topic in (pipeline.transactions, *pipeline.outputs):
        assert re.search(
            rf"^Topic: {re.escape(topic)}\s.*PartitionCount: 4\s+ReplicationFactor: {copies}\s", topics, re.M
        )
    assert len(re.findall(rf"^{pipeline.name}\s+{re.escape(pipeline.transactions)}\s", topics, re.M)) == 4, topics
    consumed = stack.make(f"consume TOPIC={pipeline.fraud}", quiet=False, after="| grep --max-count 1 amount; true")
    (fraud,) = [line for line in consumed.splitlines() if line.startswith("{")]  # newer tools say something first
    assert json.loads(fraud)["amount"] >= 900
    brokers = BROKERS[:copies] if "KRAFT" in stack.variables or copies == 3 else ("broker", "zookeeper")
    services = [*SERVICES, *(("smurfing", "alerter") if "ALERTS" in stack.variables else ())]
    services += ("dashboard", "prometheus") if "MONITORING" in stack.variables else ()
    expected = sorted([*brokers, *services])
    assert sorted(service(c) for c in containers() if c["State"]["Running"]) == expected
    listed = stack.make("ps")
    for name in expected:
        assert re.search(rf"[-_]{name}[-_]1 ", listed)
    wait_until(lambda: all(map(passes_its_check, containers(*expected))), 240)
    # None since the first records were through: before that, three brokers that start at once may keep one waiting.
    assert {service(c): c["RestartCount"] for c in containers(*SERVICES)} == {n: stack.restarts[n] for n in SERVICES}


@overlays(KRAFT, THREE_BROKERS)
def test_no_cluster_is_started_over_another(stack: Stack) -> None:
    """While the broker of one cluster is there, make refuses to start another's; each has volumes of its own."""
    refused = run("make kafka", code=2)
    assert refused.startswith("The broker of another cluster is here: 'make down' first.")
    volumes = {mount["Name"].split("_", 1)[1] for c in containers() for mount in c["Mounts"]}
    three = {"cluster-id", *(f"broker-{n}-data" for n in (1, 2, 3))}
    assert volumes == ({"kraft-data"} if "KRAFT" in stack.variables else three)


@overlays(KRAFT)
def test_kraft_routes_each_record_once_across_down_and_up(stack: Stack) -> None:
    """After `make down` and `make up` the detector goes on where it was: each record is in one output, once."""
    pipeline = Pipeline.of_compose(f"localhost:{HOST_PORT}")
    before = pipeline.count(pipeline.transactions)
    stack.make("down")
    assert containers() == []
    stack.make("up")
    stack.wait_at_work()
    assert pipeline.count(pipeline.transactions) > before > 0
    stack.assert_each_in_one_output(pipeline)


# --- secured ---


def passwords() -> list[str]:
    """Return the passwords that `make certs` has made."""
    return [file.read_text().strip() for file in (ROOT / "compose" / "secrets").glob("*-password")]


def rights(user: str) -> dict[str, set[str]]:
    """Return what Kafka allows the user on each topic that it shows to him."""
    folder = ROOT / "compose" / "secrets"
    client = KafkaAdminClient(
        bootstrap_servers=f"localhost:{HOST_PORT}",
        security_protocol="SASL_SSL",
        sasl_mechanism="SCRAM-SHA-512",
        sasl_plain_username=user,
        sasl_plain_password=(folder / f"{user}-password").read_text().strip(),
        ssl_cafile=str(folder / "ca.crt"),
    )
    with closing(client) as admin:
        return {topic["name"]: set(topic["authorized_operations"]) for topic in admin.describe_topics()}


@overlays(SECURE_KRAFT, SECURE, EVERYTHING)
def test_each_user_has_the_rights_that_it_needs(stack: Stack) -> None:
    """The generator can write one topic, and the detector read it and write its outputs; neither sees another topic."""
    pipeline = Pipeline.of_compose("")
    output = {"CREATE", "DESCRIBE", "DESCRIBE_CONFIGS", "WRITE"}
    assert rights("generator") == {pipeline.transactions: {"DESCRIBE", "WRITE"}}
    assert rights("detector") == {
        pipeline.transactions: {"DESCRIBE", "READ"},
        **dict.fromkeys(pipeline.outputs, output),
    }
    assert rights("smurfing").get(pipeline.fraud) == {"DESCRIBE", "READ"}


@overlays(SECURE_KRAFT)
def test_a_ring_is_found_and_told_on_the_secured_cluster(stack: Stack) -> None:
    """The services of ALERTS=1 find what a person writes with a tool of Kafka's, and tell it."""
    stack.wait_for("alerter", "Starting with")
    (broker,) = containers("broker")
    ring = [{"source": f"a{n}", "target": "launderer", "amount": 1000, "currency": "EUR"} for n in range(50)]
    lines = "\n".join(map(json.dumps, ring))
    producer = "kafka-console-producer --bootstrap-server localhost:9092 --topic queueing.transactions"
    run(f"docker exec -i {broker['Id']} {producer} <<'END'\n{lines}\nEND")
    stack.wait_for("alerter", "told Smurfing: 50 accounts sent 50,000 EUR to launderer", 240)
    alerts = {"streaming.alerts": {"CREATE", "DESCRIBE", "DESCRIBE_CONFIGS", "WRITE"}}
    assert {topic: allowed for topic, allowed in rights("smurfing").items() if topic in alerts} == alerts
    assert rights("alerter") == {"streaming.alerts": {"DESCRIBE", "READ"}}


@overlays(EVERYTHING)
def test_all_that_looks_and_writes_has_a_user(stack: Stack) -> None:
    """`make attack`, `make watch`, the page and `make redrive`, on three brokers that ask for a password."""
    assert re.search("^.* told Smurfing: 50 accounts sent 50,000 EUR", stack.make("attack", quiet=False), re.M)
    seen = run(f"timeout --signal INT 90 make {stack.variables} watch | grep --max-count 1 'fraud=.*%'; true")
    assert re.search(PLAIN_LINE, seen), seen
    (broker,) = containers("broker")
    producer = "kafka-console-producer --bootstrap-server localhost:9092 --topic queueing.transactions"
    run(f"docker exec -i {broker['Id']} {producer} <<'END'\nnot a transaction\nEND")
    wait_until(lambda: bool(re.search("redriven=[1-9]", stack.make("redrive WRITE=1", quiet=False))), 240)
    with urllib.request.urlopen("http://localhost:8080/health", timeout=60) as answer:
        assert answer.status == 200


@overlays(SECURE, EVERYTHING)
def test_a_port_scan_gets_nowhere(stack: Stack) -> None:
    """A container on the network finds the two secured ports alone, and these say nothing to who has no password."""
    (detector,) = containers("detector")
    found = run(f"docker run --rm --network {NETWORK} --entrypoint python {detector['Image']} -c '{SCAN}'")
    ports = [line.split() for line in found.splitlines()]
    assert [port for port, _, _ in ports] == ["9093", "29092"]
    for _, plain, secured in ports:
        assert re.fullmatch("-|15.*", plain)  # closed, or TLS's alert before it
        assert secured == "-"
    with pytest.raises(KafkaError):
        KafkaAdminClient(bootstrap_servers=f"localhost:{HOST_PORT}", bootstrap_timeout_ms=3000)


@overlays(SECURE)
def test_no_password_is_shown(stack: Stack) -> None:
    """Neither `docker inspect` nor any log has a password."""
    shown = json.dumps(containers()) + "".join(map(log, containers()))
    assert "SCRAM-SHA-512" in shown
    assert len(passwords()) == len(USERS)
    assert [password for password in passwords() if password in shown] == []


@overlays(SECURE)
def test_secured_records_reach_one_output_each(stack: Stack) -> None:
    """What the generator has delivered is in the outputs, once, as the user of the page sees them."""
    secrets = ROOT / "compose" / "secrets"
    environ = {
        "KAFKA_BROKER_URL": f"localhost:{HOST_PORT}",
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
        "KAFKA_SASL_PLAIN_USERNAME": "dashboard",
        "KAFKA_SASL_PLAIN_PASSWORD_FILE": str(secrets / "dashboard-password"),
        "KAFKA_SSL_CAFILE": str(secrets / "ca.crt"),
    }
    stack.assert_each_in_one_output(Pipeline.from_env(Environment(environ)))
    (generator,) = containers("generator")
    assert re.search(r"delivered=[1-9]\d* not_delivered=0", log(generator))
    stack.make("up")


# --- three brokers ---


def controller() -> str:
    """Return the broker that leads the controllers."""
    (leader,) = re.findall(r"LeaderId:\s+(\d)", tool("kafka-metadata-quorum describe --status"))
    return BROKERS[int(leader) - 1]


def pauses(pipeline: Pipeline) -> list[float]:
    """Return for each partition of the legit topic the longest pause between two records' append times, in seconds."""
    times: dict[int, list[int]] = {}
    for record in pipeline.read(pipeline.legit):
        times.setdefault(record.partition, []).append(record.timestamp or 0)
    return [max(b - a for a, b in pairwise(all_)) / 1000 for all_ in times.values()]


@overlays(THREE_BROKERS)
def test_a_broker_killed_under_load_loses_nothing(stack: Stack) -> None:
    """Its death stops the outputs for a while, whichever it is; the first is the controllers' leader."""
    pipeline = Pipeline.of_compose(",".join(f"localhost:{HOST_PORT + n}" for n in range(3)))
    legit = ConfigResource(ConfigResourceType.TOPIC, pipeline.legit, {"message.timestamp.type": "LogAppendTime"})
    with pipeline.admin() as admin:
        admin.alter_configs([legit])
    leader = controller()
    others = [name for name in BROKERS if name != leader]
    for name in (leader, *(others if os.environ.get("ROUNDS") else [])):  # all three in the long mode
        (broker,) = containers(name)
        os.kill(broker["State"]["Pid"], signal.SIGKILL)
        wait_until(lambda b=broker, n=name: containers(n)[0]["RestartCount"] == b["RestartCount"] + 1, 240)
        stack.make("kafka")  # waits for the broker
        wait_until(lambda: "Topic:" not in tool("kafka-topics --describe --under-replicated-partitions"), 120)
    written = pipeline.count(pipeline.fraud)
    wait_until(lambda: pipeline.count(pipeline.fraud) > written + 100, 240)
    stack.assert_each_in_one_output(pipeline, timestamp=None)
    # How long it was is for docs/clusters.md: it depends on the machine. All of it was waited for above.
    longest = pauses(pipeline)
    print(f"The outputs stood still for {max(longest):.1f} s")
    assert len(longest) == 4
    assert max(longest) > 1
