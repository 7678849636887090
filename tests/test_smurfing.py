"""The smurfing detector on a real broker: what is a candidate, what is an alert, and what the topics are like."""

import json
import subprocess
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from kafka import TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType

import raw
from embedded import records
from embedded.pipeline import ROOT, Pipeline
from embedded.records import Record
from embedded.service import Service, service_command, surroundings, wait_until
from harness import NoName, memory_peak_mb, transaction
from raw import wire

MINUTE = 60_000
SCHEMA = Draft202012Validator(json.loads((ROOT / "docs/alert.schema.json").read_text()))


@pytest.mark.parametrize(
    ("variable", "value", "remedy"),
    [
        ("FRAUD_TOPIC", "", "such as streaming.transactions.fraud"),
        ("ALERTS_TOPIC", "frauds", "give each its own"),
        ("SMURFING_AMOUNT", "899", "a whole number from 900 on"),
        ("SMURFING_SOURCES", "1", "a whole number from 2 to 9999"),
        ("SMURFING_HOURS", "0", "a whole number from 1 to 9999"),
        ("ALERT_AMOUNT", "many", "a number above 0, such as 10000"),
    ],
)
def test_bad_configuration(variable: str, value: str, remedy: str) -> None:
    """Exit code 2, and one line that says what to change."""
    environ = {**surroundings(), "KAFKA_BROKER_URL": "localhost:1", "FRAUD_TOPIC": "frauds", variable: value}
    ended = subprocess.run(
        service_command("smurfing"), cwd=ROOT, env=environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert remedy in ended.stderr


class Smurfing:
    """Topics of its own, and detectors of smurfing that read and write them."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline, self.frauds = pipeline, pipeline.fraud
        self.candidates, self.alerts = f"{pipeline.name}.candidates", f"{pipeline.name}.alerts"
        pipeline.create(self.frauds)

    def start(self, **more: str) -> Service:
        """Start a detector; to be used in a `with` block."""
        topics = {"CANDIDATES_TOPIC": self.candidates, "ALERTS_TOPIC": self.alerts}
        return Service("smurfing", self.pipeline.environ("detector", **topics, **more))

    def write(self, *written: Record) -> None:
        """Write frauds."""
        records.write(self.pipeline.broker_url, self.frauds, written)

    def told(self) -> list[dict[str, Any]]:
        """Return the alerts, each as docs/alert.schema.json has it."""
        alerts = [json.loads(record.value or b"") for record in self.pipeline.read(self.alerts)]
        assert all(map(SCHEMA.is_valid, alerts)), alerts
        return alerts

    def configs(self) -> dict[str, Any]:
        """Return the configuration of the candidates topic."""
        with self.pipeline.admin() as admin:
            found = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, self.candidates)])
        return {name: config["value"] for name, config in found["topic"][self.candidates].items()}


@pytest.fixture
def smurfing(pipeline: Pipeline) -> Smurfing:
    """Topics of its own."""
    return Smurfing(pipeline)


def ring(
    target: str, count: int, amount: float = 1000, prefix: str = "a", start: int = 0, **members: object
) -> list[Record]:
    """Return transfers from so many accounts to one, a minute between them, that end now."""
    now = int(time.time() * 1000) - 60 * MINUTE
    return [
        Record(transaction(amount, source=f"{prefix}{n}", target=target, **members), timestamp=now + n * MINUTE)
        for n in range(start, start + count)
    ]


def test_the_tutorials_example(smurfing: Smurfing, tmp_path: Path) -> None:
    """50 accounts raise an alert and 49 do not; a candidate is the receiver, the currency, the source and the time."""
    written = [*ring("ring", 50), *ring("harmless", 49, currency="usd"), *ring("other", 50, 1000.01)]
    heartbeat = tmp_path / "heartbeat"
    before = time.time() * 1000
    with smurfing.start(HEARTBEAT_FILE=str(heartbeat)) as detector:
        smurfing.write(*written)
        wait_until(lambda: smurfing.pipeline.count(smurfing.alerts) > 0, 120, lambda: detector.log)
        detector.wait_for("frauds=149 candidates=99 alerts=1 lag=0")
        wait_until(lambda: heartbeat.stat().st_mtime * 1000 > before, 120, lambda: detector.log)
        assert detector.stop() == 0
    assert [r._replace(offset=None) for r in smurfing.pipeline.read(smurfing.candidates)] == [
        *(Record(f"EUR a{n}".encode(), b"ring", timestamp=r.timestamp) for n, r in enumerate(written[:50])),
        *(Record(f"USD a{n}".encode(), b"harmless", timestamp=r.timestamp) for n, r in enumerate(written[50:99])),
    ]
    (record,) = smurfing.pipeline.read(smurfing.alerts)
    assert record.key == b"ring"
    assert before <= (record.timestamp or 0)  # it is news, whatever times it is about
    alert = json.loads(record.value or b"")
    assert len(alert.pop("id")) == 32
    assert alert == {
        "rule": "smurfing",
        "target": "ring",
        "sources": 50,
        "sum": 50_000,
        "first": written[0].timestamp,
        "last": written[49].timestamp,
        "currency": "EUR",
    }
    configs = smurfing.configs()
    assert configs["retention.ms"] == str(48 * 60 * MINUTE)
    assert configs["retention.bytes"] == "-1"


@pytest.mark.long
def test_large_frauds(smurfing: Smurfing) -> None:
    """From ALERT_AMOUNT on each gets an alert, in the order of the frauds; of a candidate besides."""
    amounts = [999.99, 1000, 10**400, 900, 1e308]
    frauds = [Record(transaction(amount, source=f"a{n}"), timestamp=n + 1) for n, amount in enumerate(amounts)]
    long = Record(transaction(5000, source="x" * 100_000, target="\ud800"), timestamp=9)
    with smurfing.start(ALERT_AMOUNT="1000") as detector:
        smurfing.write(*frauds, Record(b"no fraud"), long)
        detector.wait_for("frauds=7 candidates=1 alerts=4 lag=0")
        assert detector.stop() == 0
    common = {"rule": "amount", "target": "bob", "currency": "EUR"}
    *others, last = smurfing.told()
    assert others == [
        {"id": f"fraud-0-{n}", "source": f"a{n}", "amount": amounts[n], "time": n + 1, **common} for n in (1, 2, 4)
    ]
    assert last["source"] == f"sha256:{sha256(b'x' * 100_000).hexdigest()}"
    assert last["target"] == "\ud800"
    assert [record.key for record in smurfing.pipeline.read(smurfing.alerts)] == [b"bob"] * 3 + [b"\xed\xa0\x80"]


@pytest.mark.long
def test_a_candidate_is_small(smurfing: Smurfing) -> None:
    """However large the fraud, less than 600 bytes are kept of it; the ring is found after a restart as before it."""
    fat = [
        record._replace(headers=(("h", b"x" * 100_000),))
        for record in ring("t" * 256, 49, prefix="s" * 253, note="x" * 200_000)
    ]
    with smurfing.start() as detector:
        smurfing.write(*fat[:25])
        detector.wait_for("frauds=25 candidates=25 alerts=0 lag=0", 240)
        assert detector.stop() == 0
    with smurfing.start() as detector:
        smurfing.write(*fat[25:], *ring("t" * 256, 1, prefix="last"))
        detector.wait_for("frauds=25 candidates=25 alerts=1 lag=0", 240)  # what is replayed is not counted again
        assert detector.stop() == 0
    with wire(smurfing.pipeline.broker_url) as broker:
        stored = sum(map(len, broker.fetch(smurfing.candidates)))
    assert stored < 50 * 600
    assert "a ring that began earlier" not in detector.log


@pytest.mark.long
def test_candidates_of_the_version_before(smurfing: Smurfing) -> None:
    """Copies of frauds, as they were up to version 0.2.0, count as well; what nobody of ours has written does not."""
    old = [record._replace(key=b"bob") for record in ring("bob", 30)]
    odd = [b"EUR ", b"eur a", b"EURa", b"EUR " + b"a" * 257, b"{", b"", None, transaction(1000.5, source="odd")]
    with smurfing.start() as detector:
        detector.wait_for("rate=")
        foreign = [Record(b"EUR a", key) for key in (None, b"", b"\xff", b"b" * 257)]
        records.write(
            smurfing.pipeline.broker_url, smurfing.candidates, [*old, *(Record(v, b"bob") for v in odd), *foreign]
        )
        smurfing.write(*ring("bob", 19, start=30))
        detector.wait_for("frauds=19 candidates=49 alerts=0 lag=0")
        smurfing.write(*ring("bob", 1, start=49))
        detector.wait_for("frauds=20 candidates=50 alerts=1 lag=0")
        assert detector.stop() == 0


@pytest.mark.parametrize(
    ("name", "value", "wanted"), [("retention.bytes", "1000", -1), ("retention.ms", "86400000", 48 * 60 * MINUTE)]
)
def test_a_candidates_topic_that_keeps_too_little(smurfing: Smurfing, name: str, value: str, wanted: int) -> None:
    """A topic that exists already is bad configuration then: exit code 2, and the command that mends it."""
    smurfing.pipeline.create(smurfing.candidates, **{name.replace(".", "_"): value})
    with smurfing.start() as detector:
        assert detector.wait() == 2
    assert (
        f"{smurfing.candidates} does not keep all that {smurfing.frauds} takes ({name}={value}): kafka-configs --alter"
        f" --topic {smurfing.candidates} --add-config {name}={wanted}"
    ) in detector.log


def test_a_candidates_topic_that_has_its_own_time(smurfing: Smurfing) -> None:
    """By the time at which candidates come, a backlog would be one window: bad configuration, too."""
    smurfing.pipeline.create(smurfing.candidates, message_timestamp_type="LogAppendTime")
    with smurfing.start() as detector:
        assert detector.wait() == 2
    assert f"--topic {smurfing.candidates} --add-config message.timestamp.type=CreateTime" in detector.log


@pytest.mark.long
def test_a_replay_that_begins_too_late(smurfing: Smurfing) -> None:
    """When candidates of an open window have been deleted, one line says that a ring may be missed."""
    with smurfing.start(SMURFING_HOURS="1") as detector:
        smurfing.write(
            *(record._replace(timestamp=(record.timestamp or 0) - 180 * MINUTE) for record in ring("old", 9))
        )
        smurfing.write(*ring("bob", 30))
        detector.wait_for("candidates=39 alerts=0 lag=0")
        assert detector.stop() == 0
    place = TopicPartition(smurfing.candidates, 0)
    for before, is_late in ((5, False), (20, True)):
        with smurfing.pipeline.admin() as admin:
            admin.delete_records({place: before})
        with smurfing.start(SMURFING_HOURS="1") as detector:
            smurfing.write(*ring("bob", 2, start=30))
            detector.wait_for("candidates=2 alerts=0 lag=0")
            assert detector.stop() == 0
        warning = (
            f"WARNING {smurfing.candidates}[0]: Kafka has deleted what was before offset {before}, and what is left"
        )
        assert detector.log.count(warning) == is_late


@pytest.mark.long
def test_a_fraud_that_is_large_as_a_record(smurfing: Smurfing) -> None:
    """60 MB compressed to a few kB, and header names that are no UTF-8, are no obstacle to what follows."""
    value = transaction(1000, note="x" * 60_000_000)
    with wire(smurfing.pipeline.broker_url) as broker:
        for codec in ("gzip", "zstd"):
            broker.produce(smurfing.frauds, raw.batch([(0, raw.content(value))], codec))
    with smurfing.start(ALERT_AMOUNT="5000") as detector:
        smurfing.write(Record(transaction(5000), headers=((NoName("?"), b"x"),)))
        detector.wait_for("frauds=3 candidates=0 alerts=1 lag=0")
        assert f"{smurfing.frauds}[0]: passed over offset 0: too large: 60," in detector.log
        assert memory_peak_mb(detector) < 200
        assert detector.stop() == 0
