"""The output: batches written in transactions, each of which also commits the offsets of its input."""

from collections.abc import Iterable, Sequence
from contextlib import closing, suppress

from kafka import KafkaAdminClient, KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.errors import KafkaTimeoutError
from kafka.structs import ConsumerGroupMetadata

from exactly_once.job import Out
from exactly_once.kafka_python import begin_with_offsets, connect, write_whole_batch
from exactly_once.topics import open_partitions
from service.settings import Cluster
from service.stopping import Stopping

TRANSACTION_SECONDS = 8
"""A transaction that takes longer ends the process. The broker's own limit, TRANSACTION_TIMEOUT_MS, is slightly longer:
readers of committed records, and whoever takes over the partitions, wait behind an open transaction."""
TRANSACTION_TIMEOUT_MS = 10_000

START_MS = 15_000
"""How long Kafka may take to find the group's offsets. On a new cluster it creates an internal topic for them first."""

FLUSH_SECONDS = 7
"""Longer than delivery_timeout_ms: it is for batches that have nowhere to go, because their topic is gone."""

REQUEST_BYTES = 8 * 1024 * 1024
"""Batches share a request up to this size, well below what a broker reads; a larger batch goes alone."""

OURS = "exactly once"
"""The metadata of the offsets that this program commits, by which it knows them from those of others."""


class Producer:
    """Writes batches, in transactions."""

    def __init__(
        self, cluster: Cluster, stopping: Stopping, transactional_id: str, group: str, topics: Sequence[str]
    ) -> None:
        """Connect, and abort what a predecessor with the same transactional id left open. Raises KafkaError."""
        self.client: KafkaProducer = connect(
            KafkaProducer,
            cluster,
            stopping,
            transactional_id=transactional_id,
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
            metrics_enabled=False,
            max_request_size=REQUEST_BYTES,
            retry_backoff_ms=2,  # a transaction may have to wait for the markers of the previous one
            delivery_timeout_ms=6000,
            max_block_ms=6000,
        )
        self.stopping, self.previous = stopping, set[TopicPartition]()
        with suppress(KafkaTimeoutError):  # on a new cluster Kafka creates an internal topic first
            self.client.init_transactions()
        self.client.init_transactions()  # goes on waiting for the same answer, if there was none
        with closing(connect(KafkaAdminClient, cluster, stopping)) as admin:
            self._abort_again(open_partitions(admin, topics), group)

    def _abort_again(self, partitions: Iterable[TopicPartition], group: str) -> None:
        # A broker that is killed and started again may count a transaction as ended without having told any of its
        # partitions (docs/guarantees.md). Then its records stay invisible, and its offsets undecided, forever. Another
        # transaction of this transactional id that takes part in the same partitions, and is aborted, reaches them. No
        # reader has seen the records, so they are read and written again. This transaction sends no offsets, but takes
        # part in the partition where Kafka keeps those of the group.
        if not begin_with_offsets(self.client, partitions, {}, ConsumerGroupMetadata(group)).wait(START_MS):
            raise KafkaTimeoutError(f"no answer about the offsets of {group}")
        with self.stopping.exit_unless_done(TRANSACTION_SECONDS):
            self.client.abort_transaction()

    def commit(self, out: Out) -> None:
        """Write and commit. Raises KafkaError.

        An error leaves the transaction open, and the process is to end: after a restart it is aborted first.
        """
        with self.stopping.exit_unless_done(TRANSACTION_SECONDS):  # not all calls below have a timeout of their own
            offsets = {partition: OffsetAndMetadata(offset, OURS) for partition, offset in out.offsets.items()}
            # The previous transaction's partitions take part in this one, too: if its end has not reached them (see
            # _abort_again), this one's does.
            begun = begin_with_offsets(self.client, self.previous, offsets, out.group)
            batches = [(write_whole_batch(self.client, *target, batch), s) for target, batch, s in out.batches]
            begun.wait()
            self.client.flush(timeout=FLUSH_SECONDS)
            for batch, source in batches:
                batch.check(source)  # flush never raises if a batch failed, and commit not for every reason
            self.client.commit_transaction()
            self.previous = {batch.topic_partition for batch, _ in batches}
