"""What operators and brokers do to a running detector: it goes on, or one line says what to change."""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest
from kafka import KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.structs import MemberState

from embedded.pipeline import Pipeline
from embedded.records import Record
from embedded.service import Restarted, Service, wait_until
from exactly_once import kafka_python
from exactly_once.topics import MAX_MESSAGE_BYTES
from harness import transaction, wait_for_shares, wait_until_at_work

pytestmark = pytest.mark.long

SLOW = 3
"""How much longer than promised things may take where other tests run as well."""


def last_line(detector: Service) -> str:
    """Return what a detector has said at its end; no line of it is a traceback's."""
    assert "Traceback" not in detector.log
    return detector.log.splitlines()[-1]


def with_partitions(pipeline: Pipeline, number: int) -> Pipeline:
    """Return the same pipeline, seen with so many partitions."""
    return Pipeline(pipeline.broker_url, number, pipeline.name)


def lag(detector: Restarted) -> int:
    """Return the lag that the detector has reported last."""
    return int(re.findall(r"lag=(\d+)", detector.log)[-1])


def test_a_new_partition_is_found_while_it_runs(pipeline: Pipeline) -> None:
    """With the outputs enlarged first, what is written to the input's new partition comes out of theirs."""
    with pipeline.restarted("detector") as detector, pipeline.admin() as admin:
        wait_until_at_work(pipeline)
        admin.create_partitions({**dict.fromkeys(pipeline.outputs, 2), pipeline.transactions: 2})
        two = with_partitions(pipeline, 2)
        two.write([Record(transaction(n=n), partition=1) for n in range(5)])
        two.drain()
        detector.check()
        assert [record.partition for record in two.read(two.legit)] == [1] * 5


def test_a_rebalance_that_a_poll_does_not_wait_for(pipeline: Pipeline) -> None:
    """Later polls continue the rebalance; unpatched, kafka-python would be out of the group for good."""
    assert kafka_python  # its import changes kafka-python so that they do
    consumer = KafkaConsumer(bootstrap_servers=pipeline.broker_url, group_id=pipeline.name, metadata_max_age_ms=500)
    consumer.subscribe([pipeline.transactions])
    wait_until(lambda: consumer.poll(1000) == {} and len(consumer.assignment()) == 1, 120)
    generation = consumer.group_metadata().generation_id
    with pipeline.admin() as admin:
        admin.create_partitions({pipeline.transactions: 2})
    wait_until(lambda: consumer.poll(1) == {} and consumer.group_metadata().state == MemberState.REBALANCING, 120)
    wait_until(lambda: consumer.group_metadata().generation_id > generation, 120)  # it goes on between the polls
    wait_until(lambda: consumer.poll(500) == {} and len(consumer.assignment()) == 2, 120)
    assert consumer.group_metadata().state == MemberState.STABLE
    consumer.close()


@pytest.mark.parametrize("instances", [1, 2])
def test_a_new_partition_that_the_outputs_lack(pipeline: Pipeline, instances: int) -> None:
    """They get as many, without an exit, and what is written to the new partitions comes out of the same."""
    with ExitStack() as stack, pipeline.admin() as admin:
        ids = [f"{pipeline.name}-{n}" for n in range(instances)]
        detectors = [stack.enter_context(pipeline.service("detector", TRANSACTIONAL_ID=id)) for id in ids]
        wait_for_shares(pipeline, *([0, 1][-instances:]))
        wait_until_at_work(pipeline)
        admin.create_partitions({pipeline.transactions: 4})
        four = with_partitions(pipeline, 4)
        four.write([Record(transaction(n=n), partition=n % 4) for n in range(100)])
        four.drain(30 * SLOW)
        for detector in detectors:
            detector.check()
        wait_for_shares(pipeline, *{1: [4], 2: [2, 2]}[instances])
        for detector in detectors:
            detector.check()
            assert " ERROR " not in detector.log
        log = "".join(detector.log for detector in detectors)
        for topic in pipeline.outputs:
            assert f"{topic} has got 4 partitions, as many as {pipeline.transactions}" in log
            assert len(admin.describe_topics([topic])[0]["partitions"]) == 4
    assert sorted(record.partition for record in four.read(four.legit)) == sorted(n % 4 for n in range(100))


