"""Reads the topics beside the detector: counts, latency, and whether each record came out once and in the right place.

What it reads can be anything, from anyone: a value that it cannot make sense of is counted, and stops nothing.
"""

import time
from collections import Counter, deque
from contextlib import ExitStack, closing
from typing import Any, NamedTuple

from kafka import KafkaConsumer
from kafka.errors import CorruptRecordError

from demo.text import alert, dead_letter, parse
from embedded.pipeline import Pipeline
from embedded.records import partitions_of, read_to_end

RATE_SECONDS = 5
FRAUD_AMOUNT = 900
EXPECTED_SHARE = 10_001 / 99_901
"""Of the amounts from 1.00 to 1000.00, in cents, the share of 900 or more."""
ALERTS_TOPIC = "streaming.alerts"
ANSWER_MS = 3000
"""How long Kafka may take to answer."""
BEHIND_RECORDS = 200_000
"""An observer that only watches skips what is further behind, so that what it shows is current."""


class Seen(NamedTuple):
    """Something worth showing, as text, and when it was read."""

    at: float
    """Seconds since 1970."""
    texts: dict[str, str]


class Observer:
    """A reader of committed records on the input and the outputs of the detector, and of the alerts if there are any.

    If it reads from the start, it audits, and its memory grows with what is in transit. If it reads only what is new,
    its memory is bounded.
    """

    def __init__(self, pipeline: Pipeline, from_start: bool) -> None:
        """Read the pipeline's topics, from their start or only what is new.

        Raises KafkaError if no Kafka answers, LookupError if a topic does not exist.
        """
        self.pipeline = pipeline
        self.is_audit = from_start
        # A view says at once what is wrong; an audit has time.
        self.answer_ms = 20 * ANSWER_MS if from_start else ANSWER_MS
        self.topics = {"transactions": pipeline.transactions, **pipeline.routes}
        self.names = {topic: name for name, topic in self.topics.items()} | {ALERTS_TOPIC: "alerts"}
        with ExitStack() as stack:
            common = {
                "bootstrap_servers": pipeline.broker_url,
                "bootstrap_timeout_ms": ANSWER_MS,  # if there is no Kafka, to say so at once
                "enable_auto_commit": False,
            }
            self.consumer = stack.enter_context(
                closing(KafkaConsumer(**common, isolation_level="read_committed", max_poll_records=10_000))
            )
            self.group = stack.enter_context(closing(KafkaConsumer(**common, group_id=pipeline.name)))
            existing = self.consumer.topics()
            for topic in self.topics.values():
                if topic not in existing:
                    raise LookupError(f"there is no topic {topic} at {pipeline.broker_url}: is the pipeline up?")
            self.input = partitions_of(self.consumer, pipeline.transactions)
            self.partitions = partitions_of(self.consumer, *self.topics.values())
            self.consumer.assign(self.partitions)
            if from_start:
                self.consumer.seek_to_beginning(*self.partitions)
            else:
                self.consumer.seek_to_end(*self.partitions)
            self.connections = stack.pop_all()
        self.counts: Counter[str] = Counter()
        """The records of each topic, by its key in `topics`."""
        self.newest: dict[str, deque[Seen]] = {name: deque(maxlen=8) for name in ("fraud", "dead_letter", "alerts")}
        self.latencies: deque[float] = deque(maxlen=5000)
        """Seconds from a record's creation until it was read from an output, the newest last."""
        self.history: deque[tuple[float, Counter[str]]] = deque([(time.monotonic(), Counter())])
        self.lag = 0
        self.committed = 0
        self.committed_at = self.written_at = time.monotonic()
        """When the group last had committed more than before, or everything; and when a transaction was last read."""
        self.balance: Counter[tuple[int, bytes | None]] = Counter()
        """A record of the input adds one, the same record in an output subtracts one. What is not 0 in the end was
        lost or duplicated; zeros are dropped, so memory is bounded by what is in transit."""
        self.misrouted = 0
        self.has_alerts = False
        """Whether there is a topic of alerts, which the observer then reads as well."""
        self.skipped = 0
        """Offsets passed over: something in them cannot be read, or they were too far behind."""

    def poll(self, seconds: float) -> None:
        """Read what there is, or wait for it up to this many seconds. Raises KafkaError if Kafka is away."""
        try:
            for records in self.consumer.poll(timeout_ms=int(seconds * 1000)).values():
                self._take(records)
        except CorruptRecordError:  # such as the name of a header that is not UTF-8: the client cannot read past it
            self._skip_to_end()
        if time.monotonic() - self.history[-1][0] >= 1:
            self.lag_now()
            self._look_for_alerts()
            self.history.append((time.monotonic(), self.counts.copy()))
            if len(self.history) > RATE_SECONDS + 1:
                self.history.popleft()
            if not self.is_audit and self._behind() > BEHIND_RECORDS:
                self._skip_to_end()

    def read_to_end(self) -> None:
        """Read all that has been written until now. Raises TimeoutError if a transaction stays open."""
        for records in read_to_end(self.consumer, self.pipeline.broker_url):
            self._take(records)

    def _take(self, records: list[Any]) -> None:
        name = self.names[records[0].topic]
        self.counts[name] += len(records)
        now = time.time()
        if name == "transactions":
            self.written_at = time.monotonic()
        for record in records:
            if name == "alerts":
                self.newest[name].append(Seen(now, alert(record.value)))
                continue
            if self.is_audit:
                identity = (record.partition, record.value)
                self.balance[identity] += 1 if name == "transactions" else -1
                if not self.balance[identity]:
                    del self.balance[identity]
            if name != "transactions":
                self.latencies.append(max(0.0, now - record.timestamp / 1000))
            if name == "dead_letter":
                self.newest[name].append(Seen(now, dead_letter(record)))
            elif name in ("legit", "fraud"):
                transaction = parse(record.value)
                is_fraud = transaction is not None and transaction.amount >= FRAUD_AMOUNT
                self.misrouted += transaction is None or is_fraud != (name == "fraud")
                if transaction and name == "fraud":
                    self.newest[name].append(Seen(now, transaction.texts()))

    def lag_now(self) -> int:
        """Ask Kafka how many offsets the detector has yet to commit. Raises KafkaTimeoutError if it is away."""
        # In this order, as the group may commit meanwhile.
        committed = sum(self.group.committed(partition, timeout_ms=self.answer_ms) or 0 for partition in self.input)
        ends = self.group.end_offsets(self.input, timeout_ms=self.answer_ms)
        self.lag = sum(ends.values()) - committed
        if committed != self.committed or not self.lag:
            self.committed, self.committed_at = committed, time.monotonic()
        return self.lag

    def _look_for_alerts(self) -> None:
        if self.has_alerts or ALERTS_TOPIC not in self.consumer.topics():
            return
        self.has_alerts = True
        added = partitions_of(self.consumer, ALERTS_TOPIC)
        self.partitions += added
        self.consumer.assign(self.partitions)
        starts, ends = self.consumer.beginning_offsets(added), self.consumer.end_offsets(added)
        for partition in added:  # the newest alerts are worth showing, however old they are
            self.consumer.seek(partition, max(starts[partition], ends[partition] - 8))

    def _behind(self) -> int:
        marks = {partition: self.consumer.highwater(partition) for partition in self.partitions}
        return sum(mark - self.consumer.position(partition) for partition, mark in marks.items() if mark)

    def _skip_to_end(self) -> None:
        before = {partition: self.consumer.position(partition) for partition in self.partitions}
        self.consumer.seek_to_end(*self.partitions)
        self.skipped += sum(self.consumer.position(partition) - at for partition, at in before.items())

    def rate(self, name: str) -> float:
        """Return the records per second of a topic, over the last RATE_SECONDS."""
        (since, before), (until, after) = self.history[0], self.history[-1]
        return (after[name] - before[name]) / (until - since) if until > since else 0.0

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
        self.connections.close()
