"""Reads the topics beside the detector: counts, latency, and whether each record came out once and in the right place.

What it reads can be anything, from anyone: a value that it cannot make sense of is counted, and stops nothing.
"""

import re
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from kafka import KafkaAdminClient, KafkaConsumer, OffsetSpec, TopicPartition
from kafka.errors import (
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    KafkaError,
    NotCoordinatorError,
    TopicAuthorizationFailedError,
)

from demo.text import alert, dead_letter, parse, reference, visible
from detector.rule import FRAUD_AMOUNT, decide
from embedded.pipeline import Pipeline
from embedded.records import log_ends
from exactly_once import Record
from exactly_once.kafka_python import never_create_topics
from exactly_once.unpacking import records_of
from exactly_once.whole_batches import read_whole_batches
from generator.transactions import CENTS

RATE_SECONDS = 5
EXPECTED_SHARE = sum(cents / 100 >= FRAUD_AMOUNT for cents in CENTS) / len(CENTS)
"""The share of fraud, by the detector's rule, among what the generator writes."""
ALERTS_TOPIC = "streaming.alerts"
SMURFING_GROUP, ALERTER_GROUP = "smurfing-detector", "alerter"
NEWEST_COUNT = 8
"""So many records of a kind are shown."""
ANSWER_MS = 3000
"""How long Kafka may take to answer."""
END_SECONDS = 120
"""How long a transaction may stay open when all is read to the end."""
FETCH_BYTES = 2 * 1024 * 1024
"""The most a fetch returns, unless a single batch is larger."""
MOST_AT_ONCE = 10_000
"""So many records are read before something is shown: a small batch can hold millions."""
BEHIND_RECORDS = 200_000
"""An observer that only watches skips what is further behind, so that what it shows is current."""

GENERATED = re.compile(rb'\{"source": "\w{12}", "target": "\w{12}", "amount": [0-9.]+, "currency": "EUR"\}')
"""How the generator's values look."""

Identity = tuple[int, bytes | int | None]
"""What a record of the input and the same record in an output have in common: partition and value. What cannot be read
has its offset instead of a value."""
NO_COORDINATOR_YET = (CoordinatorNotAvailableError, CoordinatorLoadInProgressError, NotCoordinatorError)
"""Kafka makes its topic for groups only when the first one comes."""


class Seen(NamedTuple):
    """Something worth showing, as text, and when it was read."""

    at: float
    """Seconds since 1970."""
    texts: dict[str, str]