def test_an_input_that_is_deleted_and_created_again(pipeline: Pipeline) -> None:
    """It says that the topic is gone, does not create it in the operator's place, and reads the new one in full."""
    with pipeline.service("detector") as detector, pipeline.admin() as admin:
        pipeline.write([Record(transaction(n=n)) for n in range(500)])
        pipeline.drain()
        admin.create_partitions(dict.fromkeys(pipeline.outputs, 4))
        admin.delete_topics([pipeline.transactions])
        detector.wait_for(f"The topic {pipeline.transactions} does not exist any more: create it")
        four = with_partitions(pipeline, 4)
        four.create(four.transactions)  # fails if it is there
        # More in each partition than the old one had: a reader at the old position would not notice.
        four.write([Record(transaction(again=n), partition=n % 4) for n in range(4000)])
        four.drain()
        detector.check()
    assert len({record.value for record in four.read(four.legit) if b"again" in (record.value or b"")}) == 4000


def test_an_output_that_is_deleted(pipeline: Pipeline) -> None:
    """It says which topic is gone; started again, it creates it as at first, and passes on what waits."""
    with pipeline.service("detector") as detector, pipeline.admin() as admin:
        wait_until_at_work(pipeline)
        admin.delete_topics([pipeline.legit])
        wait_until(lambda: pipeline.legit not in admin.list_topics(), 120)
        pipeline.write([Record(transaction())])
        assert detector.wait() == 1
        assert f"The topic {pipeline.legit} does not exist: a restart creates it" in last_line(detector)
    with pipeline.restarted("detector"), pipeline.admin() as admin:
        pipeline.drain()
        resource = ConfigResource(ConfigResourceType.TOPIC, pipeline.legit, ["max.message.bytes"])
        configs = admin.describe_configs([resource], config_filter="all")["topic"][pipeline.legit]
        assert int(configs["max.message.bytes"]["value"]) == MAX_MESSAGE_BYTES
    assert len(pipeline.read(pipeline.legit)) == 1


@contextmanager
def transactional(pipeline: Pipeline, records: int) -> Iterator[KafkaProducer]:
    """Open another producer's transaction, with so many records in the input, for as long as the block at the most."""
    producer = KafkaProducer(
        bootstrap_servers=pipeline.broker_url,
        transactional_id=f"{pipeline.name}-foreign",
        transaction_timeout_ms=600_000,
    )
    producer.init_transactions()
    producer.begin_transaction()
    for _ in range(records):
        producer.send(pipeline.transactions, transaction(1), partition=0)
    producer.flush()
    yield producer
    producer.close(timeout=1)


def test_aborted_records_are_no_lag(pipeline: Pipeline) -> None:
    """5 committed and 1,000 aborted records: the lag is 0, and so it is by the group's committed offset."""
    pipeline.write([Record(transaction())] * 5)
    with transactional(pipeline, 1000) as foreign:
        foreign.abort_transaction()
    with pipeline.restarted("detector") as detector:
        pipeline.drain()
        before = len(detector.log)
        wait_until(lambda: "rate=" in detector.log[before:], 120)
        assert lag(detector) == 0
        assert "legit=5 " in detector.log


def test_an_open_transaction_is_waited_for_and_named(pipeline: Pipeline) -> None:
    """The records behind it are lag, a line says what keeps them away, and they come out when it ends."""
    pipeline.write([Record(transaction(2))] * 5)
    with pipeline.restarted("detector") as detector, transactional(pipeline, 1) as foreign:
        pipeline.write([Record(transaction(3))] * 500)
        detector.wait_for(
            f"{pipeline.transactions}[0]: waiting at offset 5 for a transaction that another producer has"
        )
        wait_until(lambda: lag(detector) == 501, 120, lambda: detector.log)
        foreign.commit_transaction()
        pipeline.drain()
        wait_until(lambda: lag(detector) == 0, 120)
    assert len(pipeline.read(pipeline.legit)) == 506


def test_two_with_one_transactional_id(pipeline: Pipeline) -> None:
    """The one that is pushed aside says so, and names the variable; nothing comes out twice."""
    two_partitions = Pipeline(pipeline.broker_url, 2)
    two_partitions.create(two_partitions.transactions)
    name = f"{pipeline.name}-same"
    with two_partitions.service("detector", TRANSACTIONAL_ID=name) as first:
        wait_for_shares(two_partitions, 2)
        with two_partitions.restarted("detector", TRANSACTIONAL_ID=name):
            wait_for_shares(two_partitions, 1, 1)
            two_partitions.write([Record(transaction(), partition=n) for n in range(2)])  # one for each of them
            assert first.wait() == 1
            assert f"another instance has the same TRANSACTIONAL_ID ({name})" in last_line(first)
            two_partitions.drain()
    assert len(two_partitions.read(two_partitions.legit)) == 2


