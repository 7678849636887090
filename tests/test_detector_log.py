"""What the detector says of itself: nothing of what is in the records, and a heartbeat only while all is well."""

import itertools
import os
from pathlib import Path

import pytest
from kafka import KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType

from embedded import Cluster
from embedded.pipeline import Pipeline
from embedded.records import Record
from embedded.service import Restarted, Service, wait_until
from harness import transaction, wait_for_a_beat, wait_until_at_work
from raw import batch, content, wire

pytestmark = pytest.mark.long

MARKER = b"secret"
INVALID = MARKER + b"\xff\xfe" + MARKER


def set_limit(pipeline: Pipeline, topic: str, max_message_bytes: int) -> None:
    """Say how large a batch the topic takes."""
    with pipeline.admin() as admin:
        config = {"max.message.bytes": str(max_message_bytes)}
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, config)])


def assert_nothing_of_a_record(detector: Service | Restarted) -> None:
    """Look for the marker, as it is and as a list of bytes, in all that was printed."""
    log = detector.log.lower()
    assert MARKER.decode() not in log
    assert MARKER.hex() not in log
    assert "115, 101, 99, 114, 101, 116" not in log
    assert "traceback" not in log


def test_no_content_of_valid_and_invalid_records(pipeline: Pipeline) -> None:
    """Keys, values, header names and header values, be they well-formed or not, stay out of the log."""
    fields = (None, b"", MARKER, INVALID)
    values = (transaction(10, note="secret"), transaction(-1, source="secret"), *fields, b'{"secret": ', b"[" * 9999)
    headers = [(name, data) for name, data in itertools.product(fields[1:], fields)]
    records = [(1, content(value, key, headers)) for value in values for key in fields]
    with wire(pipeline.broker_url) as broker:
        for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
            broker.produce(pipeline.transactions, batch(records, codec))
    with pipeline.restarted("detector") as detector:
        pipeline.drain()
        assert detector.end() == 0
        assert_nothing_of_a_record(detector)


@pytest.mark.parametrize("value", [transaction(900, note="secret" * 20_000), INVALID * 10_000])
def test_no_content_of_a_record_that_is_too_large(pipeline: Pipeline, value: bytes) -> None:
    """Neither where the broker refuses it, nor where the detector refers to it instead."""
    pipeline.create(*pipeline.outputs, max_message_bytes="1000000")
    pipeline.write([Record(transaction())])
    with pipeline.service("detector") as detector:
        pipeline.drain()
        for topic in pipeline.outputs:
            set_limit(pipeline, topic, 20_000)  # it does not look again, so the broker refuses
        pipeline.write([Record(value, MARKER, (("secret", INVALID),))])
        assert detector.wait() == 1
        assert "MessageSizeTooLarge" in detector.log
        assert_nothing_of_a_record(detector)
    with pipeline.restarted("detector") as restarted:
        pipeline.drain()
        assert_nothing_of_a_record(restarted)
    (dead,) = pipeline.read(pipeline.dead_letter)
    assert (dead.key, dead.value, len(dead.headers)) == (None, None, 5)
    assert MARKER not in b"".join(data or b"" for _, data in dead.headers)


def test_the_heartbeat_tells_of_progress(pipeline: Pipeline, tmp_path: Path) -> None:
    """It beats while there is nothing to do, not while records wait that it cannot have, and again when they come."""
    heartbeat = tmp_path / "heartbeat"
    foreign = KafkaProducer(
        bootstrap_servers=pipeline.broker_url,
        transactional_id=f"{pipeline.name}-foreign",
        transaction_timeout_ms=600_000,
    )
    foreign.init_transactions()
    with pipeline.restarted("detector", HEARTBEAT_FILE=str(heartbeat)) as detector:
        wait_until(heartbeat.exists, 120)
        wait_for_a_beat(heartbeat, detector)
        foreign.begin_transaction()
        foreign.send(pipeline.transactions, transaction(), partition=0).get(60)
        detector.wait_for("waiting at offset 0")
        os.utime(heartbeat, (0, 0))
        waited = detector.log.count("waiting at offset 0")
        wait_until(lambda: detector.log.count("waiting at offset 0") >= waited + 2, 120, lambda: detector.log)
        assert heartbeat.stat().st_mtime == 0
        foreign.commit_transaction()
        wait_for_a_beat(heartbeat, detector)
        detector.check()
    foreign.close()


def test_an_idle_detector_notices_that_kafka_is_gone(tmp_path: Path) -> None:
    """It says so, without a heartbeat; and it goes on when Kafka is back."""
    heartbeat = tmp_path / "heartbeat"
    with Cluster() as cluster:
        pipeline = Pipeline(cluster.bootstrap_servers)
        pipeline.create(pipeline.transactions)
        with pipeline.restarted("detector", HEARTBEAT_FILE=str(heartbeat)) as detector:
            wait_until_at_work(pipeline)
            before = list(detector.exit_codes)
            cluster.brokers[0].kill()
            wait_until(lambda: "does not answer" in detector.log, 120, lambda: detector.log)
            os.utime(heartbeat, (0, 0))
            said = detector.log.count("does not answer")
            wait_until(lambda: detector.log.count("does not answer") > said, 120, lambda: detector.log)
            assert heartbeat.stat().st_mtime == 0
            assert detector.exit_codes == before
            cluster.brokers[0].start()
            wait_for_a_beat(heartbeat, detector)
            wait_until_at_work(pipeline)


def test_a_heartbeat_that_fails_later_stops_nothing(pipeline: Pipeline, tmp_path: Path) -> None:
    """A warning names the variable, the file and the reason; the records go on, and so does the heartbeat after it."""
    folder = tmp_path / "run"
    folder.mkdir()
    heartbeat = folder / "heartbeat"
    with pipeline.service("detector", HEARTBEAT_FILE=str(heartbeat)) as detector:
        detector.wait_for("Starting with")
        heartbeat.unlink()
        folder.rmdir()
        detector.wait_for(f"WARNING HEARTBEAT_FILE {heartbeat} cannot be written: No such file or directory")
        pipeline.write([Record(transaction())])
        pipeline.drain()
        folder.mkdir()
        wait_until(heartbeat.exists, 120)
        assert detector.stop() == 0
