"""The detector on a real broker: what goes where, byte for byte, and what survives what."""

import random
import re
import signal

import pytest
from kafka import KafkaConsumer, KafkaProducer
from kafka.errors import MessageSizeTooLargeError

from detector.tests.corpus import CORPUS
from embedded import Cluster
from embedded.pipeline import Pipeline
from embedded.records import Record
from embedded.service import wait_until
from harness import TOO_SLOW, transaction, wait_for_shares


def as_written(records: list[Record]) -> list[Record]:
    """Return the records without their offsets, which differ from topic to topic."""
    return [record._replace(offset=None) for record in records]


def errors(record: Record) -> dict[str, str]:
    """Return the headers that the detector adds to a dead letter."""
    prefix = "__streams.errors."
    return {name.removeprefix(prefix): value.decode() for name, value in record.headers if name.startswith(prefix)}


def test_the_corpus_comes_out_exactly_once(pipeline: Pipeline) -> None:
    """Every case of the corpus, in one run, comes out once, in its topic, with its bytes; the detector lives on."""
    records = [Record(case.value, key=case.name.encode(), timestamp=1) for case in CORPUS]
    pipeline.write(records)
    with pipeline.restarted("detector") as detector:
        pipeline.drain()
        detector.check()
        assert detector.end() == 0
    for expected, topic in pipeline.routes.items():
        there = [record._replace(offset=None, headers=()) for record in pipeline.read(topic)]
        assert there == [r for r, case in zip(records, CORPUS, strict=True) if case.expected == expected]


RECORDS = [
    Record(transaction(10), None, (), 1_000),
    Record(transaction(900), b"", (("a", b"1"), ("a", b"2"), ("", b"")), 2_000),
    Record(transaction(899.99), b"\x00\xff", (("é", b"\xff\x00"),), 0),
    Record(transaction(1e3), b"k", (), 1_893_456_000_000),
    Record(b"no transaction", b"k", (("a", b"1"),), 3_000),
    Record(None, None, (), 4_000),
    Record(None, b"k", (("a", b"1"),), 5_000),
    Record(b"", None, (), 6_000),
]


def test_records_are_passed_on_as_they_came(pipeline: Pipeline) -> None:
    """Key, value, headers and timestamp stay as they are, nulls, empty ones and duplicates included."""
    pipeline.write(RECORDS)
    with pipeline.restarted("detector"):
        pipeline.drain()
    assert as_written(pipeline.read(pipeline.legit)) == [RECORDS[0], RECORDS[2]]
    assert as_written(pipeline.read(pipeline.fraud)) == [RECORDS[1], RECORDS[3]]
    dead = pipeline.read(pipeline.dead_letter)
    assert [r._replace(offset=None, headers=r.headers[: len(r.headers) - 5]) for r in dead] == RECORDS[4:]


def test_a_dead_letter_says_where_it_comes_from_and_why(cluster: Cluster, pipeline: Pipeline) -> None:
    """Its headers are named as in KIP-1034, and come after the record's own."""
    pipeline.write([Record(transaction(10)), Record(b"no transaction", headers=(("own", b"header"),)), Record(None)])
    with pipeline.restarted("detector"):
        pipeline.drain()
    dead = pipeline.read(pipeline.dead_letter)
    where = {"exception": "InvalidTransaction", "topic": pipeline.transactions, "partition": "0"}
    assert dead[0].headers[0] == ("own", b"header")
    assert errors(dead[0]) == {**where, "offset": "1", "message": "not JSON: Expecting value at character 0"}
    assert errors(dead[1]) == {**where, "offset": "2", "message": "no value"}


def test_a_dead_letter_at_the_size_limit_gets_through(pipeline: Pipeline) -> None:
    """Where the dead-letter topic takes no more than the input, a letter that gets too large is a reference.

    It has the record's timestamp and all five headers, by which the record can be found in the input.
    """
    limit = 1_048_588  # Kafka's default, for a batch with its framing
    pipeline.create(pipeline.dead_letter)
    sizes = [*range(limit - 80, limit - 60), *range(limit - 400, limit - 80, 16)]
    written = []
    for size in sizes:
        record = Record(b"x" * size, timestamp=1)
        try:
            pipeline.write([record])
        except MessageSizeTooLargeError:
            continue
        written.append(record)
    assert 20 < len(written) < len(sizes)
    with pipeline.restarted("detector") as detector:
        pipeline.drain()
        detector.check()
    dead = pipeline.read(pipeline.dead_letter)
    said = f"bytes, more than the {limit:,} of max.message.bytes of {pipeline.dead_letter}"
    exceptions = set()
    for offset, (record, found) in enumerate(zip(written, dead, strict=True)):
        by_reference = found.value is None
        exceptions.add(errors(found)["exception"])
        assert (found.timestamp, errors(found)["offset"], len(found.headers)) == (1, str(offset), 5)
        assert found.value == (None if by_reference else record.value)
        assert (errors(found)["exception"] == "RecordTooLarge") == by_reference == (said in errors(found)["message"])
    assert exceptions == {"InvalidTransaction", "RecordTooLarge"}


def test_what_came_in_compressed_goes_out_whole(pipeline: Pipeline) -> None:
    """1 MiB that was 1 kB in the compressed input is more than Kafka's usual limit, and gets through all the same."""

    def padded(amount: int) -> bytes:
        return transaction(amount, note="x" * (2**20 - len(transaction(amount, note=""))))

    records = [Record(value, timestamp=1) for value in (b"x" * 2**20, padded(900), padded(10))]
    pipeline.write(records, compression_type="gzip", batch_size=1)
    with pipeline.restarted("detector"):
        pipeline.drain()
    assert as_written(pipeline.read(pipeline.legit)) == records[2:]
    assert as_written(pipeline.read(pipeline.fraud)) == records[1:2]
    assert [record.value for record in pipeline.read(pipeline.dead_letter)] == [records[0].value]


