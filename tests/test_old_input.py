"""Input as old brokers and compaction leave it: message sets before version 2, and offsets with gaps."""

from collections.abc import Iterator

import pytest
from kafka.record.legacy_records import LegacyRecordBatchBuilder

from embedded import KAFKA_3, Cluster, Line
from embedded.pipeline import Pipeline
from embedded.records import Record
from embedded.service import wait_until
from harness import transaction
from raw import wire

pytestmark = pytest.mark.guarantee

CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3}


@pytest.fixture(scope="module")
def old_cluster(line: Line) -> Iterator[Cluster]:
    """A broker that compacts at once, and keeps old formats as they are if it is of the line that knows them."""
    config = {"log.retention.ms": "-1", "log.cleaner.backoff.ms": "100"}
    if line is KAFKA_3:
        config["inter.broker.protocol.version"] = "2.8"
    with Cluster(config=config, line=line) as running:
        yield running


def message_set(magic: int, codec: int, values: list[bytes | None], time: int) -> bytes:
    """Return records in the format of this version, compressed into one message if there is a codec."""
    builder = LegacyRecordBatchBuilder(magic, codec, batch_size=10**9)
    for offset, value in enumerate(values):
        builder.append(offset, time if magic else None, b"key", value)
    return bytes(builder.build())


@pytest.mark.zookeeper  # Kafka 4 neither takes nor keeps them
@pytest.mark.parametrize(
    ("magic", "codec"),
    [(0, "none"), (0, "gzip"), (0, "snappy"), (1, "none"), (1, "gzip"), (1, "snappy"), (1, "lz4")],
)
def test_formats_before_version_2(old_cluster: Cluster, magic: int, codec: str) -> None:
    """Records of these formats are routed as others, with their timestamps; there are none in version 0."""
    pipeline = Pipeline(old_cluster.bootstrap_servers)
    pipeline.create(pipeline.transactions, message_format_version="0.9.0" if magic == 0 else "0.10.2")
    values = [transaction(10), b"not a transaction", transaction(900), None, transaction(10, note="é" * 100)]
    with wire(pipeline.broker_url) as broker:
        broker.produce(pipeline.transactions, message_set(magic, CODECS[codec], values, 1234))
        assert broker.format_version(pipeline.transactions) == magic
        with pipeline.restarted("detector") as detector:
            pipeline.drain()
            detector.check()
    time = 1234 if magic else -1
    expected = {
        pipeline.legit: [values[0], values[4]],
        pipeline.fraud: [values[2]],
        pipeline.dead_letter: [values[1], values[3]],
    }
    for topic, there in expected.items():
        found = [(r.value, r.key, r.timestamp) for r in pipeline.read(topic)]
        assert found == [(value, b"key", time) for value in there]


def test_a_compacted_input(old_cluster: Cluster) -> None:
    """Where compaction has left gaps between offsets, and batches with fewer records, what is left comes out."""
    pipeline = Pipeline(old_cluster.bootstrap_servers)
    pipeline.create(
        pipeline.transactions,
        cleanup_policy="compact",
        min_cleanable_dirty_ratio="0.001",
        segment_bytes="1048576",
        segment_ms="500",
        min_compaction_lag_ms="0",
    )
    for n in range(5):
        keys = [b"%d" % k for k in range(100)]
        pipeline.write([Record(transaction(10, n=n), key) for key in keys], linger_ms=1000)
    pipeline.write([Record(transaction(900), b"last")])

    def left() -> list[Record]:
        return pipeline.read(pipeline.transactions)

    wait_until(lambda: len(left()) < 400, 120, lambda: f"{len(left())} records")
    with pipeline.restarted("detector") as detector:
        pipeline.drain()
        detector.check()
    written = {(record.key, record.value) for record in left()}
    found = [(record.key, record.value) for topic in pipeline.outputs for record in pipeline.read(topic)]
    assert written <= set(found)
    assert len(found) == len(set(found)) < 500
