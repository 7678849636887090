"""Below kafka-python's consumer: whole record batches are read, not single records.

The private names are marked here as there.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.coordinator.consumer import ConsumerCoordinator
from kafka.record import MemoryRecords
from kafka.record.default_records import DefaultRecord

from exactly_once.kafka_python import connect
from service.settings import Cluster
from service.stopping import Stopping


class Fetched(NamedTuple):
    """A record batch as Kafka keeps it: what a consumer of whole batches gets as the value of a record."""

    data: bytearray
    position: int
    """The offset that the fetch asked for; earlier records of the batch are not wanted."""


def join(cluster: Cluster, stopping: Stopping, group: str, fetch_bytes: int, **config: object) -> KafkaConsumer:
    """Return a consumer of whole batches, once Kafka answers; it is a member of the group when it has subscribed.

    A fetch returns at most so many bytes, unless a single batch is larger. Raises KafkaError.
    """
    consumer: KafkaConsumer = connect(
        KafkaConsumer,
        cluster,
        stopping,
        group_id=group,
        metrics_enabled=False,
        isolation_level="read_committed",
        enable_auto_commit=False,
        fetch_max_bytes=fetch_bytes,
        max_partition_fetch_bytes=fetch_bytes,
        max_poll_records=fetch_bytes,  # counts batches here: no limit below the fetch
        session_timeout_ms=6000,  # a killed instance is noticed after this time; the default minimum of brokers
        heartbeat_interval_ms=2000,
        metadata_max_age_ms=10_000,  # how soon a new partition is found
        **config,
    )
    read_whole_batches(consumer)
    return consumer


def read_whole_batches(consumer: KafkaConsumer) -> None:
    """Make a consumer return each batch as one record, whose value is Fetched.

    Everything else is unchanged: the client checks CRCs, skips aborted records, and keeps its positions.
    """
    consumer._fetcher.PartitionRecords = _PartitionRecords  # type: ignore[assignment]  # private


# Private: if a poll ends during a rebalance for new partitions, the client forgets to complete the rebalance.
def _need_rejoin(coordinator: ConsumerCoordinator) -> bool:
    return coordinator.rejoining or _NEED_REJOIN(coordinator)


_NEED_REJOIN = ConsumerCoordinator.need_rejoin
ConsumerCoordinator.need_rejoin = _need_rejoin  # type: ignore[method-assign]


class _PartitionRecords(Fetcher.PartitionRecords):  # private
    # What the client turns a fetched partition into, and reads records from.
    def __init__(self, position: int, partition: TopicPartition, records: MemoryRecords, **config: Any) -> None:
        super().__init__(position, partition, _WholeBatches(records, position), **config)  # type: ignore[no-untyped-call]


class _WholeBatches:
    def __init__(self, records: MemoryRecords, position: int) -> None:
        self._records, self._position = records, position

    def next_batch(self) -> Any:
        batch = self._records.next_batch()
        if batch is None or (batch.magic == 2 and batch.is_control_batch):  # the client reads a transaction's marker
            return batch
        return _WholeBatch(batch, self._position)


class _WholeBatch:
    # Behaves like the wrapped batch, but holds one record.
    def __init__(self, batch: Any, position: int) -> None:
        self._batch, self._position = batch, position

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __iter__(self) -> Iterator[DefaultRecord]:
        data = self._batch._buffer  # private
        last = self.last_offset if self.magic == 2 else self.base_offset  # before version 2, that is the last one
        yield DefaultRecord(len(data), last, -1, 0, None, Fetched(data, self._position), [])
