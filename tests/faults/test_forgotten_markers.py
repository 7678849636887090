"""Transactions that the broker counts as ended, while the partitions have not been told.

A broker that is killed at the wrong moment leaves them, once in a few hundred times; so here they are made by hand.
"""

from collections.abc import Iterator

import pytest
from kafka import KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.producer.transaction_manager import TransactionalRequestResult, TxnOffsetCommitHandler
from kafka.structs import ConsumerGroupMetadata

from embedded import Cluster, Line
from embedded.pipeline import Pipeline
from embedded.records import Record
from embedded.service import wait_until
from exactly_once.topics import open_partitions
from harness import transaction, wait_for_shares

pytestmark = pytest.mark.guarantee

VALUES = [transaction(amount) for amount in (1, 2, 3)]


@pytest.fixture(scope="module")
def gullible(line: Line) -> Iterator[Cluster]:
    """A broker that does not ask the coordinator whether a transaction is known there."""
    with Cluster(config={"transaction.partition.verification.enable": "false"}, line=line) as cluster:
        yield cluster


def filled(cluster: Cluster) -> Pipeline:
    """Return a pipeline with `VALUES` in its input."""
    pipeline = Pipeline(cluster.bootstrap_servers)
    pipeline.create(pipeline.transactions, pipeline.legit)
    pipeline.write([Record(value) for value in VALUES])
    return pipeline


def assert_cleared_up(pipeline: Pipeline) -> None:
    """See that one partition has an open transaction, and each record is in one output, once, after a start."""
    with pipeline.admin() as admin:
        assert open_partitions(admin, pipeline.outputs[:1]) == [TopicPartition(pipeline.legit, 0)]
    with pipeline.restarted("detector", TRANSACTIONAL_ID=pipeline.name) as detector:
        pipeline.drain()
        assert detector.end() == 0
    assert [record.value for record in pipeline.read(pipeline.legit)] == VALUES


def leave_open(pipeline: Pipeline) -> None:
    """Pass on the first transaction and commit its offset, in a transaction of which the coordinator knows nothing."""
    target = TopicPartition(pipeline.legit, 0)
    producer = KafkaProducer(bootstrap_servers=pipeline.broker_url, transactional_id=pipeline.name)
    producer.init_transactions()
    producer.begin_transaction()
    manager = producer._transaction_manager
    assert manager
    manager._partitions_in_transaction.add(target)
    producer.send(target.topic, VALUES[0], partition=target.partition)
    producer.flush()
    offsets = {TopicPartition(pipeline.transactions, 0): OffsetAndMetadata(1)}
    manager._pending_txn_offset_commits.update(offsets)
    result = TransactionalRequestResult()
    group = ConsumerGroupMetadata(pipeline.name)
    manager._enqueue_request(TxnOffsetCommitHandler(manager, group, manager._pending_txn_offset_commits, result))
    producer._sender.wakeup()
    result.wait()


def test_what_they_wrote_is_written_again(gullible: Cluster) -> None:
    """The detector gets its offsets, and each record is in one output, once."""
    pipeline = filled(gullible)
    leave_open(pipeline)
    assert_cleared_up(pipeline)


def test_what_was_committed_stays_so(gullible: Cluster) -> None:
    """If the group's offsets have been told of a commit, and the records have not, these are committed as well."""
    pipeline = filled(gullible)
    producer = KafkaProducer(bootstrap_servers=pipeline.broker_url, transactional_id=pipeline.name)
    producer.init_transactions()
    producer.begin_transaction()
    manager = producer._transaction_manager
    assert manager
    manager._partitions_in_transaction.add(TopicPartition(pipeline.legit, 0))
    producer.send(pipeline.legit, VALUES[0], partition=0)
    producer.flush()
    offsets = {TopicPartition(pipeline.transactions, 0): OffsetAndMetadata(1)}
    producer.send_offsets_to_transaction(offsets, ConsumerGroupMetadata(pipeline.name))
    manager._partitions_in_transaction.clear()
    producer.commit_transaction()
    assert_cleared_up(pipeline)


def test_another_transactional_id_waits_for_the_old_one(gullible: Cluster) -> None:
    """The way out of docs/operations.md: a detector is started with the id that wrote them."""
    pipeline = filled(gullible)
    leave_open(pipeline)
    with pipeline.restarted("detector", TRANSACTIONAL_ID="another") as waiting:
        wait_for_shares(pipeline, 1)
        wait_until(lambda: "is a transaction undecided (docs/operations.md)?" in waiting.log, 120, lambda: waiting.log)
        assert pipeline.lag() == len(VALUES)
        with pipeline.restarted("detector", TRANSACTIONAL_ID=pipeline.name):
            pipeline.drain()
    assert [record.value for record in pipeline.read(pipeline.legit)] == VALUES


def test_a_transaction_also_ends_where_the_previous_one_wrote(gullible: Cluster) -> None:
    """A detector that has lived on cannot know what the broker forgot: it tells the partitions once more."""
    pipeline = Pipeline(gullible.bootstrap_servers)
    pipeline.create(pipeline.transactions)
    # A record and its marker, then one more marker. Each partition gets its own a moment after the commit.
    with pipeline.restarted("detector"):
        for value, end in zip((b"no transaction", *VALUES), (2, 3, 3, 3), strict=True):
            pipeline.write([Record(value)])
            pipeline.drain()
            wait_until(lambda end=end: pipeline.count(pipeline.dead_letter) >= end, 120)
            assert pipeline.count(pipeline.dead_letter) == end
