"""A portion of the input, and the transaction that follows from it."""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from kafka import TopicPartition
from kafka.structs import ConsumerGroupMetadata

from batches import OutputBatch
from unpacking import Chunk


class Portion(NamedTuple):
    """What is read at once."""

    chunks: dict[TopicPartition, list[Chunk]]
    next_offsets: dict[TopicPartition, int]
    """What to commit. It can advance without records: past markers and aborted records."""
    group: ConsumerGroupMetadata


class Written(NamedTuple):
    """A batch that is to be written."""

    target: TopicPartition
    batch: OutputBatch
    source: TopicPartition
    """The partition that its records come from."""


@dataclass
class Transaction:
    """What is written and committed together, or not at all."""

    next_offsets: dict[TopicPartition, int]
    group: ConsumerGroupMetadata
    batches: list[Written] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    """The number of records per route."""
    reasons: list[str] = field(default_factory=list)
    """The reasons of the dead letters."""

    @property
    def size(self) -> int:
        """The bytes to be written."""
        return sum(len(written.batch.data) for written in self.batches)
