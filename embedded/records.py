"""Writing records, and reading a topic to its end: every record that is there, and no other."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from typing import Any, NamedTuple, Self

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import OffsetSpec
from kafka.consumer.fetcher import ConsumerRecord
from kafka.serializer.abstract import Serializer

MAX_REQUEST_BYTES = 100_000_000


class Record(NamedTuple):
    """A record as it is written or read; records compare in the order of these fields."""

    value: bytes | None
    key: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    timestamp: int | None = None
    """Milliseconds since 1970."""
    partition: int = 0
    offset: int | None = None

    @classmethod
    def of(cls, read: ConsumerRecord) -> Self:
        """Return what the client has read."""
        return cls(read.value, read.key, tuple(read.headers), read.timestamp, read.partition, read.offset)


def write(broker_url: str, topic: str, records: Iterable[Record], **config: Any) -> None:
    """Write records, and wait until all are acknowledged; in one transaction if config has a transactional_id.

    The configuration is the producer's. Raises KafkaError if one is not delivered.
    """
    producer = KafkaProducer(
        bootstrap_servers=broker_url,
        value_serializer=_Raw(),
        max_request_size=MAX_REQUEST_BYTES,
        **config,
    )
    with closing(producer):
        if "transactional_id" in config:
            producer.init_transactions()
            producer.begin_transaction()
        futures = [producer.send(topic, r, r.key, partition=r.partition, timestamp_ms=r.timestamp) for r in records]
        producer.flush()
        for future in futures:
            future.get(10)
        if "transactional_id" in config:
            producer.commit_transaction()


class _Raw(Serializer):
    # Writes a Record's value and headers, nulls included, which send() itself refuses.
    def serialize(self, topic: str, headers: Any, data: Record) -> bytes | None:
        headers[:] = data.headers
        return data.value


def read(broker_url: str, *topics: str, seconds: float = 120, access: Mapping[str, object] = {}) -> list[Record]:
    """Return all committed records of the topics that exist, by partition and offset.

    Raises TimeoutError if a transaction stays open.
    """
    records = stream(broker_url, *topics, seconds=seconds, access=access)
    return sorted(records, key=lambda record: (record.partition, record.offset))


def stream(broker_url: str, *topics: str, seconds: float = 120, access: Mapping[str, object] = {}) -> Iterator[Record]:
    """Yield all committed records of the topics that exist, each partition in its order.

    Raises TimeoutError if a transaction stays open.
    """
    consumer = KafkaConsumer(
        bootstrap_servers=broker_url,
        **access,
        isolation_level="read_committed",
        enable_auto_commit=False,
        fetch_max_bytes=MAX_REQUEST_BYTES,
        max_poll_records=10_000,
    )
    with closing(consumer):
        consumer.assign(partitions_of(consumer, *topics))
        if consumer.assignment():
            consumer.seek_to_beginning()
        for batch in read_to_end(consumer, broker_url, seconds, access):
            yield from map(Record.of, batch)


def read_to_end(
    consumer: KafkaConsumer, broker_url: str, seconds: float = 120, access: Mapping[str, object] = {}
) -> Iterator[list[ConsumerRecord]]:
    """Yield what is in the assigned partitions now, from the consumer's positions on.

    The end of the log is the end, not the last stable offset, which can be behind for a moment after a commit
    (KAFKA-10167). So a reader of committed records waits until the transactions that are open now have ended; a marker
    or an aborted record also moves the position. Raises TimeoutError if nothing moves for this many seconds.
    """
    ends = log_ends(broker_url, list(consumer.assignment()), access)
    deadline = time.monotonic() + seconds
    while behind := [f"{p.topic}[{p.partition}]" for p, end in ends.items() if consumer.position(p) < end]:
        batches = consumer.poll(500)
        if batches:
            deadline = time.monotonic() + seconds
        elif time.monotonic() > deadline:
            raise TimeoutError(f"nothing committed for {seconds} s: is a transaction open in {', '.join(behind)}?")
        yield from batches.values()


def log_ends(
    broker_url: str, partitions: list[TopicPartition], access: Mapping[str, object] = {}
) -> dict[TopicPartition, int]:
    """Return the offset after the last record or marker of each partition, committed or not."""
    with closing(KafkaAdminClient(bootstrap_servers=broker_url, **access)) as admin:
        newest = admin.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.LATEST)) if partitions else {}
        return {partition: found.offset for partition, found in newest.items()}


def partitions_of(consumer: KafkaConsumer, *topics: str) -> list[TopicPartition]:
    """Return the partitions of those topics that exist."""
    return [TopicPartition(topic, number) for topic in topics for number in consumer.partitions_for_topic(topic)]


def lag(consumer: KafkaConsumer, topic: str) -> int:
    """Return how many offsets of a topic the consumer's group has yet to commit, up to the end of the log.

    The consumer is one that reads uncommitted records, as it does by default.
    """
    ends = consumer.end_offsets(partitions_of(consumer, topic))
    return sum(end - (consumer.committed(partition) or 0) for partition, end in ends.items())
