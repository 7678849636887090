"""How far the detector is: its lag, whether it makes progress, and what prevents that."""

import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress

from kafka import TopicPartition
from kafka.errors import KafkaError, KafkaTimeoutError

from exactly_once.consumer import Consumer
from exactly_once.kafka_python import ask_ends
from exactly_once.places import ANSWER_MS
from service.log import log
from service.settings import Cluster

PROBE_MS = 5000
END_SECONDS = 2
"""How long the leaders of all partitions together may take to say where these end."""

UNREAD_CHECKS = 12
"""After so many checks in which a partition has records and is not read, although its leader answers, the process ends:
a restart reads on. Or after twice as many as there are partitions, since in a backlog a fetch is of one of them."""

OPEN_TRANSACTION = (
    "%s[%d]: waiting at offset %d for a transaction that another producer has left open; %d offsets follow. Kafka ends"
    " it after that producer's transaction.timeout.ms"
)
NO_OFFSET = (
    "%s[%d]: the group %s has no offset, though the output topics are not empty. All that is still there is read again."
    " Kafka forgets a group's offsets after offsets.retention.minutes, by default 7 days"
)


class Progress:
    """Checks the consumer every few seconds."""

    def __init__(self, consumer: Consumer, cluster: Cluster, topic: str) -> None:
        self.consumer, self.cluster, self.topic = consumer, cluster, topic
        self.before: tuple[dict[TopicPartition, int], ...] = ()
        self.waiting_before: dict[TopicPartition, int] = {}
        self.unread = Counter[TopicPartition]()
        self.lags: dict[TopicPartition, int | None] = {}
        """For each assigned partition, the offsets between what is committed and its end; None if that is unknown."""
        self.well_at = time.time()
        """When there was last progress, or nothing to read, in seconds since 1970."""

    @property
    def lag(self) -> int | str:
        """The lag summed over all partitions; unknown during a rebalance, which may give this instance others."""
        lags = self.lags.values()
        return sum(lag or 0 for lag in lags) if None not in lags and self.consumer.generation else "unknown"

    def check(self, is_reading: bool = True) -> bool:
        """Return whether something has moved since the last time, or there is nothing to read.

        Logs what keeps records from arriving: an open transaction, a deleted topic, or a broker that does not answer.
        Raises KafkaError, also if nothing keeps them, and whoever is reading does not get them.
        """
        places = self.consumer.places
        committed = {partition: places.committed[partition] for partition in places.read_to}
        ends = ask_ends(self.consumer.client, committed, END_SECONDS)
        self.lags = {p: max(0, ends[p] - offset) if p in ends else None for p, offset in committed.items()}
        # Positions move without a commit where a job only reads again what it has read before.
        now = (committed, places.positions.copy())
        has_moved, self.before = now != self.before, now
        if not has_moved and not self._is_answered():
            return False
        for partition in committed.keys() - ends.keys():
            log.warning("%s[%d]: the broker that leads it does not answer: records may wait there", *partition)
        is_there = bool(self.consumer.client.partitions_for_topic(self.topic))
        if not is_there:
            log.warning("The topic %s does not exist any more: create it, or start this service again", self.topic)
        self._look_at_waiting(ends, is_reading)
        is_working = has_moved or not any(self.lags.values())
        is_well = is_there and is_working and self.lag != "unknown"
        self.well_at = time.time() if is_well else self.well_at
        return is_well

    def _is_answered(self) -> bool:
        # The client does not say that Kafka is gone. A permission that is missing raises an error here. What is asked
        # for is a partition of one's own: the offset of another's is not told while a transaction is open on it.
        partition = next(iter(self.consumer.client.assignment()), TopicPartition(self.topic, 0))
        try:
            self.consumer.client.committed(partition, timeout_ms=PROBE_MS)
        except KafkaTimeoutError:
            log.warning("Kafka at %s (KAFKA_BROKER_URL) does not answer", self.cluster.broker_url)
            return False
        return True

    def _look_at_waiting(self, ends: dict[TopicPartition, int], is_reading: bool) -> None:
        positions = {} if self.consumer.unread else self.consumer.places.positions
        waiting = {
            partition: position for partition, position in positions.items() if position < ends.get(partition, 0)
        }
        stuck = [partition for partition, position in waiting.items() if self.waiting_before.get(partition) == position]
        self.waiting_before, stable_ends = waiting, dict[TopicPartition, int]()
        with suppress(KafkaTimeoutError):
            stable_ends = self.consumer.client.end_offsets(stuck, timeout_ms=ANSWER_MS) if stuck else {}
        for partition, end in stable_ends.items():  # for a reader of committed records
            if end <= (position := waiting[partition]):
                log.warning(OPEN_TRANSACTION, *partition, position, ends[partition] - position)
        unread = [p for p, end in stable_ends.items() if is_reading and end > waiting[p]]
        self.unread = Counter({partition: self.unread[partition] + 1 for partition in unread})
        for partition in unread:
            if self.unread[partition] >= max(UNREAD_CHECKS, 2 * len(positions)):
                at = waiting[partition]
                raise KafkaError(f"{partition.topic}[{partition.partition}]: records from offset {at} on are not read")

    def warn_of_repetition(self, partition: TopicPartition, outputs: Iterable[str]) -> None:
        """Log that a partition is read from its beginning, if the outputs show that it has been read before."""
        theirs = [TopicPartition(topic, partition.partition) for topic in outputs]
        with suppress(KeyError):  # from the client, where this user may not see one of them: the next step says so
            if any(self.consumer.client.end_offsets(theirs, timeout_ms=ANSWER_MS).values()):
                log.warning(NO_OFFSET, *partition, self.consumer.group)
