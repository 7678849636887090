"""Kafka's records: from the bytes of a chunk to records, and back to batches. Pure functions, as in unpacking.py.

Kafka moves records in batches, and who sorts them changes nothing in a record. So a record's content, from its key to
its last header, is copied from the input batch to the output batch. A record has these parts:

    length, attributes (an unused byte), timestamp delta, offset delta, key, value, number of headers, headers

The numbers are varints (varints.py). The deltas are to the batch's base timestamp and base offset. The length counts
the bytes after it. A key, a value, and a header's name and value each follow their length, and -1 stands for null.
https://kafka.apache.org/documentation/#messageformat specifies it.
"""

import re
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from operator import add, sub
from typing import Any, NamedTuple, Self

from kafka import TopicPartition

from exactly_once.unpacking import (
    FRAMING_BYTES,
    HEADER,
    MAX_RECORD_BYTES,
    Chunk,
    offset_of,
    record_head,
    too_large,
    unpack,
)
from exactly_once.varints import VARINT, BatchError, Bytes, OddNumber, int64, read_as_java, read_varint


class Record(NamedTuple):
    """A record of a chunk."""

    offset: int
    timestamp: int
    value: memoryview | None
    content: Bytes
    """The record's bytes from the key to the last header."""
    headers_at: int
    """Index of the header count within the content."""
    problem: str = ""
    """Why the content is not there."""


NOTHING, NO_HEADERS_AT = b"\x01\x01\x00", 2
"""The content of a record with neither key nor value nor headers, and the index of their number in it."""


class Columns(NamedTuple):
    """Records to be written, a list for each part: what is done to a column takes a fraction of a loop's time."""

    offsets: list[int]
    """Those in the input."""
    timestamps: list[int]
    contents: list[Bytes]

    def add(self, offset: int, timestamp: int, content: Bytes) -> None:
        """Append a record."""
        self.offsets.append(offset)
        self.timestamps.append(timestamp)
        self.contents.append(content)

    @classmethod
    def of(cls, records: Iterable[tuple[int, int, Bytes]]) -> Self:
        """Return the columns of these rows."""
        columns = cls([], [], [])
        for record in records:
            columns.add(*record)
        return columns


@dataclass
class OutputBatch:
    """A batch to be written."""

    base_timestamp: int
    max_timestamp: int
    offsets: list[int] = field(default_factory=list)
    """The offset that each record has in the input."""
    data: bytearray = field(default_factory=lambda: bytearray(HEADER.size))
    """Room for the header, which the client fills in, and the records."""


def decode(chunk: Chunk) -> Iterator[Record]:
    """Yield the records of a chunk from its position on, whatever they hold.

    Where one cannot be read, a record with a problem stands for it and all that follow in the chunk.
    """
    data, offset, end, problem = memoryview(chunk.records), chunk.first_offset - 1, 0, chunk.problem
    for left in range(0 if problem else chunk.record_count, 0, -1):
        start = end
        try:
            end, timestamp_delta, offset_delta, content_at = record_head(data, start)
            content = data[content_at:end]
            try:
                value, headers_at, size = _read_content(content, end - content_at)
            except OddNumber:
                content = memoryview(_respelled(content))
                value, headers_at, size = _read_content(content, len(content))
        except (BatchError, IndexError):
            problem = f"cannot be read: malformed, with {left} records left in its chunk"
            break
        offset = offset_of(chunk, offset_delta, offset, chunk.next_offset - left)
        if offset >= chunk.position:
            own = int64(chunk.base_timestamp + timestamp_delta)
            timestamp = own if chunk.append_time is None else chunk.append_time
            if size > MAX_RECORD_BYTES:
                yield Record(offset, timestamp, None, NOTHING, NO_HEADERS_AT, too_large(size))
            else:
                yield Record(offset, timestamp, value, content, headers_at)
    if problem:
        timestamp = chunk.base_timestamp if chunk.append_time is None else chunk.append_time
        first, last = max(offset + 1, chunk.position), chunk.next_offset - 1
        which = f" (offsets {first} to {last})" if first < last else ""
        yield Record(first, timestamp, None, NOTHING, NO_HEADERS_AT, problem + which)


def records_of(fetched: Mapping[TopicPartition, Iterable[Any]]) -> Iterator[tuple[TopicPartition, Record]]:
    """Yield the records that a consumer of whole batches has fetched, each with its partition, a chunk at a time."""
    for partition, chunk in unpack(fetched):
        for record in decode(chunk):
            yield partition, record


def headers_of(record: Record, most: int = 100) -> list[tuple[bytes, bytes | None]]:
    """Return a record's last headers, up to so many: names, which may be no UTF-8, and values. Later ones count."""
    content: Bytes = record.content
    count, at = read_varint(content, record.headers_at)
    places: deque[tuple[int, int, int, int]] = deque(maxlen=most)  # a record can have half a million
    for _ in range(count):
        length, name_at = read_varint(content, at)
        value_length, value_at = read_varint(content, name_at + length)
        at = value_at + max(value_length, 0)
        places.append((name_at, length, value_at, value_length))
    return [
        (bytes(content[name_at : name_at + length]), bytes(content[at : at + size]) if size >= 0 else None)
        for name_at, length, at, size in places
    ]


