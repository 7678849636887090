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


@dataclass
class Transaction:
    """What is written and committed together, or not at all."""

    next_offsets: dict[TopicPartition, int]
    group: ConsumerGroupMetadata
    batches: list[tuple[TopicPartition, OutputBatch]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    """The number of records per route."""
    reasons: list[str] = field(default_factory=list)
    """The reasons of the dead letters."""
    error: Exception | None = None
    """Why only a part of the portion is written; to be raised after the commit."""

    @property
    def size(self) -> int:
        """The bytes to be written."""
        return sum(len(batch.data) for _, batch in self.batches)
