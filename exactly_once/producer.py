"""The output: a Kafka transaction for each portion, made of its requests.

A producer asks once for an id, with an epoch that shuts out whoever had its transactional id before (InitProducerId).
Then each transaction takes four round trips:

1. its coordinator learns which partitions take part (AddPartitionsToTxn), and which group (AddOffsetsToTxn);
2. the partitions' leaders get the batches (Produce);
3. the group's coordinator gets the offsets (TxnOffsetCommit);
4. its coordinator decides (EndTxn), and tells all that took part. Readers of committed records see it from then on.

The versions of the requests are those of Kafka's transactions of version 1, see docs/guarantees.md.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kafka import KafkaAdminClient, TopicPartition
from kafka.protocol.admin import DescribeTransactionsRequest
from kafka.protocol.metadata import CoordinatorType
from kafka.protocol.producer import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    InitProducerIdRequest,
    TxnOffsetCommitRequest,
)
from kafka.record.util import calc_crc32c
from kafka.structs import ConsumerGroupMetadata

from exactly_once.brokers import Brokers, by_topic
from exactly_once.encoding import OutputBatch
from exactly_once.job import Out, Outgoing
from exactly_once.kafka_python import connect
from exactly_once.topics import open_partitions
from exactly_once.unpacking import HEADER
from service.settings import Cluster
from service.stopping import Stopping

TRANSACTION_SECONDS = 13
"""A transaction that takes longer ends the process. Enough for others to take over from a broker that is gone: Kafka 4
notices it after nine seconds. The broker's own limit, TRANSACTION_TIMEOUT_MS, is slightly longer: readers of committed
records, and whoever takes over the partitions, wait behind an open transaction."""
TRANSACTION_TIMEOUT_MS = 15_000

START_SECONDS = 15
"""How long each of two steps of the start may take. On a new cluster, Kafka creates an internal topic for each."""

OURS = "exactly once"
"""The metadata of the offsets that this program commits, by which it knows them from those of others."""

TRANSACTIONAL_BIT = 0b10000  # of a batch's attributes
CRC_AT, CHECKED_FROM = 17, 21  # in a batch


class Producer:
    """Writes batches, in transactions."""

    def __init__(
        self, cluster: Cluster, stopping: Stopping, transactional_id: str, group: str, topics: Sequence[str]
    ) -> None:
        """Connect, and end what a predecessor with the same transactional id left open. Raises KafkaError."""
        client = connect(KafkaAdminClient, cluster, stopping, request_timeout_ms=5000)
        self.brokers = Brokers(client, topics)
        self.coordinator, self.group = (CoordinatorType.TRANSACTION, transactional_id), group
        self.who: dict[str, Any] = {"transactional_id": transactional_id}
        self.sequences = Counter[TopicPartition]()
        # Before the start, by which the coordinator forgets how the last transaction ended.
        self.previous = set(open_partitions(client, topics))
        self.brokers.run(self._start(), START_SECONDS)
        self.brokers.run(self._end_again(), START_SECONDS)

    @property
    def throttled_seconds(self) -> float:
        """How long Kafka wants us to wait before the next transaction, because of a quota."""
        return self.brokers.throttled_seconds

    def commit(self, out: Out) -> None:
        """Write and commit. Raises KafkaError.

        An error leaves the transaction open, and the process is to end: after a restart it is aborted first.
        """
        self.brokers.run(self._commit(out), TRANSACTION_SECONDS)

    def seal(self, outgoing: Outgoing) -> None:
        """Fill in a batch's header: each batch once, in the order in which they are written."""
        target, batch, _ = outgoing
        seal(batch, self.who["producer_id"], self.who["producer_epoch"], self.sequences[target])
        self.sequences[target] = (self.sequences[target] + len(batch.offsets)) % 2**31

    async def _start(self) -> None:
        asked = DescribeTransactionsRequest(transactional_ids=[self.coordinator[1]])
        (before,) = (await self.brokers.ask(self.coordinator, asked)).transaction_states
        self.was_committed = before.transaction_state in ("PrepareCommit", "CompleteCommit")
        nobody: dict[str, Any] = {"producer_id": -1, "producer_epoch": -1}
        limit = TRANSACTION_TIMEOUT_MS
        request = InitProducerIdRequest(**self.who, **nobody, transaction_timeout_ms=limit, max_version=4)
        answer = await self.brokers.ask(self.coordinator, request)
        self.who |= {"producer_id": answer.producer_id, "producer_epoch": answer.producer_epoch}

    async def _end_again(self) -> None:
        # A broker that is killed and started again may count a transaction as ended without having told all of its
        # partitions (docs/guarantees.md). There its records stay invisible, or its offsets undecided, forever. Another
        # transaction of this transactional id that takes part in the same partitions, and ends as that one did, reaches
        # them. It sends no offsets, but takes part in the partition where Kafka keeps those of the group.
        await self.begin(self.previous)
        self.begun_by = self._connection()
        await self.end(self.was_committed)

    def _connection(self) -> Any:
        return self.brokers.connections[self.brokers.coordinators[self.coordinator]]

    async def _commit(self, out: Out) -> None:
        targets = {target for target, _, _ in out.batches}
        for outgoing in out.batches:
            self.seal(outgoing)
        # The previous transaction's partitions take part in this one, too: if its end has not reached them (see
        # _end_again), this one's does.
        await self.begin(self.previous | targets)
        while self.begun_by is not (connection := self._connection()):
            # The coordinator was away since the previous transaction began. As nothing is written yet, this is its end
            # again. Were it left to that of this one, which may fail, an abort would reach what has been committed.
            self.begun_by = connection
            await self.end(self.was_committed)
            await self.begin(self.previous | targets)
        # One after the other: before it takes either, a broker asks the coordinator whether the transaction is there,
        # and gives up a question that is not answered yet when the next one comes.
        await self.brokers.write(out.batches, self.coordinator[1])
        await self._write_offsets(out.offsets, out.group)
        await self.end(is_commit=True)
        self.previous, self.was_committed = targets, True

    async def begin(self, partitions: Iterable[TopicPartition]) -> None:
        """Begin a transaction, in which these partitions take part, and the one with the group's offsets."""
        topic = AddPartitionsToTxnRequest.AddPartitionsToTxnTopic
        topics = [topic(name=name, partitions=found) for name, found in by_topic((p, p.partition) for p in partitions)]
        who = {f"v3_and_below_{name}": value for name, value in self.who.items()}
        added = AddPartitionsToTxnRequest(**who, v3_and_below_topics=topics, max_version=3)
        group = AddOffsetsToTxnRequest(**self.who, group_id=self.group, max_version=3)
        requests = [added, group] if topics else [group]
        await self.brokers.all(*(self.brokers.ask(self.coordinator, request) for request in requests))

    async def _write_offsets(self, offsets: Mapping[TopicPartition, int], group: ConsumerGroupMetadata) -> None:
        topic = TxnOffsetCommitRequest.TxnOffsetCommitRequestTopic
        always: dict[str, Any] = {"committed_leader_epoch": -1, "committed_metadata": OURS}
        items = (
            (p, topic.TxnOffsetCommitRequestPartition(partition_index=p.partition, committed_offset=offset, **always))
            for p, offset in offsets.items()
        )
        request = TxnOffsetCommitRequest(
            **self.who,
            group_id=group.group_id,
            generation_id=group.generation_id,
            member_id=group.member_id,
            topics=[topic(name=name, partitions=found) for name, found in by_topic(items)],
            min_version=3,  # earlier ones do not say which member of the group, and of which generation
            max_version=3,
        )
        await self.brokers.ask((CoordinatorType.GROUP, self.group), request)

    async def end(self, is_commit: bool) -> None:
        """Commit or abort the transaction."""
        await self.brokers.ask(self.coordinator, EndTxnRequest(**self.who, committed=is_commit, max_version=3))


def seal(batch: OutputBatch, producer_id: int, epoch: int, sequence: int) -> None:
    """Fill in the header. By the sequence number of a batch's first record a leader knows what it already has."""
    count, size = len(batch.offsets), len(batch.data) - 12  # the size counts what follows it
    times = batch.base_timestamp, batch.max_timestamp
    HEADER.pack_into(
        batch.data, 0, 0, size, -1, 2, 0, TRANSACTIONAL_BIT, count - 1, *times, producer_id, epoch, sequence, count
    )
    crc = calc_crc32c(memoryview(batch.data)[CHECKED_FROM:])
    batch.data[CRC_AT:CHECKED_FROM] = crc.to_bytes(4, "big")
