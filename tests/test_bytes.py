"""Byte for byte: what the detector writes, compared with its input as raw batches on a real broker."""

import itertools

import pytest
from kafka import KafkaConsumer, OffsetAndMetadata, TopicPartition

from embedded.pipeline import Pipeline
from embedded.records import Record
from exactly_once.varints import VARINT
from harness import memory_peak_mb, transaction
from raw import CODECS, batch, content, wire

HEADERS: dict[str, tuple[tuple[bytes, bytes | None], ...]] = {
    "none": (),
    "usual": ((b"a", b"1"), (b"a", b"2")),
    "null value": ((b"a", None), (b"b", b"")),
    "names that are not UTF-8": ((b"\xff\xfe", b"1"), (b"", b"\x00")),
    "many": tuple((b"%d" % n, b"x" * n) for n in range(200)),
}
VALUES = {"legit": transaction(10), "fraud": transaction(900), "dead_letter": b"not a transaction"}
ERRORS = 5
"""How many headers a dead letter has beyond its own."""


def dead(value: bytes | None, key: bytes | None, headers: tuple[tuple[bytes, bytes | None], ...]) -> bytes:
    """Return how a dead letter's content begins: all that came in, and the number of its headers."""
    plain = content(value, key)[:-1]
    return plain + VARINT[len(headers) + ERRORS] + content(value, key, headers)[len(plain + VARINT[len(headers)]) :]


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_with_every_kind_of_header(pipeline: Pipeline, codec: str) -> None:
    """Keys, values, headers and timestamps leave as they came, whatever the input is compressed with."""
    expected: dict[str, list[tuple[int, bytes]]] = {route: [] for route in VALUES}
    times, keys = (0, 1, 2**40, 5), (None, b"", b"\xffkey")
    with wire(pipeline.broker_url) as broker:
        for headers, (route, value) in itertools.product(HEADERS.values(), VALUES.items()):
            kinds = [(moment, key) for moment in times for key in keys]
            broker.produce(pipeline.transactions, batch([(t, content(value, key, headers)) for t, key in kinds], codec))
            form = dead if route == "dead_letter" else content
            expected[route] += [(moment, form(value, key, headers)) for moment, key in kinds]
        broker.produce(pipeline.transactions, batch([(7, content(None)), (8, content(b"", b"k"))], codec))
        expected["dead_letter"] += [(7, dead(None, None, ())), (8, dead(b"", b"k", ()))]
        with pipeline.restarted("detector") as detector:
            pipeline.drain()
            detector.check()
        assert broker.records(pipeline.legit) == expected["legit"]
        assert broker.records(pipeline.fraud) == expected["fraud"]
        for (moment, found), (written_at, begin) in zip(
            broker.records(pipeline.dead_letter), expected["dead_letter"], strict=True
        ):
            assert moment == written_at
            assert found.startswith(begin)


def test_timestamps_of_any_value(pipeline: Pipeline) -> None:
    """What the input's broker takes the outputs take too: the largest and smallest timestamps included."""
    times = [2**63 - 1, 0, -1, 1, 2**62, 2**63 - 2, 1_700_000_000_000]
    with wire(pipeline.broker_url) as broker:
        for moment in times:
            broker.produce(pipeline.transactions, batch([(moment, content(transaction(10)))]))
        broker.produce(pipeline.transactions, batch([(moment, content(transaction(10))) for moment in times]))
        with pipeline.restarted("detector") as detector:
            pipeline.drain()
            detector.check()
        assert [moment for moment, _ in broker.records(pipeline.legit)] == times + times


def test_log_append_time_is_passed_on(pipeline: Pipeline) -> None:
    """Where the input topic has LogAppendTime, its time is a record's timestamp, and the outputs get that."""
    own = Pipeline(pipeline.broker_url)
    own.create(own.transactions, message_timestamp_type="LogAppendTime")
    own.write([Record(transaction(10), timestamp=1), Record(b"x", timestamp=2)])
    with own.restarted("detector"):
        own.drain()
    appended = [record.timestamp for record in own.read(own.transactions)]
    assert min(appended) > 1_700_000_000_000
    assert [record.timestamp for record in own.read(own.legit) + own.read(own.dead_letter)] == appended


def test_a_position_in_the_middle_of_a_batch(pipeline: Pipeline) -> None:
    """Where a person has set the group's offset within a batch, exactly the records from there on come out."""
    with wire(pipeline.broker_url) as broker:
        values = [transaction(10, n=n) for n in range(100)]
        broker.produce(pipeline.transactions, batch([(1, content(value)) for value in values], "lz4"))
    place = TopicPartition(pipeline.transactions, 0)
    person = KafkaConsumer(bootstrap_servers=pipeline.broker_url, group_id=pipeline.name, enable_auto_commit=False)
    person.assign([place])
    person.commit({place: OffsetAndMetadata(37)})
    person.close()
    with pipeline.restarted("detector"):
        pipeline.drain()
    assert [record.value for record in pipeline.read(pipeline.legit)] == values[37:]


def test_many_batches_that_inflate(pipeline: Pipeline) -> None:
    """300 batches of 900 kB each, which gzip makes 0.3 MB in all, take no more memory than a few of them."""
    value = transaction(10, note="x" * 900_000)
    with wire(pipeline.broker_url) as broker:
        inflating = batch([(1, content(value))], "gzip")
        for _ in range(300):
            broker.produce(pipeline.transactions, inflating)
        with pipeline.restarted("detector") as detector:
            pipeline.drain(300)
            assert memory_peak_mb(detector.service) < 150
        found = broker.records(pipeline.legit)
    assert len(found) == 300
    assert set(found) == {(1, content(value))}


@pytest.mark.parametrize(
    "codec", ["gzip", *(pytest.param(codec, marks=pytest.mark.long) for codec in ("none", "lz4", "zstd"))]
)
def test_one_batch_that_inflates(pipeline: Pipeline, codec: str) -> None:
    """400 MB in one batch are cut over many transactions; a value of each kind is among them."""
    values = [transaction(10, note="x" * 1_000_000), transaction(900), b"x" * 1_000_000, transaction(10)]
    count = 400 if codec != "none" else 20
    records = [(n, content(values[n % 4])) for n in range(count)]
    own = Pipeline(pipeline.broker_url)
    own.create(own.transactions, max_message_bytes="100000000")
    with wire(own.broker_url) as broker:
        broker.produce(own.transactions, batch(records, codec))
        with own.restarted("detector") as detector:
            own.drain(300)
            assert memory_peak_mb(detector.service) < 150
        legit = [record for n, record in enumerate(records) if n % 4 in (0, 3)]
        assert broker.records(own.legit) == legit
        assert broker.records(own.fraud) == records[1::4]
        assert len(broker.records(own.dead_letter)) == count / 4