def test_offsets_that_have_expired(pipeline: Pipeline) -> None:
    """A warning says that all is read again; a first start, with empty outputs, has none."""
    pipeline.write([Record(transaction())] * 5)
    with pipeline.restarted("detector") as detector:
        pipeline.drain()
        assert detector.end() == 0
        assert "has no offset, though" not in detector.log
    with pipeline.admin() as admin:
        admin.delete_group_offsets(pipeline.name, [TopicPartition(pipeline.transactions, 0)])
    with pipeline.restarted("detector") as detector:
        detector.wait_for(f"{pipeline.transactions}[0]: the group {pipeline.name} has no offset, though")
        pipeline.drain()
    assert len(pipeline.read(pipeline.legit)) == 10


def test_records_that_the_retention_has_taken(pipeline: Pipeline) -> None:
    """An error says how many offsets are gone, be the detector off or paused meanwhile; it goes on with the rest."""
    place = TopicPartition(pipeline.transactions, 0)
    pipeline.write([Record(transaction())] * 5)
    with pipeline.restarted("detector") as detector:
        pipeline.drain()
        assert detector.end() == 0
    pipeline.write([Record(transaction())] * 100)
    with pipeline.admin() as admin:
        admin.delete_records({place: 55})
        with pipeline.restarted("detector") as detector:
            detector.wait_for(f"ERROR {place.topic}[0]: 50 offsets are lost, from 5 on")
            pipeline.drain()
            os.kill(detector.pid, signal.SIGSTOP)
            pipeline.write([Record(transaction())])  # for the fetch that may be on its way
            pipeline.write([Record(transaction())] * 100)
            admin.delete_records({place: 185})
            os.kill(detector.pid, signal.SIGCONT)
            wait_until(lambda: detector.log.count("offsets are lost") >= 2, 120, lambda: detector.log)
            pipeline.drain()
            lost, first = map(int, re.findall(r"(\d+) offsets are lost, from (\d+) on", detector.log)[-1])
            assert (first in (105, 106), lost + first) == (True, 185)
            detector.check()
    assert len(pipeline.read(pipeline.legit)) == 206 - 50 - lost


def test_an_input_that_ends_before_the_committed_offset(pipeline: Pipeline) -> None:
    """As after the loss of a broker's disk: an error says so, and the records that are there go on, new ones too."""
    place = TopicPartition(pipeline.transactions, 0)
    pipeline.write([Record(transaction(n=n)) for n in range(5)])
    with closing(KafkaConsumer(bootstrap_servers=pipeline.broker_url, group_id=pipeline.name)) as consumer:
        consumer.assign([place])
        consumer.commit({place: OffsetAndMetadata(1000)})
    with pipeline.restarted("detector") as detector:
        detector.wait_for(f"ERROR {place.topic}[0] ended before offset 1000, which had been read")
        pipeline.drain()
        pipeline.write([Record(transaction(n=n)) for n in range(5, 10)])
        pipeline.drain()
        assert detector.log.count("ended before offset") <= 1 + len(detector.exit_codes)
    assert [record.value for record in pipeline.read(pipeline.legit)] == [transaction(n=n) for n in range(10)]


def test_aborted_records_and_markers_are_no_loss(pipeline: Pipeline) -> None:
    """A poll that gets by them, and then finds a record, is not taken for one that misses what was deleted."""
    with closing(
        KafkaProducer(bootstrap_servers=pipeline.broker_url, transactional_id=pipeline.transactions)
    ) as writer:
        writer.init_transactions()
        with pipeline.restarted("detector") as detector:
            wait_until_at_work(pipeline)
            for n in range(50):
                for end in (writer.abort_transaction, writer.commit_transaction):
                    writer.begin_transaction()
                    writer.send(pipeline.transactions, transaction(n=n), partition=0)
                    writer.flush()
                    end()
            pipeline.drain()
            assert "offsets are lost" not in detector.log
    assert [record.value for record in pipeline.read(pipeline.legit)] == [transaction(n=n) for n in range(50)]