def test_order_per_partition_is_kept(cluster: Cluster, pipeline: Pipeline) -> None:
    """A record from partition p goes to partition p of its output topic, in the order of the input."""
    many = Pipeline(pipeline.broker_url, partitions=5)
    many.create(many.transactions)
    draw = random.Random(1)
    records = [
        Record(transaction(draw.choice((10, 900)), n=n), partition=draw.randrange(5), timestamp=1)
        for n in range(20_000)
    ]
    many.write(records)
    with many.restarted("detector"):
        many.drain()
    for topic, amount in ((many.legit, b" 10,"), (many.fraud, b" 900,")):
        expected = [r for p in range(5) for r in records if r.partition == p and amount in (r.value or b"")]
        assert as_written(many.read(topic)) == expected


def test_missing_topics_are_created_with_as_many_partitions(cluster: Cluster, pipeline: Pipeline) -> None:
    """Output topics that do not exist get the partitions of the input, and so does the input the broker's default."""
    many = Pipeline(pipeline.broker_url, partitions=7)
    many.create(many.transactions)
    none = Pipeline(pipeline.broker_url)
    with many.restarted("detector") as one, none.restarted("detector") as other, many.admin() as admin:
        wait_for_shares(many, 7)
        wait_for_shares(none, 4)
        for detector in (one, other):
            detector.check()
        for wanted, topics in ((7, many), (4, none)):
            described = admin.describe_topics([topics.transactions, *topics.outputs])
            assert [len(topic["partitions"]) for topic in described] == [wanted] * (1 + len(topics.outputs))


def test_an_output_topic_with_too_few_partitions_gets_more(pipeline: Pipeline) -> None:
    """As many as the input has, and a line says so."""
    many = Pipeline(pipeline.broker_url, partitions=3)
    many.create(many.transactions)
    many.create(many.fraud, partitions=2)
    with many.restarted("detector") as detector:
        wait_for_shares(many, 3)
        assert f"{many.fraud} has got 3 partitions, as many as {many.transactions}" in detector.log


def test_only_committed_records_are_read(pipeline: Pipeline) -> None:
    """What an aborted transaction wrote to the input is in no output."""
    pipeline.write([Record(transaction(1), timestamp=1)], transactional_id=f"{pipeline.name}-commit")
    producer = KafkaProducer(bootstrap_servers=pipeline.broker_url, transactional_id=f"{pipeline.name}-abort")
    producer.init_transactions()
    producer.begin_transaction()
    producer.send(pipeline.transactions, transaction(2), partition=0)
    producer.flush()
    producer.abort_transaction()
    producer.close()
    pipeline.write([Record(transaction(3), timestamp=1)])
    with pipeline.restarted("detector"):
        pipeline.drain()
    assert [r.value for r in pipeline.read(pipeline.legit)] == [transaction(1), transaction(3)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(pipeline: Pipeline, number: signal.Signals) -> None:
    """It ends the transaction in hand, leaves the group and ends with exit code 0; the next one goes on from there."""
    pipeline.write([Record(transaction(10)) for _ in range(30_000)])
    with pipeline.restarted("detector") as detector, pipeline.admin() as admin:
        wait_until(lambda: pipeline.lag() < 30_000, 120, lambda: detector.log)
        assert detector.end(number) == 0
        assert "Stopping: " in detector.log
        group = admin.describe_groups([pipeline.name])[pipeline.name]
        assert group["members"] == [] or TOO_SLOW.search(detector.log)
    with pipeline.restarted("detector"):
        pipeline.drain()
    assert len(pipeline.read(pipeline.legit)) == 30_000


def test_two_on_one_host_share_the_partitions(cluster: Cluster, pipeline: Pipeline) -> None:
    """With a TRANSACTIONAL_ID each, two detectors split the partitions between them, and double nothing."""
    many = Pipeline(pipeline.broker_url, partitions=4)
    many.create(many.transactions)
    with (
        many.restarted("detector", TRANSACTIONAL_ID=f"{many.name}-1") as one,
        many.restarted("detector", TRANSACTIONAL_ID=f"{many.name}-2") as two,
    ):
        wait_for_shares(many, 2, 2)
        many.write([Record(transaction(10, n=n), partition=n % 4) for n in range(20_000)])
        many.drain()
        for detector in (one, two):
            assert detector.end() == 0
            assert re.search(r"Stopping: \{'legit': [1-9]", detector.log)
    assert len({record.value for record in many.read(many.legit)}) == len(many.read(many.legit)) == 20_000


@pytest.mark.long
def test_a_member_that_does_not_get_into_the_group_ends(pipeline: Pipeline) -> None:
    """Where a rebalance does not come to its end nothing is written, and the process makes room for a new start."""
    stuck = KafkaConsumer(bootstrap_servers=pipeline.broker_url, group_id=pipeline.name)
    stuck.subscribe([pipeline.transactions])
    wait_until(lambda: stuck.poll(200) == {} and bool(stuck.assignment()), 120)
    # From now on it does not poll: it is alive, so Kafka waits for it to join again, for five minutes.
    pipeline.write([Record(transaction())])
    with pipeline.service("detector") as detector:
        assert detector.wait() == 1
        assert f"does not get into the group {pipeline.name}" in detector.log
    stuck.close()
    assert [record for topic in pipeline.outputs for record in pipeline.read(topic)] == []
    with pipeline.restarted("detector"):
        pipeline.drain()
    assert len(pipeline.read(pipeline.legit)) == 1
