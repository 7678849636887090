"""How far the detector is: its lag, whether it makes progress, and what prevents that."""

import logging
import time
from contextlib import suppress

from kafka import TopicPartition
from kafka.errors import KafkaTimeoutError

from consumer import ANSWER_MS, Consumer
from settings import Settings

PROBE_MS = 5000

log = logging.getLogger("detector")


class Progress:
    """Checks the consumer every few seconds."""

    def __init__(self, consumer: Consumer, settings: Settings) -> None:
        self.consumer, self.settings = consumer, settings
        self.offsets_before: dict[TopicPartition, int] = {}
        self.waiting_before: dict[TopicPartition, int] = {}
        self.well_at = time.time()
        """When there was last progress, or nothing to read, in seconds since 1970."""

    def lags(self) -> dict[TopicPartition, int]:
        """Return, for each assigned partition, how many offsets lie between the last one read and its end."""
        offsets = self.consumer.next_offsets.copy()
        return {partition: max(0, self._end(partition) - offset) for partition, offset in offsets.items()}

    @property
    def lag(self) -> int:
        """The lag summed over all partitions."""
        return sum(self.lags().values())

    def _end(self, partition: TopicPartition) -> int:
        client = self.consumer.client
        return (client.highwater(partition) or 0) if partition in client.assignment() else 0

    def check(self) -> bool:
        """Return whether something has moved since the last time, or there is nothing to read. Raises KafkaError.

        Logs what keeps records from arriving: an open transaction, a deleted topic, or that Kafka does not answer.
        """
        if is_well := self._is_well():
            self.well_at = time.time()
        return is_well

    def _is_well(self) -> bool:
        topic = self.settings.transactions_topic
        offsets, offsets_before = self.consumer.next_offsets.copy(), self.offsets_before
        self.offsets_before = offsets
        if offsets == offsets_before and not self._is_answered(topic):
            return False
        is_there = bool(self.consumer.client.partitions_for_topic(topic))
        if not is_there:
            log.warning("The topic %s does not exist any more: create it, or start the detector again", topic)
        self._warn_of_open_transactions()
        return is_there and self.consumer.generation is not None and (offsets != offsets_before or self.lag == 0)

    def _is_answered(self, topic: str) -> bool:
        # The client does not say that Kafka is gone. A permission that is missing raises an error here. What is asked
        # for is a partition of one's own: the offset of another's is not told while a transaction is open on it.
        partition = next(iter(self.consumer.client.assignment()), TopicPartition(topic, 0))
        try:
            self.consumer.client.committed(partition, timeout_ms=PROBE_MS)
        except KafkaTimeoutError:
            log.warning("Kafka at %s (KAFKA_BROKER_URL) does not answer", self.settings.broker_url)
            return False
        return True

    def _warn_of_open_transactions(self) -> None:
        waiting = {
            partition: position
            for partition, position in self.consumer.positions.items()
            if position < self._end(partition) and not self.consumer.unread
        }
        stuck = [partition for partition, position in waiting.items() if self.waiting_before.get(partition) == position]
        ends: dict[TopicPartition, int] = {}
        with suppress(KafkaTimeoutError):
            ends = self.consumer.client.end_offsets(stuck, timeout_ms=ANSWER_MS) if stuck else {}
        for partition, end in ends.items():  # for a reader of committed records
            if end <= waiting[partition]:
                log.warning(
                    "%s[%d]: waiting at offset %d for a transaction that another producer has left open; %d offsets"
                    " follow. Kafka ends it after that producer's transaction.timeout.ms",
                    *partition,
                    waiting[partition],
                    self._end(partition) - waiting[partition],
                )
        self.waiting_before = waiting

    def warn_of_repetition(self, partition: TopicPartition) -> None:
        """Log that a partition is read from its beginning, if the outputs show that it has been read before."""
        outputs = [TopicPartition(topic, partition.partition) for topic in self.settings.outputs.values()]
        if any(self.consumer.client.end_offsets(outputs, timeout_ms=ANSWER_MS).values()):
            log.warning(
                "%s[%d]: the group %s has no offset, though the output topics are not empty. All that is still there"
                " is read again. Kafka forgets a group's offsets after offsets.retention.minutes, by default 7 days",
                *partition,
                self.settings.consumer_group,
            )
