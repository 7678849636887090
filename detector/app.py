"""Fraud detector: reads transactions and branches them into legit, fraud and dead letter, exactly once.

The rule is in rule.py, the configuration in settings.py. This file is the way of a record through Kafka.
"""

import gc
import logging
import os
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError
from kafka.future import Future
from kafka.serializer.abstract import Serializer
from kafka.structs import ConsumerGroupMetadata, MemberState

from rule import DEAD_LETTER, FRAUD, LEGIT, decide
from settings import ConfigurationError, Settings
from topics import MAX_MESSAGE_BYTES, prepare_topics

FETCH_BYTES = (1 if sys.implementation.name == "cpython" else 4) * 1024 * 1024
"""A transaction's batch is what one fetch brings: at low load what has come since the last one, with a backlog so many
bytes. One MiB is some 11,000 transactions. Four make PyPy a fifth faster, and would double the memory of CPython."""
BATCH_RECORDS = FETCH_BYTES // 50
"""Its records at the most, for there can be more in a fetch if they are tiny or compressed."""

TRANSACTION_SECONDS = 8
"""A transaction that takes longer ends the process. The broker's own limit is just above, in milliseconds: readers of
committed records, and whoever takes over the partitions, wait behind an open transaction."""
TRANSACTION_TIMEOUT_MS = 10_000

REJOIN_SECONDS = 15
"""A rebalance that takes longer ends the process. It waits for a member in a transaction, or for one that is missed."""

BATCH_BYTES = 1024 * 1024
CLOSE_SECONDS = 3
REPORT_SECONDS = 5

FAILED = "Kafka failed, ending; a restart continues from the committed offsets: %s"

Batch = dict[TopicPartition, list[ConsumerRecord]]

log = logging.getLogger("detector")


# --- one record ---

NULL = bytes(bytearray(b"null"))  # recognised by identity, so an object of its own


class NullSerializer(Serializer):
    """Writes a null for NULL: send() itself refuses a null value that has no key."""

    def serialize(self, topic: str, headers: object, data: bytes) -> bytes | None:
        """Return the value for the wire."""
        return None if data is NULL else data


def error_headers(record: ConsumerRecord, reason: str, limit: int) -> list[tuple[str, bytes]]:
    """Return the headers that say where a dead letter comes from and why it is one, named as in KIP-1034.

    The longest are left out until the record takes no more than limit bytes: one that its own topic just took would
    not get through otherwise.
    """
    errors = {
        "exception": "InvalidTransaction",
        "message": reason,
        "topic": record.topic,
        "partition": str(record.partition),
        "offset": str(record.offset),
    }
    headers = [(f"__streams.errors.{name}", value.encode()) for name, value in errors.items()]
    framing = 128  # of a batch with one record, at most; each header has up to 10 bytes more
    size = framing + len(record.key or b"") + len(record.value or b"")
    size += sum(10 + len(name.encode()) + len(value or b"") for name, value in record.headers)
    while headers and size + sum(10 + len(name) + len(value) for name, value in headers) > limit:
        headers.remove(max(headers, key=lambda header: len(header[1])))
    return headers


# --- one batch ---


@contextmanager
def transaction(producer: KafkaProducer, batch: Batch, group: ConsumerGroupMetadata) -> Iterator[list[Future]]:
    """One Kafka transaction: what is sent inside, and the offsets of the batch, are committed together or not at all.

    The block appends the future of each send. An error leaves the transaction open, for the process to end: a
    restarted one begins by aborting it.
    """
    signal.setitimer(signal.ITIMER_REAL, TRANSACTION_SECONDS)  # the calls below have no timeout of their own
    producer.begin_transaction()
    sent: list[Future] = []
    yield sent
    offsets = {partition: OffsetAndMetadata(records[-1].offset + 1) for partition, records in batch.items()}
    producer.send_offsets_to_transaction(offsets, group)
    producer.flush()
    for record, future in zip(chain.from_iterable(batch.values()), sent, strict=True):
        if not future.succeeded():  # neither the flush nor the commit would fail for it
            raise KafkaError(f"{record.topic}[{record.partition}] offset {record.offset}: {future.exception!r}")
    producer.commit_transaction()
    signal.setitimer(signal.ITIMER_REAL, 0)