def _read_content(content: memoryview, length: int) -> tuple[memoryview | None, int, int]:
    # Returns the value, where the headers begin, and the size without the numbers before them. Raises OddNumber; and
    # BatchError unless the fields end exactly where the content does, as the broker wants it of what we write.
    key_length, at = read_varint(content, 0)
    numbers = at
    if key_length > 0:
        at += key_length
    value_length, value_at = read_varint(content, at)
    headers_at = value_at + value_length if value_length > 0 else value_at
    count, after = read_varint(content, headers_at)
    numbers += value_at - at + after - headers_at
    for _ in range(count):
        name_length, after = read_varint(content, after)
        data_length, after = read_varint(content, after + name_length)
        if name_length < 0:
            raise BatchError("a header's name is null")
        if data_length > 0:
            after += data_length
        elif data_length < -1:
            raise OddNumber
    if key_length < -1 or value_length < -1:
        raise OddNumber
    if after != length or len(content) != length or count < 0:
        raise BatchError("its length is wrong")
    return content[value_at:headers_at] if value_length >= 0 else None, headers_at, length - numbers


def _respelled(content: memoryview) -> bytes:
    # Returns the content with its numbers spelled as usual: others than Java may not read it otherwise.
    parts: list[Bytes] = []

    def field(at: int) -> int:
        length, at = read_as_java(content, at)
        end = at + max(length, 0)
        parts.extend((VARINT[max(length, -1)], content[at:end]))
        return end

    headers_at = field(field(0))
    count, at = read_as_java(content, headers_at)
    parts.append(VARINT[count])
    for _ in range(2 * count):
        at = field(at)
    return b"".join((*parts, content[at:]))


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


# --- from records to bytes ---


Headers = Sequence[tuple[bytes, bytes]]
"""Names and values."""


def add_headers(content: Bytes, headers_at: int, headers: Headers) -> bytes:
    """Return the content, whose headers begin at this index, with these headers after its own."""
    count, at = read_varint(content, headers_at)
    added = (part for header in headers for data in header for part in (VARINT[len(data)], data))
    return b"".join((content[:headers_at], VARINT[count + len(headers)], content[at:], *added))


def batch_bytes(content: Bytes) -> int:
    """Return the size of a batch that holds one record with this content."""
    length = 3 + len(content)  # the attributes, and both deltas, which are 0
    return HEADER.size + len(VARINT[length]) + length


def encode(records: Columns, max_bytes: int, batches: list[OutputBatch] | None = None) -> list[OutputBatch]:
    """Append these records, in order, to the last of the batches, and return them all.

    A new batch begins where one would exceed max_bytes. Each record must fit on its own (see batch_bytes).
    """
    batches = [] if batches is None else batches
    offsets, timestamps, contents = records
    if not offsets:
        return batches
    if not batches:
        batches.append(OutputBatch(timestamps[0], timestamps[0]))
    batch = batches[-1]
    sizes = list(map(len, contents))
    if len(batch.data) + sum(sizes) + FRAMING_BYTES * len(sizes) > max_bytes:
        if middle := len(offsets) // 2:
            encode(Columns(offsets[:middle], timestamps[:middle], contents[:middle]), max_bytes, batches)
            return encode(Columns(offsets[middle:], timestamps[middle:], contents[middle:]), max_bytes, batches)
        if batch.offsets:
            batch = OutputBatch(timestamps[0], timestamps[0])
            batches.append(batch)
    count = len(batch.offsets)
    timestamp_deltas = list(map(VARINT.__getitem__, map(sub, timestamps, repeat(batch.base_timestamp))))
    offset_deltas = list(map(VARINT.__getitem__, range(count, count + len(offsets))))
    heads = map(add, map(len, timestamp_deltas), map(len, offset_deltas))
    lengths = map(VARINT.__getitem__, map(add, map(add, heads, sizes), repeat(1)))  # the attributes are a byte
    parts = zip(lengths, repeat(b"\0"), timestamp_deltas, offset_deltas, contents)
    batch.data += b"".join(chain.from_iterable(parts))
    batch.offsets += offsets
    batch.max_timestamp = max(batch.max_timestamp, *timestamps)
    return batches


def content_of(key: bytes | None, value: bytes | None) -> bytes:
    """Return the content of a record without headers."""
    parts = ((VARINT[-1],) if data is None else (VARINT[len(data)], data) for data in (key, value))
    return b"".join((*chain.from_iterable(parts), VARINT[0]))


def encode_one(offset: int, timestamp: int, key: bytes | None, value: bytes | None) -> bytearray:
    """Return a batch of one record without headers, for a record in a format older than version 2."""
    (batch,) = encode(Columns([offset], [timestamp], [content_of(key, value)]), sys.maxsize)
    HEADER.pack_into(batch.data, 0, offset, len(batch.data) - 12, -1, 2, 0, 0, 0, timestamp, timestamp, -1, -1, -1, 1)
    return batch.data
