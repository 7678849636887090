"""The input: read as a member of the consumer group, in portions of bounded size."""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError, KafkaTimeoutError
from kafka.structs import ConsumerGroupMetadata, MemberState

from client import connect, read_whole_batches
from portion import Portion
from settings import Settings
from signals import Signals
from unpacking import Chunk, unpack
from varints import BatchError

FETCH_BYTES = 2 * 1024 * 1024
"""The most a fetch returns, unless a single batch is larger."""

PACE_SECONDS = 0.02
"""The minimum time between two polls, unless there is a backlog. At low rates each poll becomes a transaction, whose
cost is its six requests, not its records."""

PORTION_BYTES, PORTION_RECORDS = FETCH_BYTES, 30_000
"""A portion ends with the chunk that reaches one of these, counted as decompressed. This bounds the
memory and time of a transaction for any input."""

REJOIN_SECONDS = 15
"""A rebalance that takes longer ends the process. A rebalance waits for members in a transaction, or presumed dead."""

LOST = "%s[%d]: %d offsets are lost, from %d on: Kafka deleted them unread (retention.ms, retention.bytes)"
ENDS_EARLIER = (
    "%s[%d] ended before offset %d, which had been read: Kafka has lost records, or the topic is a new one of this"
    " name. Reading again, from offset %d on"
)

POLL_MS = 500
ANSWER_MS = 20_000

log = logging.getLogger("detector")