def route(
    producer: KafkaProducer, topics: dict[str, str], batch: Batch, limit: int, sent: list[Future]
) -> Counter[str]:
    """Send each record on as it came, to the topic where it belongs, and return how many went each way."""
    counts: Counter[str] = Counter()
    for record in chain.from_iterable(batch.values()):
        value, headers = record.value, record.headers
        answer, reason = decide(value)
        if reason:
            headers = headers + error_headers(record, reason, limit)
        if headers:  # the client cannot write a null in one
            headers = [(name, data or b"") for name, data in headers]
        if value is None:
            value = NULL
        sent.append(producer.send(topics[answer], value, record.key, headers, record.partition, record.timestamp))
        counts[answer] += 1
    return counts


# --- the loop ---


class Signals:
    """SIGTERM and SIGINT set a flag that the loop looks at. SIGALRM, the watchdog's, ends a process that hangs."""

    def __init__(self) -> None:
        self.stopping = False
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        signal.signal(signal.SIGALRM, self._end)

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        self.stopping = True

    def _end(self, signum: int, frame: FrameType | None) -> None:
        calls = " > ".join(call.name for call in traceback.extract_stack(frame))
        log.error("Kafka has not answered for too long, ending; a restart continues. It hung in %s", calls)
        os._exit(0 if self.stopping else 1)


class Report:
    """A line of counters every few seconds, and with it the heartbeat for the container's health check."""

    def __init__(self, heartbeat_file: str) -> None:
        self.heartbeat_file = heartbeat_file
        self.counts: Counter[str] = Counter()
        self.next_offsets: dict[TopicPartition, int] = {}
        self.time, self.total = time.monotonic(), 0

    def tick(self, consumer: KafkaConsumer, now: bool = False) -> None:
        """Write the line if it is time for it, or now."""
        elapsed, total = time.monotonic() - self.time, self.counts.total()
        if elapsed < REPORT_SECONDS and not now:
            return
        ends = {partition: consumer.highwater(partition) or 0 for partition in consumer.assignment()}
        log.info(
            "rate=%.0f/s legit=%d fraud=%d dead_letters=%d lag=%d",
            (total - self.total) / elapsed,
            *(self.counts[route] for route in (LEGIT, FRAUD, DEAD_LETTER)),
            sum(max(0, end - self.next_offsets.get(partition, end)) for partition, end in ends.items()),
        )
        self.time, self.total = time.monotonic(), total
        if self.heartbeat_file:
            Path(self.heartbeat_file).touch()


def rewind(consumer: KafkaConsumer) -> dict[TopicPartition, int]:
    """Go back to the committed offset of each assigned partition, and return them.

    The client keeps its position where a rebalance gives back a partition that another instance had in between.
    """
    offsets = {}
    for partition in consumer.assignment():
        offset = consumer.committed(partition, timeout_ms=2 * TRANSACTION_TIMEOUT_MS)
        if offset is None:
            consumer.seek_to_beginning(partition)
        else:
            consumer.seek(partition, offset)
        offsets[partition] = offset or 0
    return offsets


def detect(
    settings: Settings, consumer: KafkaConsumer, producer: KafkaProducer, limit: int, signals: Signals
) -> Report:
    """Branch transactions until a signal says stop. Raises KafkaError; what was in hand is then not committed."""
    report = Report(settings.heartbeat_file)
    member, stable = None, time.monotonic()
    while not signals.stopping:
        batch = consumer.poll(timeout_ms=500)
        group = consumer.group_metadata()
        report.tick(consumer)
        if group.state != MemberState.STABLE or group.generation_id < 0:
            # Kafka would take this member's offsets: it does not check whose the partitions are, nor a generation
            # below 0. The client can stay in that state for good (it loses sight of a rebalance while poll() returns).
            if time.monotonic() - stable > REJOIN_SECONDS:
                raise KafkaError(f"this instance does not get into the group {group.group_id}: {group.state}")
            member = None
            continue
        stable = time.monotonic()
        if not batch:
            continue
        if member != (group.generation_id, group.member_id):
            member = (group.generation_id, group.member_id)
            report.next_offsets = rewind(consumer)
            continue
        with transaction(producer, batch, group) as sent:
            counts = route(producer, settings.routes, batch, limit, sent)
        report.counts += counts
        report.next_offsets |= {partition: records[-1].offset + 1 for partition, records in batch.items()}
    report.tick(consumer, now=True)
    return report


# --- start and end ---


