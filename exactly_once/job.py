"""What a service gives to the engine, and what passes between them."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from kafka import TopicPartition
from kafka.partitioner.default import murmur2
from kafka.structs import ConsumerGroupMetadata

from exactly_once.decoding import Chunk, Record, decode
from exactly_once.encoding import Columns, OutputBatch, batch_bytes, content_of, encode


class Input(NamedTuple):
    """A topic that is read."""

    topic: str
    is_replayed: bool = False
    """Whether it is read from its beginning after each rebalance, and not from the committed offsets on."""
    is_created: bool = True
    """Whether it is created where it is missing, with the broker's number of partitions; else that is an error."""


class Output(NamedTuple):
    """A topic that is written. Where it is missing it is created, with as many partitions as the first input has."""

    topic: str
    configs: Mapping[str, str] = {}
    """What it is to have when it is created, beyond what every output has."""
    keeps_partition: bool = False
    """Whether a record goes to the partition that it came from. Then it gets more partitions when the input does."""
    is_origin: bool = False
    """Whether the records were in this topic before. Then it may take none of the future, as it took these."""


class Portion(NamedTuple):
    """What is read at once, decompressed but not decoded."""

    chunks: dict[TopicPartition, list[Chunk]]
    offsets: dict[TopicPartition, int]
    """What to commit. It can advance without records: past markers and aborted records."""
    group: ConsumerGroupMetadata

    def records(self) -> Iterator[tuple[TopicPartition, Record]]:
        """Yield each record with the partition that it comes from."""
        for source, chunks in self.chunks.items():
            for chunk in chunks:
                for record in decode(chunk):
                    yield source, record


class Target(NamedTuple):
    """What is known of an output while the service runs."""

    partitions: int
    max_message_bytes: int
    """The largest batch that the topic accepts."""
    least_timestamp: int = -(2**63)
    """The smallest timestamp that it accepts. A broker that compresses what we write takes none below -1, which stands
    for no time."""

    def refusal(self, batch_bytes: int, timestamp: int) -> str:
        """Return why a record does not get into the topic, by the size of a batch with nothing else; "" if it does."""
        if batch_bytes > self.max_message_bytes:
            return f"too large: {batch_bytes:,} bytes, more than the {self.max_message_bytes:,} of max.message.bytes"
        if not self.least_timestamp <= timestamp < 2**63:
            return f"bad time: {timestamp} is more than 64 bits, or below -1 for the compression.type"
        return ""


class Outgoing(NamedTuple):
    """A batch that is to be written."""

    target: TopicPartition
    batch: OutputBatch
    source: TopicPartition
    """The partition that its records come from."""


@dataclass
class Out:
    """What follows from a portion: written and committed together, with the portion's offsets, or not at all."""

    offsets: dict[TopicPartition, int]
    group: ConsumerGroupMetadata
    targets: Mapping[str, Target]
    counts: Counter[str] = field(default_factory=Counter)
    """What the service reports, by name."""
    reasons: list[str] = field(default_factory=list)
    """The reasons of the dead letters."""
    is_cut: bool = False
    """Whether a job has lowered `offsets` to what it has processed, because it is too much: the rest is read again."""
    batches: list[Outgoing] = field(default_factory=list)
    _records: defaultdict[tuple[TopicPartition, TopicPartition], Columns] = field(
        default_factory=lambda: defaultdict(lambda: Columns([], [], []))
    )

    def write(
        self,
        topic: str,
        source: TopicPartition,
        cause: Record,
        *,
        key: bytes | None = None,
        value: bytes | None,
        timestamp: int | None = None,
    ) -> str:
        """Write a record that follows from another, with its timestamp unless one is given.

        It goes to the partition of its key, or without a key to the one that its cause came from. Returns why the topic
        does not take it, and then it is not written; "" if it is.
        """
        time = cause.timestamp if timestamp is None else timestamp
        return self.write_content(topic, source, cause.offset, time, content_of(key, value), key)

    def write_content(
        self, topic: str, source: TopicPartition, offset: int, timestamp: int, content: bytes, key: bytes | None = None
    ) -> str:
        """Write a record of this content, which follows from what is at this place, as `write` does, by this key."""
        target = self.targets[topic]
        number = source.partition if key is None else murmur2(key) & 0x7FFFFFFF  # as Kafka's own clients do
        if not (refusal := target.refusal(batch_bytes(content), timestamp)):
            partition = TopicPartition(topic, number % target.partitions)
            self._records[partition, source].add(offset, timestamp, content)
        return refusal

    def finish(self) -> None:
        """Encode what has been written. Called once, after the job has processed the portion."""
        for (target, source), columns in self._records.items():
            for batch in encode(columns, self.targets[target.topic].max_message_bytes):
                self.batches.append(Outgoing(target, batch, source))
        self._records.clear()

    @property
    def size(self) -> int:
        """The bytes to be written."""
        return sum(len(written.batch.data) for written in self.batches)


class Job:
    """What is decided; a service derives its own. All calls come one at a time, but not all from the same thread.

    What it writes is committed with the input's offsets, or never: after a failure or a rebalance the same records
    come again. So it keeps no state beyond a call, except what `assigned` begins afresh, or what only makes it faster.
    """

    inputs: Sequence[Input]
    """What is read. Its first topic decides how many partitions there are."""
    outputs: Sequence[Output]
    """What is written."""
    counted: Sequence[str]
    """The names in `Out.counts`, as the log shows them."""

    def assigned(self, committed: Mapping[TopicPartition, int]) -> None:
        """Start afresh with these partitions, each with the offset before which all is committed.

        Called after each rebalance, between two portions. Must not block for long: the group waits for it. A job
        without state leaves it as it is.
        """

    def is_done(self, committed: Mapping[TopicPartition, int]) -> bool:
        """Return whether the process is to end, with exit code 0, as all is committed before these offsets."""
        return False

    def process(self, portion: Portion, out: Out) -> None:
        """Write to `out` what follows from a portion.

        Called in a thread of its own while Kafka commits the previous portion. Must not block, and must not raise for
        anything that a record may hold: an error ends the process, which reads the same records again.
        """
        raise NotImplementedError