@dataclass
class Group:
    """How far a service is in a topic, by its consumer group."""

    id: str
    topic: str
    lag: int = 0
    """How many offsets it has yet to commit."""
    committed: int = 0
    committed_at: float = field(default_factory=time.monotonic)
    """When it last had committed more than before, or everything."""


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
        self.common: dict[str, Any] = {
            "bootstrap_servers": pipeline.broker_url,
            **pipeline.access,
            "bootstrap_timeout_ms": ANSWER_MS,  # if there is no Kafka, to say so at once
        }
        self.admin: KafkaAdminClient | None = None
        self.groups = {"detector": Group(pipeline.name, pipeline.transactions)}
        self.partitions: dict[TopicPartition, object] = {}
        """Those that are read, each with the id of its topic, which another topic of the same name does not have."""
        self.existing: list[TopicPartition] = []
        """Those that there are."""
        self.missing: dict[str, float] = {}
        """The topics that there are not, and since when."""
        self.consumer = KafkaConsumer(
            **self.common,
            enable_auto_commit=False,
            auto_offset_reset="earliest",  # where records have been deleted, those that follow them
            isolation_level="read_committed",
            fetch_max_bytes=FETCH_BYTES,
            max_partition_fetch_bytes=FETCH_BYTES,
            max_poll_records=FETCH_BYTES,  # counts batches here: no limit below the fetch
        )
        try:
            never_create_topics(self.consumer)
            read_whole_batches(self.consumer)
            self._follow()
            for topic in self.missing:
                raise LookupError(f"there is no topic {topic} at {pipeline.broker_url}: is the pipeline up?")
        except BaseException:
            self.close()
            raise
        self.counts: Counter[str] = Counter()
        """The records of each topic, by its key in `topics`."""
        self.newest: dict[str, deque[Seen]] = {
            name: deque(maxlen=NEWEST_COUNT) for name in ("fraud", "dead_letter", "alerts")
        }
        self.latencies: deque[float] = deque(maxlen=5000)
        """Seconds from a record's creation until it was read from an output, the newest last."""
        self.history: deque[tuple[float, Counter[str]]] = deque([(time.monotonic(), Counter())])
        self.written, self.written_at = 0, time.monotonic()
        """Where the input ends, and when it last had ended elsewhere."""
        self.unread: Iterator[tuple[TopicPartition, Record]] | None = None
        """What has been fetched, and not been taken yet."""
        self.waiting: dict[Identity, list[int]] = {}
        """The offsets of the input's records that have not been read from an output: in the end, those that are lost.
        Those that have been are dropped, so memory is bounded by what is in transit."""
        self.extra: Counter[Identity] = Counter()
        """The records of the outputs beyond those read from the input: in the end, those that are doubled."""
        self.references: list[tuple[int, int]] = []
        """Partition and offset of what dead letters refer to without having a copy of it."""
        self.malformed: Counter[bytes | None] = Counter()
        """What the rule refuses of the input. It would be wrong to refuse what looks like the generator's."""
        self.misrouted = 0
        self.skipped = 0
        """The records that are too large or cannot be read, and the offsets that were too far behind."""
        self.last_skipped = ""
        """Where the last of them is, and why it was skipped."""

    def poll(self, seconds: float) -> None:
        """Read what there is, or wait for it up to this many seconds. Raises KafkaError if Kafka is away."""
        self._read(seconds)
        if time.monotonic() - self.history[-1][0] >= 1:
            try:
                self._follow()
                self.lag_now()
            except KafkaError:  # ask another broker, perhaps
                self._disconnect()
                raise
            self.history.append((time.monotonic(), self.counts.copy()))
            if len(self.history) > RATE_SECONDS + 1:
                self.history.popleft()
            if not self.is_audit and self.unread is None and self._behind() > BEHIND_RECORDS:
                self._skip_to_end()

    def read_to_end(self) -> None:
        """Read all that has been written until now. Raises TimeoutError if a transaction stays open.

        The end of the log is the end, not the last stable offset, which can be behind for a moment after a commit
        (KAFKA-10167). So this waits until the transactions that are open now have ended; a marker or an aborted record
        also moves the position.
        """
        ends = log_ends(self.pipeline.broker_url, self.existing, self.pipeline.access)
        deadline = time.monotonic() + END_SECONDS
        while (behind := [p for p, end in ends.items() if self.consumer.position(p) < end]) or self.unread is not None:
            if self._read(0.5):
                deadline = time.monotonic() + END_SECONDS
            elif time.monotonic() > deadline:
                names = ", ".join(f"{partition.topic}[{partition.partition}]" for partition in behind)
                raise TimeoutError(f"nothing committed for {END_SECONDS} s: is a transaction open in {names}?")
        self._resolve_references()

    def _read(self, seconds: float) -> bool:
        # Takes the next records, and returns whether there were any.
        if self.unread is None:
            self.unread = records_of(self.consumer.poll(timeout_ms=int(seconds * 1000)))
        count = 0
        for source, record in islice(self.unread, MOST_AT_ONCE):
            self._take(source, record)
            count += 1
        if count < MOST_AT_ONCE:
            self.unread = None
        return count > 0

    def _take(self, source: TopicPartition, record: Record) -> None:
        name, now = self.names[source.topic], time.time()
        self.counts[name] += 1
        if record.problem:
            self._skip(source, f"{record.offset}: {record.problem}", 1)
        if name not in ("transactions", "alerts") and not record.problem:
            self.latencies.append(max(0.0, now - record.timestamp / 1000))
        if self.is_audit and name != "alerts":
            self._weigh(name, source.partition, record)
        if name in ("legit", "fraud"):
            transaction = parse(record.value)
            is_fraud = transaction is not None and transaction.amount >= FRAUD_AMOUNT
            self.misrouted += transaction is None or is_fraud != (name == "fraud")
            if transaction and name == "fraud":
                self.newest[name].append(Seen(now, transaction.texts()))
        elif name in self.newest and not record.problem:
            texts = alert(record.value) if name == "alerts" else dead_letter(record)
            self.newest[name].append(Seen(now, texts))

    def _weigh(self, name: str, partition: int, record: Record) -> None:
        value = None if record.value is None else bytes(record.value)
        identity = (partition, record.offset if record.problem else value)
        if name == "transactions":
            if not GENERATED.fullmatch(value or b"") and decide(value).reason:
                self.malformed[value] += 1
            if identity in self.extra:  # an output may be read before the input
                self.extra[identity] -= 1
                if not self.extra[identity]:
                    del self.extra[identity]
            else:
                self.waiting.setdefault(identity, []).append(record.offset)
        elif name == "dead_letter" and (offset := reference(record)) is not None:
            self.references.append((partition, offset))
        elif offsets := self.waiting.get(identity):
            del offsets[0]
            if not offsets:
                del self.waiting[identity]
        else:
            self.extra[identity] += 1

    def _resolve_references(self) -> None:
        # What a dead letter refers to is not lost, although its value is in no output.
        referred: Counter[Identity] = Counter(self.references)
        for identity, offsets in list(self.waiting.items()):
            for offset in list(offsets):
                if referred[identity[0], offset]:
                    referred[identity[0], offset] -= 1
                    offsets.remove(offset)
            if not offsets:
                del self.waiting[identity]
        self.extra += referred
        self.references.clear()

    def _ask(self) -> KafkaAdminClient:
        self.admin = self.admin or KafkaAdminClient(**self.common, request_timeout_ms=self.answer_ms)
        return self.admin

    def _follow(self) -> None:
        # Reads what there is now: partitions are added, topics are created, deleted, and created again.
        described = self._ask().describe_topics(list(self.names))
        for hidden in (t["name"] for t in described if t["error_code"] == TopicAuthorizationFailedError.errno):
            raise TopicAuthorizationFailedError(f"no permission for READ on the topic {hidden}: allow it to the user")
        topics = {t["name"]: t for t in described if not t["error_code"]}
        found = {
            TopicPartition(n, p["partition_index"]): t["topic_id"] for n, t in topics.items() for p in t["partitions"]
        }
        gone = {
            topic: self.missing.get(topic, time.monotonic()) for topic in self.topics.values() if topic not in topics
        }
        self.existing, self.missing = list(found), gone
        if ALERTS_TOPIC in topics and "alerter" not in self.groups:
            self.groups["smurfing"] = Group(SMURFING_GROUP, self.pipeline.fraud)
            self.groups["alerter"] = Group(ALERTER_GROUP, ALERTS_TOPIC)
        # One that is gone may just be unknown to a broker that is starting: its positions are kept.
        now = {p: id for p, id in self.partitions.items() if p.topic not in topics} | found
        kept = [partition for partition, id in now.items() if self.partitions.get(partition) == id]
        if len(kept) == len(now) == len(self.partitions):
            return
        self.consumer.assign(kept)
        self.consumer.assign(list(now))
        added = [partition for partition in now if partition not in kept]
        starts = self.consumer.beginning_offsets(added, timeout_ms=self.answer_ms)
        ends = self.consumer.end_offsets(added, timeout_ms=self.answer_ms)
        for partition in added:
            begin = starts[partition]
            if partition.topic == ALERTS_TOPIC:  # the newest are worth showing, however old they are
                begin = max(begin, ends[partition] - NEWEST_COUNT)
            elif not self.partitions and not self.is_audit:
                begin = ends[partition]
            self.consumer.seek(partition, begin)
        self.partitions = now

    def lag_now(self) -> int:
        """Ask Kafka how many offsets the detector has yet to commit. Raises KafkaError if it is away."""
        # In this order, as the groups may commit meanwhile.
        try:
            committed = self._ask().list_group_offsets([group.id for group in self.groups.values()])
        except NO_COORDINATOR_YET:
            committed = {}
        ends = self._ask().list_partition_offsets(dict.fromkeys(self.existing, OffsetSpec.LATEST))
        written = sum(found.offset for place, found in ends.items() if place.topic == self.pipeline.transactions)
        if written != self.written:
            self.written, self.written_at = written, time.monotonic()
        for group in self.groups.values():
            theirs = [partition for partition in self.existing if partition.topic == group.topic]
            done = {p: there.offset for p, there in committed.get(group.id, {}).items() if p in theirs}
            group.lag = sum(max(0, ends[partition].offset - done.get(partition, 0)) for partition in theirs)
            if sum(done.values()) != group.committed or not group.lag:
                group.committed, group.committed_at = sum(done.values()), time.monotonic()
        return self.lag

    @property
    def lag(self) -> int:
        """How many offsets the detector had yet to commit a moment ago."""
        return self.groups["detector"].lag

    def _behind(self) -> int:
        marks = {partition: self.consumer.highwater(partition) for partition in self.existing}
        return sum(mark - self.consumer.position(partition) for partition, mark in marks.items() if mark)

    def _skip_to_end(self) -> None:
        before = {partition: self.consumer.position(partition) for partition in self.existing}
        self.consumer.seek_to_end(*self.existing)
        for partition, at in before.items():
            if count := self.consumer.position(partition) - at:
                self._skip(partition, f"{at} and on: too far behind", count)

    def _skip(self, partition: TopicPartition, why: str, count: int) -> None:
        self.skipped += count
        self.last_skipped = visible(f"{partition.topic}[{partition.partition}] offset {why}", 400)

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
        return sum(map(len, self.waiting.values()))

    @property
    def doubled(self) -> int:
        """How many records are in the outputs beyond those of the input."""
        return self.extra.total()

    def close(self) -> None:
        """Disconnect."""
        self._disconnect()
        self.consumer.close()

    def _disconnect(self) -> None:
        if self.admin:
            self.admin.close()
        self.admin = None
