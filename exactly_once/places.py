"""Where a member of the group is in its partitions: a position moves by reading, or with a line in the log."""

from collections.abc import Callable, Collection, Mapping

from kafka import KafkaConsumer, OffsetAndMetadata, TopicPartition

from exactly_once.producer import OURS
from service.log import log

ANSWER_MS = 20_000

LOST = "%s[%d]: %d offsets are lost, from %d on: Kafka deleted them unread (retention.ms, retention.bytes)"
ENDS_EARLIER = (
    "%s[%d] ended before offset %d, which had been read: Kafka has lost records, or the topic is a new one of this"
    " name. Reading again, from offset %d on"
)
FOREIGN = (
    "%s[%d]: the offset %d of the group %s was committed by another program, or reset by hand: going on from there%s."
    " A program that only looks needs a group of its own (docs/operations.md)"
)

OnAssignment = Callable[[Mapping[TopicPartition, int | None]], None]
"""Called after each rebalance with this instance's partitions, each with its committed offset or None."""


class Places:
    """The offsets of a consumer's partitions. All of them begin afresh with each rebalance."""

    def __init__(
        self, client: KafkaConsumer, group: str, replayed: Collection[str], on_assignment: OnAssignment
    ) -> None:
        self.client, self.group, self.replayed, self.on_assignment = client, group, replayed, on_assignment
        self.positions: dict[TopicPartition, int] = {}
        """Where the next fetch begins."""
        self.read_to: dict[TopicPartition, int] = {}
        """Where the next portion begins; never before what is committed."""
        self.committed: dict[TopicPartition, int] = {}
        """As far as this instance knows, of former partitions too."""
        self.gaps: list[tuple[TopicPartition, range]] = []
        """What Kafka deleted unread, to be logged when it is passed for good."""

    def update(self) -> None:
        """Take over the client's positions, after a poll. Raises LogTruncationError."""
        for partition in self.positions.keys() & self.client.assignment():
            position = self.client.position(partition, timeout_ms=0)
            if position is not None:  # unknown while the client asks about it
                self.positions[partition] = position

    def rewind(self) -> dict[TopicPartition, int]:
        """Seek to the committed offsets, and return those that Kafka does not have from us. Raises KafkaError.

        What was read and dropped is read again; and the client would keep its position if a rebalance gives back a
        partition that another instance had in between. Committed before anything is written, the offsets tell a later
        start that it is not the first, and that what is logged here has been logged; and the lag ends if all is read.
        """
        self.read_to, self.positions, self.gaps = {}, {}, []
        partitions = self.client.assignment()
        if not partitions:  # the topic may be gone: whoever deleted it must recreate it
            return {}
        found = {p: self.client.committed(p, metadata=True, timeout_ms=ANSWER_MS) for p in partitions}
        self.on_assignment({p: None if there is None else there.offset for p, there in found.items()})
        for partition, beginning in self.client.beginning_offsets(partitions, timeout_ms=ANSWER_MS).items():
            there = found[partition]
            if there and there.metadata != OURS:
                skipped = range(self.committed.get(partition, there.offset), there.offset)
                past = f", past {len(skipped)} offsets, from {skipped.start} on, unread by this one" if skipped else ""
                log.warning(FOREIGN, *partition, there.offset, self.group, past)
            offset = there.offset if there else beginning
            if gap := range(offset, beginning):
                self.gaps.append((partition, gap))
            self.committed[partition] = offset
            self.read_to[partition] = max(offset, beginning)
            position = beginning if partition.topic in self.replayed else self.read_to[partition]
            self.client.seek(partition, position)
            self.positions[partition] = position
        ours = {partition: there.offset for partition, there in found.items() if there and there.metadata == OURS}
        return {partition: offset for partition, offset in self.read_to.items() if ours.get(partition) != offset}

    def reposition(self, places: Mapping[TopicPartition, OffsetAndMetadata | None]) -> None:
        """Go on at these places, or at the beginnings. Raises KafkaError.

        Kafka does not have the records at the positions of these partitions. As the next ones are others than expected,
        their place has to be committed even before them: that is why read_to stays, or becomes, lower.
        """
        beginnings = self.client.beginning_offsets(self.positions.keys() & places, timeout_ms=ANSWER_MS)
        for partition, beginning in beginnings.items():
            expected, place = self.positions[partition], places[partition]
            offset = min(place.offset, expected) if place else beginning
            if beginning > expected:
                offset = beginning
                if gap := range(max(expected, self.read_to[partition]), beginning):  # none of a replay, perhaps
                    self.gaps.append((partition, gap))
            elif offset < expected:
                log.error(ENDS_EARLIER, *partition, expected, offset)
                self.read_to[partition] = offset - 1
            self.client.seek(partition, offset)
            self.positions[partition] = offset

    def note(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Remember what has been committed, and log that records are lost if there is a gap before it.

        Not when the gap is found: what is not committed is read again, and the gap found again, perhaps by others.
        """
        self.committed |= offsets
        for partition, gap in self.gaps.copy():
            if offsets.get(partition, 0) >= gap.stop:
                self.gaps.remove((partition, gap))
                log.error(LOST, *partition, len(gap), gap.start)
