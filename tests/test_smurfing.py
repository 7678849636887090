"""The smurfing detector on a real broker: what is a candidate, what is an alert, and what the topics are like."""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from kafka.admin import ConfigResource, ConfigResourceType

from embedded import records
from embedded.pipeline import ROOT, Pipeline
from embedded.records import Record
from embedded.service import Service, service_command, wait_until
from harness import transaction

MINUTE = 60_000


@pytest.mark.parametrize(
    ("variable", "value", "remedy"),
    [
        ("FRAUD_TOPIC", "", "such as streaming.transactions.fraud"),
        ("ALERTS_TOPIC", "frauds", "give each its own"),
        ("SMURFING_AMOUNT", "899", "a whole number from 900 on"),
        ("SMURFING_SOURCES", "1", "a whole number from 2 to 9999"),
        ("SMURFING_HOURS", "0", "a whole number from 1 to 9999"),
    ],
)
def test_bad_configuration(variable: str, value: str, remedy: str) -> None:
    """Exit code 2, and one line that says what to change."""
    environ = {**os.environ, "KAFKA_BROKER_URL": "localhost:1", "FRAUD_TOPIC": "frauds", variable: value}
    ended = subprocess.run(
        service_command("smurfing"), cwd=ROOT, env=environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert remedy in ended.stderr


def test_the_tutorials_example(pipeline: Pipeline, tmp_path: Path) -> None:
    """50 accounts raise an alert and 49 do not; a candidate is the record as it came, with its target as the key."""
    candidates, alerts = f"{pipeline.name}.candidates", f"{pipeline.name}.alerts"
    now = int(time.time() * 1000)
    headers = (("trace", b"1"), ("trace", b"\xff"))
    written = [
        Record(transaction(amount, source=f"a{n}", target=target), b"key", headers, now + n * MINUTE)
        for target, count, amount in (("ring", 50, 1000), ("harmless", 49, 1000), ("other", 50, 1000.01))
        for n in range(count)
    ]
    pipeline.create(pipeline.fraud)
    heartbeat = tmp_path / "heartbeat"
    environ = pipeline.environ(
        "detector", CANDIDATES_TOPIC=candidates, ALERTS_TOPIC=alerts, HEARTBEAT_FILE=str(heartbeat)
    )
    before = time.time() * 1000
    with Service("smurfing", environ) as detector:
        records.write(pipeline.broker_url, pipeline.fraud, written)
        wait_until(lambda: pipeline.count(alerts) > 0, 120, lambda: detector.log)
        detector.wait_for("frauds=149 candidates=99 alerts=1 lag=0")
        wait_until(lambda: heartbeat.stat().st_mtime * 1000 > before, 120, lambda: detector.log)
        assert detector.stop() == 0
    assert [r._replace(offset=None, partition=0) for r in pipeline.read(candidates)] == [
        record._replace(key=json.loads(record.value or b"")["target"].encode()) for record in written[:99]
    ]
    (record,) = pipeline.read(alerts)
    assert record.key == b"ring"
    assert before <= (record.timestamp or 0)  # it is news, whatever times it is about
    alert = json.loads(record.value or b"")
    assert len(alert.pop("id")) == 32
    assert alert == {
        "rule": "smurfing",
        "target": "ring",
        "sources": 50,
        "sum": 50_000,
        "first": now,
        "last": now + 49 * MINUTE,
        "currency": "EUR",
    }
    with pipeline.admin() as admin:
        configs = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, candidates)])["topic"][candidates]
    assert configs["retention.ms"]["value"] == str(48 * 60 * MINUTE)
