"""Reads the four topics beside the detector: counts, latency, and whether each record came out once and rightly."""

import json
import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

from kafka import KafkaConsumer, TopicPartition

RATE_SECONDS = 5
FRAUD_AMOUNT = 900


class Observer:
    """A reader of committed records on the input and the outputs of the detector."""

    def __init__(self, broker_url: str, topics: Mapping[str, str], group: str, from_start: bool) -> None:
        """Read the topics, given by their roles (transactions, legit, fraud, dead_letter).

        Raises LookupError where one does not exist.
        """
        self.topics = topics
        self.consumer = KafkaConsumer(
            bootstrap_servers=broker_url,
            bootstrap_timeout_ms=5000,  # where no Kafka is, to say so at once
            isolation_level="read_committed",
            enable_auto_commit=False,
            max_poll_records=10_000,
        )
        self.group = KafkaConsumer(bootstrap_servers=broker_url, group_id=group, enable_auto_commit=False)
        self.roles = {topic: role for role, topic in topics.items()}
        existing = self.consumer.topics()
        for topic in self.roles:
            if topic not in existing:
                raise LookupError(f"there is no topic {topic} at {broker_url}: is the pipeline up?")
        self.partitions = [
            TopicPartition(t, p) for t in self.roles for p in self.consumer.partitions_for_topic(t) or ()
        ]
        self.consumer.assign(self.partitions)
        if from_start:
            self.consumer.seek_to_beginning(*self.partitions)
        else:
            self.consumer.seek_to_end(*self.partitions)
        self.counts: Counter[str] = Counter()
        self.frauds: deque[dict[str, Any]] = deque(maxlen=8)
        self.latencies: deque[float] = deque(maxlen=5000)
        self.history: deque[tuple[float, Counter[str]]] = deque([(time.monotonic(), Counter())])
        self.lag = 0
        # A record of the input adds one, the same record in an output takes one away; what is not 0 in the end was
        # lost or doubled. Those at 0 are forgotten, so memory is bounded by what is under way.
        self.balance: Counter[tuple[int, bytes | None]] = Counter()
        self.misrouted = 0

    def poll(self, seconds: float) -> None:
        """Read what there is, or wait for it so long at the most."""
        for partition, records in self.consumer.poll(timeout_ms=int(seconds * 1000)).items():
            role = self.roles[partition.topic]
            self.counts[role] += len(records)
            now = time.time()
            for record in records:
                self._check(role, record)
                if role != "transactions":
                    self.latencies.append(now - record.timestamp / 1000)
        if time.monotonic() - self.history[-1][0] >= 1:
            self.history.append((time.monotonic(), self.counts.copy()))
            self.lag_now()
            if len(self.history) > RATE_SECONDS + 1:
                self.history.popleft()

    def _check(self, role: str, record: Any) -> None:
        identity = (record.partition, record.value)
        self.balance[identity] += 1 if role == "transactions" else -1
        if not self.balance[identity]:
            del self.balance[identity]
        if role in ("legit", "fraud"):
            transaction = json.loads(record.value)
            self.misrouted += (transaction["amount"] >= FRAUD_AMOUNT) != (role == "fraud")
            if role == "fraud":
                self.frauds.append(transaction)

    def lag_now(self) -> int:
        """Ask Kafka how many records the detector has yet to commit."""
        inputs = [partition for partition in self.partitions if partition.topic == self.topics["transactions"]]
        ends = self.group.end_offsets(inputs)
        self.lag = sum(end - (self.group.committed(partition) or 0) for partition, end in ends.items())
        return self.lag

    def read_to_end(self) -> None:
        """Read all that has been committed until now."""
        ends = self.consumer.end_offsets(self.partitions)
        while any(self.consumer.position(partition) < end for partition, end in ends.items()):
            self.poll(0.1)

    def rate(self, role: str) -> float:
        """Return the records a second of a topic, over the last RATE_SECONDS."""
        (since, before), (until, after) = self.history[0], self.history[-1]
        return (after[role] - before[role]) / (until - since) if until > since else 0.0

    @property
    def fraud_share(self) -> float:
        """The share of fraud among the valid transactions, from 0 to 1."""
        valid = self.counts["legit"] + self.counts["fraud"]
        return self.counts["fraud"] / valid if valid else 0.0

    def latency(self, percent: float) -> float:
        """Return a percentile of the time from a record's creation until it was read from an output, in ms."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] * 1000 if ordered else 0.0

    @property
    def lost(self) -> int:
        """How many records of the input are in no output."""
        return sum(count for count in self.balance.values() if count > 0)

    @property
    def doubled(self) -> int:
        """How many records are in the outputs beyond those of the input."""
        return -sum(count for count in self.balance.values() if count < 0)

    def close(self) -> None:
        """Disconnect."""
        self.consumer.close()
        self.group.close()
