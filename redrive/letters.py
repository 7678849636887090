"""Dead letters: which are selected, which can go, and what goes. docs/redrive.md says why the others stay."""

import time
from datetime import UTC, datetime
from functools import cached_property

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaTimeoutError

from exactly_once import Record, headers_of
from exactly_once.branching import ERRORS, NOT_THERE
from exactly_once.decoding import NO_HEADERS_AT, NOTHING
from exactly_once.encoding import Headers, add_headers, encode_headers
from exactly_once.kafka_python import never_create_topics
from exactly_once.unpacking import records_of
from exactly_once.varints import VARINT, read_varint
from exactly_once.whole_batches import read_whole_batches
from service.settings import Cluster, ConfigurationError, Environment

ATTEMPT = b"__streams.redrive.attempt"
"""The name of the header that says how often a record has been redriven."""
FETCH_BYTES, ANSWER_SECONDS = 1024 * 1024, 15
EVER = 2**63
UNSELECTED = "not selected"


class Letters:
    """Decides on dead letters, by the variables that select them."""

    def __init__(self, environment: Environment) -> None:
        """Read the settings. Raises ConfigurationError."""

        def number(name: str, otherwise: int) -> int:
            return int(environment.text(name, "[0-9]{0,18}", "a whole number, or leave it out") or otherwise)

        def moment(name: str, otherwise: int) -> int:
            try:
                at = datetime.fromisoformat(environment.environ.get(name) or "1970-01-01")
            except ValueError:
                remedy = "a time such as 2026-11-29 or 2026-11-29T08:30+01:00, in UTC if it does not say otherwise"
                raise ConfigurationError(f"{name} is {environment.environ[name]!r}: give it {remedy}") from None
            at = at if at.tzinfo else at.replace(tzinfo=UTC)
            return int(at.timestamp() * 1000) if environment.environ.get(name) else otherwise

        self.cluster: Cluster = environment.cluster()
        self.input = environment.topic("TRANSACTIONS_TOPIC", "queueing.transactions")
        self.partition, self.most_attempts = number("PARTITION", -1), number("ATTEMPTS", 1)
        self.offsets = range(number("FROM", 0), number("TO", EVER) + 1)
        self.times = range(moment("SINCE", -EVER), moment("UNTIL", EVER))
        self.reason = environment.environ.get("REASON", "")

    def reader(self, group: str | None = None) -> KafkaConsumer:
        """Return a reader of committed records, which is no member of the group. Raises KafkaError."""
        consumer = KafkaConsumer(
            **self.cluster.config,
            group_id=group,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            enable_auto_commit=False,
            fetch_max_bytes=FETCH_BYTES,
            max_partition_fetch_bytes=FETCH_BYTES,
        )
        never_create_topics(consumer)
        read_whole_batches(consumer)
        return consumer

    @cached_property
    def input_reader(self) -> KafkaConsumer:
        """A reader of the input."""
        return self.reader()

    def judge(self, source: TopicPartition, record: Record) -> tuple[str, str, int, bytes]:
        """Return a dead letter's kind, why it stays ("" if it goes), and what goes: a timestamp and a content.

        Whatever it holds: only its kind is the sender's. Raises KafkaError.
        """
        if record.problem:  # with its headers it is larger than what is read
            return "", record.problem, 0, b""
        headers = headers_of(record)
        added = [(name, value or b"") for name, value in headers[-len(ERRORS) :]]
        if [name for name, _ in added] != ERRORS:
            return "", "no dead letter of the detector", 0, b""
        exception, message, *place = (str(value[:200], "utf-8", "replace") for _, value in added)
        kind = message.partition(":")[0]
        is_there = self.partition in (-1, source.partition) and record.offset in self.offsets
        if not (is_there and record.timestamp in self.times and message.startswith(self.reason)):
            return kind, UNSELECTED, 0, b""
        if record.value is None and exception in NOT_THERE.values():
            record, added = self.look_up(record, *place), []
            if record.problem:
                return kind, record.problem, 0, b""
            headers = headers_of(record)
        own = headers[: len(headers) - len(added)]
        found = [int(v) for name, v in own if name == ATTEMPT and v and v.isdigit() and len(v) < 10]
        attempts = found[-1] if found else 0
        if attempts >= self.most_attempts:
            return kind, f"redriven {self.most_attempts} times already: ATTEMPTS allows more", 0, b""
        if own and own[-1][0] == ATTEMPT:
            added = [(ATTEMPT, own[-1][1] or b""), *added]
        return kind, "", record.timestamp, reheaded(record, added, [(ATTEMPT, b"%d" % (attempts + 1))])

    def look_up(self, letter: Record, topic: str, partition: str, offset: str) -> Record:
        """Return what a dead letter refers to in the input; with a problem if it is not there. Raises KafkaError."""
        gone = Record(letter.offset, 0, None, NOTHING, NO_HEADERS_AT, "not in the input any more")
        reader = self.input_reader
        is_number = partition.isdecimal() and offset.isdecimal() and len(partition) < 10 and len(offset) < 20
        if topic != self.input or not is_number or int(partition) not in reader.partitions_for_topic(topic):
            return gone
        place, wanted, until = TopicPartition(topic, int(partition)), int(offset), time.monotonic() + ANSWER_SECONDS
        if not reader.beginning_offsets([place])[place] <= wanted < reader.end_offsets([place])[place]:
            return gone
        reader.assign([place])
        reader.seek(place, wanted)
        while reader.position(place) <= wanted:
            for _, record in records_of(reader.poll(500)):
                # Another topic of this name may have another record there.
                is_it = record.offset == wanted and max(record.timestamp, -1) == max(letter.timestamp, -1)
                return record if is_it or record.problem else gone
            if time.monotonic() > until:
                raise KafkaTimeoutError(f"{topic}[{partition}] does not answer at offset {offset}")
        return gone


def reheaded(record: Record, dropped: Headers, added: Headers) -> bytes:
    """Return a record's content without its last headers, which are these, and with others."""
    content, at = record.content, record.headers_at
    count, first_at = read_varint(content, at)
    kept = content[first_at : len(content) - len(encode_headers(dropped))]
    content = b"".join((content[:at], VARINT[count - len(dropped)], kept))
    return add_headers(content, at, len(added), encode_headers(added))