class Consumer:
    """Reads topics as a member of a group. Its assignment and positions change with each rebalance."""

    def __init__(
        self,
        settings: Settings,
        signals: Signals,
        topics: Sequence[str],
        on_assignment: Callable[[Mapping[TopicPartition, int | None]], None],
        replayed: Collection[str] = (),
    ) -> None:
        """Subscribe. Raises KafkaError.

        After each rebalance on_assignment gets this instance's partitions, each with its committed offset or None.
        Reading begins there, or at the beginning if the topic is replayed.
        """
        self.on_assignment, self.replayed = on_assignment, replayed
        self.client: KafkaConsumer = connect(
            KafkaConsumer,
            settings,
            signals,
            group_id=settings.consumer_group,
            metrics_enabled=False,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            fetch_max_bytes=FETCH_BYTES,
            max_partition_fetch_bytes=FETCH_BYTES,
            max_poll_records=FETCH_BYTES,  # counts batches here: no limit below the fetch
            session_timeout_ms=6000,  # a killed instance is noticed after this time; the default minimum of brokers
            heartbeat_interval_ms=2000,
            metadata_max_age_ms=10_000,  # how soon a new partition is found
        )
        read_whole_batches(self.client)
        self.unread: Iterator[tuple[TopicPartition, Chunk]] | None = None  # the rest of a fetch
        self.generation: tuple[int, str] | None = None  # None during a rebalance
        self.polled_at, self.stable_at = 0.0, time.monotonic()
        self.next_offsets: dict[TopicPartition, int] = {}  # after the last portion
        self.positions: dict[TopicPartition, int] = {}  # where the next fetch begins
        self.client.subscribe(topics)
        # Asks Kafka before joining the group: otherwise the client may believe that a topic has no partitions, and
        # stay idle, or immediately join a second time.
        unknown = set(topics) - self.client.topics()
        if unknown:
            raise KafkaError(f"the partitions of {', '.join(unknown)} are not known")

    def read(self, wait: bool) -> Portion:
        """Return the next portion, empty in a rebalance or if there is nothing to read (within POLL_MS, if to wait).

        Raises KafkaError.
        """
        batches = {} if self.unread else self._poll(wait)
        group = self.client.group_metadata()
        if not self._is_stable(group):
            self.unread = self.generation = None
            return Portion({}, {}, group)
        if self.generation != (group.generation_id, group.member_id):
            self.generation, self.unread = (group.generation_id, group.member_id), None
            self._rewind()
            return Portion({}, {}, group)
        for partition, records in batches.items():
            self._check_position(partition, records[0].value.position)
        self._update_positions()
        if batches:
            self.unread = unpack(batches)
        taken = self._take()
        # Markers alone are not worth a transaction while there are records to commit.
        read_to = self.positions if wait and not taken else {p: found[-1].next_offset for p, found in taken.items()}
        next_offsets = {p: offset for p, offset in read_to.items() if offset > self.next_offsets[p]}
        self.next_offsets |= next_offsets
        return Portion(taken, next_offsets, group)

    def _poll(self, wait: bool) -> dict[TopicPartition, list[Any]]:
        pause = max(0.0, self.polled_at + PACE_SECONDS - time.monotonic())
        if pause and not wait:
            return {}
        time.sleep(pause)
        batches: dict[TopicPartition, list[Any]] = self.client.poll(timeout_ms=POLL_MS if wait else 0)
        size = sum(len(record.value.data) for records in batches.values() for record in records)
        self.polled_at = 0 if size > FETCH_BYTES // 2 else time.monotonic()  # 0 in a backlog, which needs no pace
        return batches

    def _is_stable(self, group: ConsumerGroupMetadata) -> bool:
        # Kafka would accept the offsets of a member in a rebalance: it checks neither who owns the partitions nor for
        # a negative generation. And a rebalance lasts as long as the slowest member, such as one that hangs.
        if group.state == MemberState.STABLE and group.generation_id >= 0:
            self.stable_at = time.monotonic()
            return True
        if time.monotonic() - self.stable_at > REJOIN_SECONDS:
            raise KafkaTimeoutError(f"this instance does not get into the group {group.group_id}: {group.state}")
        return False

    def _rewind(self) -> None:
        # Seeks to the committed offsets, so that what was read and dropped is read again. And the client keeps its
        # position if a rebalance gives back a partition that another instance had in between.
        self.next_offsets, self.positions = {}, {}
        partitions = self.client.assignment()
        if partitions:  # without any, the topic may be gone: whoever deleted it must recreate it
            committed = {partition: self.client.committed(partition, timeout_ms=ANSWER_MS) for partition in partitions}
            self.on_assignment(committed)
            for partition, beginning in self.client.beginning_offsets(partitions, timeout_ms=ANSWER_MS).items():
                offset = committed[partition]
                report_gap(partition, beginning if offset is None else offset, beginning)
                self.next_offsets[partition] = max(offset or 0, beginning)
                position = beginning if partition.topic in self.replayed else self.next_offsets[partition]
                self.client.seek(partition, position)
                self.positions[partition] = position

    def _check_position(self, partition: TopicPartition, found: int) -> None:
        # The client goes on elsewhere, by itself, if Kafka does not have the records that it asks for.
        expected = self.positions[partition]
        if found > expected:  # perhaps because of aborted records only
            beginning = self.client.beginning_offsets([partition], timeout_ms=ANSWER_MS)[partition]
            report_gap(partition, expected, min(found, beginning))
        if found < self.next_offsets[partition] and partition.topic not in self.replayed:
            log.error(ENDS_EARLIER, *partition, self.next_offsets[partition], found)
            self.next_offsets[partition] = found

    def _update_positions(self) -> None:
        for partition in self.next_offsets:
            position = self.client.position(partition, timeout_ms=0)
            if position is not None:  # unknown while the client asks Kafka for it
                self.positions[partition] = position

    def _take(self) -> dict[TopicPartition, list[Chunk]]:
        # Takes from the fetched chunks as many as a portion may hold.
        taken: dict[TopicPartition, list[Chunk]] = {}
        size = count = 0
        try:
            for partition, chunk in self.unread or ():
                taken.setdefault(partition, []).append(chunk)
                size, count = size + len(chunk.records), count + chunk.record_count
                if size >= PORTION_BYTES or count >= PORTION_RECORDS:
                    return taken
        except BatchError as error:
            if not taken:
                raise
            self.unread = _raise(error)  # raised next time; what precedes it is processed first
            return taken
        self.unread = None
        return taken

    def close(self) -> None:
        """Leave the group, so that others need not wait for the session timeout."""
        self.client.close()


def _raise(error: BatchError) -> Iterator[NoReturn]:
    raise error
    yield  # makes this a generator


def report_gap(partition: TopicPartition, expected: int, beginning: int) -> None:
    """Log that records are lost if the topic begins beyond the expected offset."""
    if beginning > expected:
        log.error(LOST, *partition, beginning - expected, expected)
