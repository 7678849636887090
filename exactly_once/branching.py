"""Branching: a job that sends each record, unchanged, to one of several topics, or to the dead-letter topic."""

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress, repeat
from operator import add, sub

from kafka import TopicPartition

from exactly_once.decoding import NO_HEADERS_AT, NOTHING, Chunk, decode
from exactly_once.encoding import Columns, Headers, OutputBatch, add_headers, batch_bytes, encode
from exactly_once.job import Input, Job, Out, Outgoing, Output, Portion
from exactly_once.varints import NUMBER, VARINT, Bytes

NOT_THERE = {"too large": "RecordTooLarge", "cannot be read": "CorruptRecord", "bad time": "InvalidTimestamp"}
"""Why a dead letter has neither key nor value, but refers to the input, and the exception that its headers name."""

MOST_KINDS = 16
"""A rule that has more decisions than this for a chunk decides on each record by itself."""

Batches = Mapping[str, list[OutputBatch]]
"""Per route, what is to be written."""


@dataclass(frozen=True, eq=False)
class Decision:
    """Where a record goes. A rule makes one for each case, once, and returns it for all records of that kind."""

    route: str
    headers: Headers = ()
    """What the record gets beyond its own headers."""
    reason: str = ""
    """Why it is a dead letter; "" if it is none. What is before the first colon is counted."""


class Branching(Job):
    """Sends each record of the source to the topic of its route, where it keeps its partition and its order."""

    def __init__(
        self,
        *,
        source: str,
        routes: Mapping[str, str],
        dead_letter: str,
        decide: Callable[[memoryview | None], Decision],
        members: Mapping[str, bytes],
        decide_usual: Callable[[Sequence[bytes]], list[Decision]],
    ) -> None:
        """Make the job.

        `routes` has the topic of each route; `dead_letter` is the route of what the rule refuses, of what is not there,
        and of what its topic does not take. `decide` is the rule: it decides on a value, whatever it holds, and raises
        nothing. `members` are those that a usual value has, each with the pattern of its bytes, one of which has the
        only group; `decide_usual` is the rule once more, for many such values, by what is in the group.
        """
        self.routes, self.dead_letter, self.decide, self.decide_usual = routes, dead_letter, decide, decide_usual
        self.inputs = [Input(source)]
        self.outputs = [Output(topic, keeps_partition=True) for topic in routes.values()]
        self.counted = list(routes)
        self.usual_record = usual_record(members)

    def process(self, portion: Portion, out: Out) -> None:
        """Write each record to the topic of its route, in the partition that it comes from."""
        for source, chunks in portion.chunks.items():
            batches: Batches = {route: [] for route in self.routes}
            for chunk in chunks:
                self.branch(chunk, source, out, batches)
                chunk.records.clear()  # may be large; the batches hold copies
                time.sleep(0)  # lets the other threads take what Kafka has answered
            for route, written in batches.items():
                target = TopicPartition(self.routes[route], source.partition)
                out.batches += (Outgoing(target, batch, source) for batch in written)
                out.counts[route] += sum(len(batch.offsets) for batch in written)

    def branch(self, chunk: Chunk, source: TopicPartition, out: Out, batches: Batches) -> None:
        """Append the records of a chunk to the batches of their routes."""
        found = self._branch_usual(chunk) or self._branch_each(chunk, source, out)
        # Not once for all chunks: these records are still in the CPU's cache, which saves a seventh of the time.
        for route, records in found:
            encode(records, out.targets[self.routes[route]].max_message_bytes, batches[route])

    def _branch_usual(self, chunk: Chunk) -> list[tuple[str, Columns]]:
        # Returns nothing unless all records have the usual form. A value may imitate records, so matches count only if
        # lengths, total size and number fit the chunk. Up to 2**62, adding a delta cannot overflow 64 bits.
        offsets = range(chunk.first_offset, chunk.next_offset)
        is_plain = chunk.append_time is None and chunk.position <= chunk.first_offset
        if not is_plain or len(offsets) != chunk.record_count or abs(chunk.base_timestamp) > 2**62:
            return []
        matches = self.usual_record.findall(chunk.records)
        if not matches or len(matches) != len(offsets):
            return []
        lengths, counted, timestamp_deltas, contents, value_lengths, deciding = zip(*matches, strict=True)
        sizes = list(map(len, counted))
        if sum(map(len, lengths)) + sum(sizes) != len(chunk.records):
            return []
        value_sizes = map(sub, map(sub, map(len, contents), map(len, value_lengths)), repeat(2))  # null, no headers
        if lengths != tuple(map(VARINT.__getitem__, sizes)) or value_lengths != tuple(
            map(VARINT.__getitem__, value_sizes)
        ):
            return []
        timestamps = list(map(add, map(NUMBER.__getitem__, timestamp_deltas), repeat(chunk.base_timestamp)))
        if min(timestamps) < -1:  # perhaps not every output takes it
            return []
        decisions = self.decide_usual(deciding)
        kinds = set(decisions)
        if len(kinds) > MOST_KINDS or any(kind.reason or header_bytes(kind.headers) > 4096 for kind in kinds):
            return []
        all_contents: list[Bytes] = list(contents)
        for kind in kinds:
            for i in (i for i, decision in enumerate(decisions) if decision is kind) if kind.headers else ():
                all_contents[i] = add_headers(contents[i], len(contents[i]) - 1, kind.headers)
        found = []
        for route in {kind.route for kind in kinds}:
            is_its = list(map({kind for kind in kinds if kind.route == route}.__contains__, decisions))
            found.append((route, Columns(*(list(compress(c, is_its)) for c in (offsets, timestamps, all_contents)))))
        return found

    def _branch_each(self, chunk: Chunk, source: TopicPartition, out: Out) -> Iterable[tuple[str, Columns]]:
        found = {route: Columns([], [], []) for route in self.routes}
        for record in decode(chunk):
            decision = self._dead(record.problem) if record.problem else self.decide(record.value)
            headers = [*decision.headers, *errors(decision.reason, source, record.offset)]
            content: Bytes = record.content
            if headers:
                content = add_headers(content, record.headers_at, headers)
            timestamp = record.timestamp
            if refusal := out.targets[self.routes[decision.route]].refusal(batch_bytes(content), timestamp):
                decision = self._dead(f"{refusal} of {self.routes[decision.route]}")
                content = add_headers(NOTHING, NO_HEADERS_AT, errors(decision.reason, source, record.offset))
                timestamp = max(timestamp, out.targets[self.routes[self.dead_letter]].least_timestamp)
            if decision.reason:
                out.reasons.append(decision.reason)
            found[decision.route].add(record.offset, timestamp, content)
        return found.items()

    def _dead(self, reason: str) -> Decision:
        return Decision(self.dead_letter, reason=reason)


