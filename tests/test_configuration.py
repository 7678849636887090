"""Bad configuration ends either service at once: exit code 2 and one line with variable, value and remedy."""

import subprocess
from pathlib import Path

import pytest
import yaml

from detector.app import branching
from embedded import pipeline
from embedded.service import service_command, surroundings
from service.settings import Environment

ROOT = Path(__file__).parent.parent
OUTPUTS = {
    "LEGIT_TOPIC": "streaming.transactions.legit",
    "FRAUD_TOPIC": "streaming.transactions.fraud",
    "DEAD_LETTER_TOPIC": "streaming.transactions.dead-letter",
}
GENERATOR = {
    "KAFKA_BROKER_URL": "localhost:1",
    "TRANSACTIONS_TOPIC": "queueing.transactions",
    "TRANSACTIONS_PER_SECOND": "1000",
}
DETECTOR = {
    "KAFKA_BROKER_URL": "localhost:1",
    "TRANSACTIONS_TOPIC": "queueing.transactions",
    **OUTPUTS,
}
BROKERS = [
    ("broker", "host:port"),
    ("broker:", "host:port"),
    ("kafka://broker:9092", "host:port"),
    (":9092", "host:port"),
]
PORTS = [
    ("broker:0", "from 1 to 65535"),
    ("broker:65536", "from 1 to 65535"),
    ("broker:9092,broker:99999", "from 1 to 65535"),
    ("[::1]:0", "from 1 to 65535"),
    ("::1:9092", "host:port"),
]
HEARTBEATS = [
    ("/no/such/folder/heartbeat", "(No such file or directory): give it a file in a folder that exists"),
    ("/dev/null/heartbeat", "(Not a directory): give it a file in a folder that exists"),
    ("/proc/heartbeat", "give it a file in a folder that exists"),
    ("/", "(Is a directory): give it a file"),
]
TOPICS = [
    ("a topic", "name of a topic"),
    ("..", "name of a topic"),
    ("x" * 250, "name of a topic"),
    ("ö", "name of a topic"),
]
RATES = [
    (value, "number above 0")
    for value in ("abc", "-1", "0", "0.0", "nan", "inf", "1,000", "1 000", "1e", "0e3", "1e400", "1e-400")
]
CASES = [
    *[("generator", name, "", "not set") for name in GENERATOR],
    *[("detector", name, "", "not set") for name in DETECTOR],
    *[(service, "KAFKA_BROKER_URL", *case) for service in ("generator", "detector") for case in BROKERS],
    *[(service, "KAFKA_BROKER_URL", *case) for service in ("generator", "detector") for case in PORTS],
    *[(service, "HEARTBEAT_FILE", *case) for service in ("generator", "detector") for case in HEARTBEATS],
    *[("generator", "TRANSACTIONS_TOPIC", *case) for case in TOPICS],
    *[("detector", name, *TOPICS[0]) for name in DETECTOR if name.endswith("_TOPIC")],
    *[("generator", "TRANSACTIONS_PER_SECOND", *case) for case in RATES],
    *[("generator", "TRANSACTIONS_LIMIT", value, "whole number above 0") for value in ("0", "-1", "1.5", "many")],
    *[(service, "LOG_FORMAT", "xml", "text or json") for service in ("generator", "detector")],
    ("detector", "LEGIT_TOPIC", "streaming.transactions.fraud", "each its own"),
    ("detector", "DEAD_LETTER_TOPIC", "queueing.transactions", "each its own"),
    ("detector", "CONSUMER_GROUP", "fraud detector", "without spaces"),
    ("detector", "TRANSACTIONAL_ID", "fraud detector", "without spaces"),
]


@pytest.mark.long
@pytest.mark.parametrize(("service", "variable", "value", "remedy"), CASES)
def test_bad_configuration(service: str, variable: str, value: str, remedy: str) -> None:
    """The line names the variable (or the topic that is there twice), its value, and what would be right.

    Not the value of an address: it may hold credentials.
    """
    environ = {**surroundings(), **(GENERATOR if service == "generator" else DETECTOR), variable: value}
    ended = subprocess.run(
        service_command(service),
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert remedy in ended.stderr
    assert value in ended.stderr or variable == "KAFKA_BROKER_URL"
    if "its own" not in remedy:
        assert variable in ended.stderr


def test_every_route_has_its_variable() -> None:
    """The detector's routes are those of the compositions, of the users' rights, and of what the demo runs."""
    job = branching(Environment(DETECTOR))
    assert job.routes == dict(zip(pipeline.ROUTES, OUTPUTS.values(), strict=True))
    for file, service in (("docker-compose.yml", "detector"), ("compose/monitoring.yml", "dashboard")):
        assert set(OUTPUTS) <= set(yaml.safe_load((ROOT / file).read_text())["services"][service]["environment"])
    users = yaml.safe_load((ROOT / "compose/secure.kafka.yml").read_text())["services"]["users"]["environment"]
    assert users["OUTPUT_TOPICS"].split() == [f"${{{name}:-{topic}}}" for name, topic in OUTPUTS.items()]