def connect(client: Callable[..., Any], settings: Settings, signals: Signals, **config: object) -> Any:
    """Return a client of this class once Kafka answers. A signal to stop ends the process meanwhile."""
    while not signals.stopping:
        try:
            return client(
                bootstrap_servers=settings.broker_url.split(","),
                bootstrap_timeout_ms=3000,
                request_timeout_ms=5000,
                reconnect_backoff_max_ms=1000,  # a broker that is back is found again within a second, not within 30
                **config,
            )
        except (KafkaConnectionError, KafkaTimeoutError):
            log.warning("No Kafka at %s (KAFKA_BROKER_URL) yet, trying again", settings.broker_url)
    sys.exit(0)


class OnceInAWhile(logging.Filter):
    """Lets each message pass once in REPORT_SECONDS, without a traceback."""

    def __init__(self) -> None:
        super().__init__()
        self.passed: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record goes to the log."""
        record.exc_info = None
        if record.created - self.passed.get(record.msg, 0) < REPORT_SECONDS:
            return False
        self.passed[record.msg] = record.created
        return True


def run(settings: Settings, signals: Signals) -> None:
    """Connect, detect, and leave the group. Raises ConfigurationError (topics) and KafkaError."""
    admin = connect(KafkaAdminClient, settings, signals)
    limits = prepare_topics(admin, settings)
    admin.close()
    producer = connect(
        KafkaProducer,
        settings,
        signals,
        transactional_id=settings.transactional_id,
        transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
        value_serializer=NullSerializer(),
        metrics_enabled=False,
        batch_size=min(BATCH_BYTES, *limits.values()),
        max_request_size=MAX_MESSAGE_BYTES,
        linger_ms=1000,  # until the flush: sent in parts, the sending thread takes turns with the loop
        retry_backoff_ms=2,  # each transaction waits once for the markers of the one before
        delivery_timeout_ms=6000,
        max_block_ms=6000,
    )
    try:
        producer.init_transactions()  # ends what a predecessor of the same transactional.id left open
    except KafkaTimeoutError:
        raise KafkaError(
            f"the last transaction of {settings.transactional_id} does not end: is a broker down,"
            " or has an output topic too few replicas in sync?"
        ) from None
    consumer = connect(
        KafkaConsumer,
        settings,
        signals,
        group_id=settings.consumer_group,
        metrics_enabled=False,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        fetch_max_bytes=FETCH_BYTES,
        max_partition_fetch_bytes=FETCH_BYTES,
        max_poll_records=BATCH_RECORDS,
        session_timeout_ms=6000,  # the shortest that a broker allows by default: how long a killed instance is missed
        heartbeat_interval_ms=2000,
    )
    consumer.subscribe([settings.transactions_topic])
    # Asks Kafka, before the group is joined: without it the client can take the topic for one without partitions, and
    # stay idle, or join a second time at once.
    if settings.transactions_topic not in consumer.topics():
        raise KafkaError(f"the partitions of {settings.transactions_topic} are not known")
    try:
        report = detect(settings, consumer, producer, limits[settings.dead_letter_topic], signals)
        log.info("Stopping: %s", dict(report.counts))
    except KafkaError as error:
        log.error(FAILED, error)  # now, as Kafka may be unable to hear the farewell
        sys.exit(1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, CLOSE_SECONDS)
        consumer.close()  # leaves the group, so that others need not wait for the session timeout
        producer.close()
        signal.setitimer(signal.ITIMER_REAL, 0)


def main() -> int:
    """Return the exit code: 0 after a signal, 1 where Kafka failed, 2 for bad configuration."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # a dozen lines for each attempt to connect otherwise
    logging.getLogger("kafka.producer").setLevel(logging.WARNING)  # why Kafka does not take a record,
    logging.getLogger("kafka.producer.sender").addFilter(OnceInAWhile())  # which it says at each attempt
    # The client sends in a thread of its own. Taking turns less often, the two threads wait less for each other.
    sys.setswitchinterval(0.05)
    # A batch makes some hundred thousand objects that soon go again: a tenth of the time went into the search for
    # cycles among them.
    if sys.implementation.name == "cpython":
        gc.set_threshold(200_000)
    signals = Signals()
    try:
        settings = Settings.from_env(os.environ)
        log.info("Starting with %s", settings)
        run(settings, signals)
    except ConfigurationError as error:
        log.error("%s", error)
        return 2
    except KafkaError as error:
        log.error(FAILED, error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
