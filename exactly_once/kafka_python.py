"""Below kafka-python's public interface: whole record batches are written; also asking and connecting.

The client's interface decodes and encodes each record, which takes ten times as long as all other work.
Below it the client moves whole batches. The private names used for this are marked "private", and occur in this file,
in whole_batches.py, and one in service/refusal.py; tests/test_kafka_python.py has a test for each. Because of them, the
client's version is pinned.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.errors import (
    InvalidTimestampError,
    KafkaError,
    LeaderNotAvailableError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
)
from kafka.producer.producer_batch import ProducerBatch
from kafka.producer.transaction_manager import TransactionalRequestResult
from kafka.protocol.consumer import ListOffsetsRequest
from kafka.record import MemoryRecordsBuilder
from kafka.structs import ConsumerGroupMetadata

from exactly_once.encoding import OutputBatch
from service.connecting import connect as connect_client
from service.settings import Cluster
from service.stopping import Stopping

# --- writing ---


class WrittenBatch(ProducerBatch):  # private
    """A batch on its way."""

    record_count = 1  # the client would split a rejected batch of several records, and never complete its future
    offsets: Sequence[int] = ()

    def check(self, source: TopicPartition) -> None:
        """Raise KafkaError unless Kafka has accepted the batch, whose records come from this partition."""
        result: Any = self.produce_future
        topic, partition = self.topic_partition
        if not result.succeeded():
            raise KafkaError(f"{topic}[{partition}]: what became of a batch is not known")
        _, _, error_of_record = result.value  # a failed batch has a result as well
        if error_of_record is None:
            return
        # Kafka names the records that it does not take; all others have failed because of them.
        errors = [(error_of_record(index), offset) for index, offset in enumerate(self.offsets)]
        error, offset = next((found for found in errors if type(found[0]) is not KafkaError), errors[0])
        setting = REFUSED_BY.get(type(error), "")
        raise KafkaError(
            f"{topic}[{partition}] does not take the record at offset {offset} of {source.topic}[{source.partition}]:"
            f" {error!r}{setting and f', see {setting} of {topic}'}"
        )


REFUSED_BY: dict[type[Exception], str] = {
    InvalidTimestampError: "message.timestamp.before.max.ms and message.timestamp.after.max.ms",
    MessageSizeTooLargeError: "max.message.bytes",
    RecordListTooLargeError: "segment.bytes",
}
"""The setting of a topic by which its broker refuses a record with this error."""


def write_whole_batch(producer: KafkaProducer, topic: str, partition: int, output: OutputBatch) -> WrittenBatch:
    """Give a transactional producer a batch to send, as send() does with one that it has filled. Raises KafkaError."""
    target, count = TopicPartition(topic, partition), len(output.offsets)
    producer.partitions_for(topic)  # without it the client does not look for the leader
    records = MemoryRecordsBuilder(magic=2, compression_type=0, batch_size=0)
    builder = records._builder  # private, like all that follows
    builder._buffer = output.data
    builder._num_records, builder._last_offset = count, count - 1
    builder._first_timestamp, builder._max_timestamp = output.base_timestamp, output.max_timestamp
    records._next_offset = count
    batch = WrittenBatch(target, records)
    batch.offsets = output.offsets
    producer._transaction_manager.maybe_add_partition_to_transaction(target)  # type: ignore[union-attr]
    accumulator = producer._accumulator
    with accumulator._tp_lock(target):
        accumulator._batches[target].append(batch)
        accumulator._incomplete.add(batch)
    return batch


Offsets = Mapping[TopicPartition, OffsetAndMetadata]


def begin_with_offsets(
    producer: KafkaProducer, partitions: Iterable[TopicPartition], offsets: Offsets, group: ConsumerGroupMetadata
) -> TransactionalRequestResult:
    """Begin a transaction in these partitions that commits these offsets, without waiting. Raises KafkaError."""
    producer.begin_transaction()
    manager: Any = producer._transaction_manager  # private, like the sender
    for partition in partitions:
        manager.maybe_add_partition_to_transaction(partition)
    result: TransactionalRequestResult = manager.send_offsets_to_transaction(offsets, group)
    producer._sender.wakeup()
    return result


# --- asking ---


def ask_ends(
    consumer: KafkaConsumer, partitions: Iterable[TopicPartition], seconds: float
) -> dict[TopicPartition, int]:
    """Return where partitions end, committed or not: those whose leader answers within so many seconds."""
    client: Any = consumer._client  # private, like its manager
    manager, until = client._manager, time.monotonic() + seconds
    led: dict[int, list[TopicPartition]] = defaultdict(list)
    for partition in partitions:
        led[manager.cluster.leader_for_partition(partition)].append(partition)
    # One request for each leader: a connection takes only some at a time.
    answers = [manager.call_soon(_ask_leader, manager, leader, theirs) for leader, theirs in led.items()]
    ends: dict[TopicPartition, int] = {}
    for answer in answers:
        with suppress(KafkaError):
            ends |= manager.run(manager.wait_for, answer, max(1, int((until - time.monotonic()) * 1000)))
    return ends


async def _ask_leader(manager: Any, leader: int | None, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
    if leader is None or leader == -1:
        raise LeaderNotAvailableError(f"{partitions}")
    asked = ListOffsetsRequest.ListOffsetsTopic
    by_topic: dict[str, list[Any]] = defaultdict(list)
    for topic, number in partitions:
        latest = asked.ListOffsetsPartition(partition_index=number, current_leader_epoch=-1, timestamp=-1)
        by_topic[topic].append(latest)
    topics = [asked(name=topic, partitions=latest) for topic, latest in by_topic.items()]
    response = await manager.send(ListOffsetsRequest(isolation_level=0, topics=topics, min_version=1), node_id=leader)
    return {
        TopicPartition(topic.name, found.partition_index): int(found.offset)
        for topic in response.topics
        for found in topic.partitions
        if not found.error_code
    }


# --- connecting ---


def advertised_addresses(admin: KafkaAdminClient) -> list[str]:
    """Return the address of each broker, as the brokers advertise them."""
    return [f"{broker.host}:{broker.port}" for broker in admin._manager.cluster.brokers()]  # private


def connect(client: Callable[..., Any], cluster: Cluster, stopping: Stopping, **config: object) -> Any:
    """Return a client of this class once Kafka answers. Ends the process, with exit code 0, if a signal comes first.

    Blocks as long as Kafka is away. Raises KafkaError if Kafka turns this client away.
    """
    is_admin = client is KafkaAdminClient
    # An admin client looks topics up, at the start, when a broker may be new and slow, or just coming up.
    patience = {
        "request_timeout_ms": 15_000 if is_admin else 5000,
        "reconnect_backoff_max_ms": 250 if is_admin else 1000,
    }
    connected = connect_client(client, cluster, stopping, **patience, **config)
    never_create_topics(connected)
    return connected


def never_create_topics(client: Any) -> None:
    """Keep a client from creating a deleted topic again, with the broker's number of partitions, by asking for it."""
    # Private: the clients do not pass on their option of this name.
    metadata = client._metadata if isinstance(client, KafkaProducer) else client._manager.cluster
    metadata.config["allow_auto_create_topics"] = False
