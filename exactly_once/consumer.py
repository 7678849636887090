"""The input: read as a member of the consumer group, in portions of bounded size."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

from kafka import TopicPartition, errors
from kafka.errors import KafkaError
from kafka.structs import ConsumerGroupMetadata, MemberState

from exactly_once.decoding import Chunk
from exactly_once.job import Input, Portion
from exactly_once.places import OnAssignment, Places
from exactly_once.unpacking import unpack
from exactly_once.whole_batches import join
from service.settings import Cluster
from service.stopping import Stopping

FETCH_BYTES = 2 * 1024 * 1024
"""The most a fetch returns, unless a single batch is larger."""

PACE_SECONDS = 0.02
"""The minimum time between two polls, unless there is a backlog. At low rates each poll becomes a Kafka transaction,
whose cost is its five requests, not its records."""

PORTION_BYTES, PORTION_RECORDS = FETCH_BYTES, 30_000
"""A portion ends with the chunk that reaches one of these, counted as decompressed. This bounds the
memory and time of a transaction for any input."""
LEAST_PORTION_BYTES = 64 * 1024
"""How small portions become where a quota makes us wait after each; a chunk is never divided."""

REJOIN_SECONDS = 15
"""A rebalance that takes longer ends the process. A rebalance waits for members in a transaction, or presumed dead."""
LOOK_SECONDS = 1
"""The most that counts of the time between two looks at the group: if it is more, it was this process that stood still.
"""

POLL_MS = 500


class Consumer:
    """Reads topics as a member of a group. Its assignment and positions change with each rebalance."""

    def __init__(
        self, cluster: Cluster, stopping: Stopping, group: str, inputs: Sequence[Input], on_assignment: OnAssignment
    ) -> None:
        """Subscribe. Reading begins at the committed offsets, or at the beginning of a topic that is replayed.

        Raises KafkaError.
        """
        self.group = group
        self.replayed = {input.topic for input in inputs if input.is_replayed}
        # A position moves by our reading alone, or with a line in the log (places.py).
        self.client = join(cluster, stopping, group, FETCH_BYTES, auto_offset_reset="none")
        self.places = Places(self.client, group, self.replayed, on_assignment)
        self.unread: Iterator[tuple[TopicPartition, Chunk]] | None = None  # the rest of a fetch
        self.generation: tuple[int, str] | None = None  # None during a rebalance
        self.portion_bytes = PORTION_BYTES
        self.polled_at = self.looked_at = self.unstable_seconds = 0.0
        topics = [input.topic for input in inputs]
        self.client.subscribe(topics)
        # Asks Kafka before joining the group: otherwise the client may believe that a topic has no partitions, and
        # stay idle, or immediately join a second time.
        unknown = set(topics) - self.client.topics()
        if unknown:
            raise KafkaError(f"the partitions of {', '.join(unknown)} are not known")

    def read(self, wait: bool, is_full: bool = False) -> Portion:
        """Return the next portion, empty in a rebalance or if there is nothing to read (within POLL_MS, if to wait).

        Whoever is full, and has paused the client, gets no records and stays in the group. Raises KafkaError.
        """
        batches = {} if self.unread and not is_full else self._poll(wait)
        group = self.client.group_metadata()
        if not self._is_stable(group):
            self.unread = self.generation = None
            return Portion({}, {}, group)
        if self.generation != (group.generation_id, group.member_id):
            self.generation, self.unread = (group.generation_id, group.member_id), None
            return Portion({}, self.places.rewind(), group)
        if batches:
            self.unread = unpack(batches)
        chunks = {} if is_full else self._take()
        # Past markers, aborted records and gaps the position moves without a record. That is committed together with
        # other partitions' records, or alone if there are none; but not while the rest of a fetch lies before it.
        places = self.places
        passed = places.positions if (chunks or wait) and not self.unread else {}
        read_to = passed | {partition: taken[-1].next_offset for partition, taken in chunks.items()}
        offsets = {p: offset for p, offset in read_to.items() if offset > places.read_to[p]}
        if stuck := [p for p in chunks if p not in offsets and p.topic not in self.replayed]:
            raise KafkaError(f"{stuck[0].topic}[{stuck[0].partition}]: read below offset {places.read_to[stuck[0]]}")
        places.read_to |= offsets
        return Portion(chunks, offsets, group)

    def _poll(self, wait: bool) -> dict[TopicPartition, list[Any]]:
        pause = max(0.0, self.polled_at + PACE_SECONDS - time.monotonic())
        if pause and not wait:
            return {}
        time.sleep(pause)
        batches: dict[TopicPartition, list[Any]] = {}
        try:
            batches = self.client.poll(timeout_ms=POLL_MS if wait else 0)
            self.places.update()
        except errors.NoOffsetForPartitionError:  # newly assigned: rewind says where to begin
            pass
        except errors.OffsetOutOfRangeError as error:
            self.places.reposition(dict.fromkeys(error.args[0]))
        except errors.LogTruncationError as error:
            self.places.reposition(error.divergent_offsets)
            batches = {p: found for p, found in batches.items() if p not in error.divergent_offsets}
        except errors.InconsistentGroupProtocolError:
            raise KafkaError(
                f"the group {self.group} has another kind of member, with an assignor that this service does not have:"
                " give this service a CONSUMER_GROUP of its own, or end the other"
            ) from None
        size = sum(len(record.value.data) for records in batches.values() for record in records)
        self.polled_at = 0 if size > FETCH_BYTES // 2 else time.monotonic()  # 0 in a backlog, which needs no pace
        return batches

    def _is_stable(self, group: ConsumerGroupMetadata) -> bool:
        # Kafka would accept the offsets of a member in a rebalance: it checks neither who owns the partitions nor for
        # a negative generation. And a rebalance lasts as long as the slowest member, such as one that hangs.
        if group.state == MemberState.STABLE and group.generation_id >= 0:
            self.unstable_seconds = 0
            return True
        now = time.monotonic()
        self.unstable_seconds += min(now - self.looked_at, LOOK_SECONDS)
        self.looked_at = now
        if self.unstable_seconds > REJOIN_SECONDS:
            raise errors.KafkaTimeoutError(f"this instance does not get into the group {group.group_id}: {group.state}")
        return False

    def _take(self) -> dict[TopicPartition, list[Chunk]]:
        # Takes as many as a portion may hold.
        chunks: dict[TopicPartition, list[Chunk]] = {}
        size = count = 0
        for partition, chunk in self.unread or ():
            chunks.setdefault(partition, []).append(chunk)
            size, count = size + len(chunk.records) + chunk.skipped, count + chunk.record_count
            if size >= self.portion_bytes or count >= PORTION_RECORDS:
                return chunks
        self.unread = None
        return chunks

    def close(self) -> None:
        """Leave the group, so that others need not wait for the session timeout."""
        self.client.close()