def usual_record(members: Mapping[str, bytes]) -> re.Pattern[bytes]:
    """Compile the pattern of a whole record without key and headers, whose value is a JSON object of these members.

    They are in this order, spaced as Python does it or not at all. The pattern's groups are the record's length, what
    that counts, the timestamp delta, the content, and the value's length; those of the members follow. It does not
    check lengths: compare them with VARINT.
    """
    varint = rb"[\x80-\xff]{0,%d}+[\x00-\x7f]"  # {}+ and ++ give nothing back, which saves a tenth of the time
    length, null, none = varint % 1, rb"\x01", rb"\x00"
    value = rb"\{%b\}" % rb", ?+".join(rb'"%b": ?+%b' % (name.encode(), form) for name, form in members.items())
    content = rb"%b(%b)%b%b" % (null, length, value, none)
    return re.compile(rb"(%b)(\x00(%b)%b(%b))" % (length, varint % 4, varint % 4, content), re.DOTALL)


def header_bytes(headers: Headers) -> int:
    """Return how large the headers are, but for their lengths."""
    return sum(len(name) + len(value) for name, value in headers)


def errors(reason: str, source: TopicPartition, offset: int) -> Headers:
    """Return the headers that say where a dead letter comes from and why it is one, named as in KIP-1034."""
    if not reason:
        return ()
    found = {
        "exception": NOT_THERE.get(reason.partition(":")[0], "InvalidTransaction"),
        "message": reason,
        "topic": source.topic,
        "partition": str(source.partition),
        "offset": str(offset),
    }
    return [(f"__streams.errors.{name}".encode(), value.encode()) for name, value in found.items()]
