"""Kafka's records: from the bytes of a chunk to records. Pure functions; encoding.py has the way back.

Kafka moves records in batches, and who sorts them changes nothing in a record. So a record's content, from its key to
its last header, is copied from the input batch to the output batch. A record has these parts:

    length, attributes (an unused byte), timestamp delta, offset delta, key, value, number of headers, headers

The numbers are varints (varints.py). The deltas are to the batch's base timestamp and base offset. The length counts
the bytes after it. A key, a value, and a header's name and value each follow their length, and -1 stands for null.
https://kafka.apache.org/documentation/#messageformat specifies it.
"""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from exactly_once.varints import VARINT, BatchError, Bytes, int64, read_varint

MAX_RECORD_BYTES = 1024 * 1024
"""A record with a larger key, value and headers, counted together, is skipped. Kafka's own default allows producers as
much, and to decide on a value can take up to 50 times its memory."""

NOTHING, NO_HEADERS_AT = b"\x01\x01\x00", 2
"""The content of a record with neither key nor value nor headers, and the index of their number in it."""


class Chunk(NamedTuple):
    """Consecutive records of a batch, decompressed. A batch is a single chunk unless it is large."""

    records: bytearray
    record_count: int
    base_offset: int
    """That of the batch, from which the records count theirs."""
    first_offset: int
    """The lowest that the first record can have."""
    next_offset: int
    """The offset after the last record. Compaction leaves gaps, so it may be more than one higher."""
    base_timestamp: int
    """In milliseconds since 1970, like every timestamp here."""
    append_time: int | None
    """The timestamp of all records if the topic has LogAppendTime, which overrides their own; otherwise None."""
    position: int
    """Records below this offset are to be skipped: a fetch can begin in the middle of a batch."""
    problem: str = ""
    """Why the records from the first offset to the next one are not there."""
    max_timestamp: int = -1
    """The largest of the batch, which the broker checks: it dates what cannot be read."""
    skipped: int = 0
    """The bytes that were decompressed for a record that is too large."""


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
    end: int = 0
    """Where it ends among the records of its chunk; 0 if there is a problem."""


def decode(chunk: Chunk) -> Iterator[Record]:
    """Yield the records of a chunk from its position on, whatever they hold.

    Where one cannot be read, a record with a problem stands for it and all that follow in the chunk.
    """
    data, offset, end, problem = memoryview(chunk.records), chunk.first_offset - 1, 0, chunk.problem
    for left in range(0 if problem else chunk.record_count, 0, -1):
        try:
            end, timestamp_delta, offset_delta, content_at = record_head(data, end)
            if not content_at <= end <= len(data):
                raise BatchError("its length is wrong")
            content = data[content_at:end]
            try:
                value, headers_at, size = _read_content(content)
            except BatchError:
                content = memoryview(_respelled(content))
                value, headers_at, size = _read_content(content)
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
                yield Record(offset, timestamp, value, content, headers_at, "", end)
    if problem:
        timestamp = chunk.max_timestamp if chunk.append_time is None else chunk.append_time
        first, last = max(offset + 1, chunk.position), chunk.next_offset - 1
        which = f" (offsets {first} to {last})" if first < last else ""
        yield Record(first, timestamp, None, NOTHING, NO_HEADERS_AT, problem + which)


def record_of(offset: int, timestamp: int, content: Bytes) -> Record:
    """Return the record that has this content."""
    content = memoryview(content)
    value, headers_at, _ = _read_content(content)
    return Record(offset, timestamp, value, content, headers_at)


def record_head(data: Bytes, at: int) -> tuple[int, int, int, int]:
    """Return where a record ends, its timestamp and offset deltas, and where its content begins."""
    try:
        length, start = read_varint(data, at)
        timestamp_delta, after = read_varint(data, start + 1)
        offset_delta, after = read_varint(data, after)
    except BatchError:
        length, start = read_varint(data, at, is_odd=True)
        timestamp_delta, after = read_varint(data, start + 1, 64, is_odd=True)
        offset_delta, after = read_varint(data, after, is_odd=True)
    return start + length, timestamp_delta, offset_delta, after


def offset_of(chunk: Chunk, offset_delta: int, previous: int, highest: int) -> int:
    """Return a record's offset: what its delta says, but above the previous record's, and not above the highest.

    The latter leaves an offset to each record that follows. The broker checks the deltas of compressed batches only.
    """
    return min(max(chunk.base_offset + offset_delta, previous + 1), highest)


def too_large(size: int) -> str:
    """Return the problem of a record of so many bytes."""
    return f"too large: {size:,} bytes, and a record may have {MAX_RECORD_BYTES:,}"


def key_of(record: Record) -> bytes | None:
    """Return a record's key."""
    length, at = read_varint(record.content, 0)
    return bytes(record.content[at : at + length]) if length >= 0 else None


def headers_of(record: Record, most: int = 100) -> list[tuple[bytes, bytes | None]]:
    """Return a record's last headers, up to so many: names, which may be no UTF-8, and values. Later ones count."""
    content: Bytes = record.content
    count, at = read_varint(content, record.headers_at)
    places: deque[tuple[slice, slice | None]] = deque(maxlen=most)  # a record can have half a million
    for _ in range(count):
        length, name_at = read_varint(content, at)
        size, value_at = read_varint(content, name_at + length)
        at = value_at + max(size, 0)
        places.append((slice(name_at, name_at + length), slice(value_at, at) if size >= 0 else None))
    return [(bytes(content[name]), None if value is None else bytes(content[value])) for name, value in places]


def _read_content(content: memoryview) -> tuple[memoryview | None, int, int]:
    # Returns the value, where the headers begin, and the size without the numbers before them. Raises IndexError, and
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
        if data_length > 0:
            after += data_length
        if name_length < 0 or data_length < -1:
            raise BatchError("a header's length is wrong")
    if after != len(content) or count < 0 or key_length < -1 or value_length < -1:
        raise BatchError("its length is wrong")
    return content[value_at:headers_at] if value_length >= 0 else None, headers_at, len(content) - numbers


def _respelled(content: memoryview) -> bytearray:
    # Returns the content with its numbers spelled as usual: others than Java may not read it otherwise.
    found = bytearray()  # not a list of parts: there may be a million

    def field(at: int) -> int:
        nonlocal found
        length, at = read_varint(content, at, is_odd=True)
        end = at + max(length, 0)
        found += VARINT[max(length, -1)]
        found += content[at:end]
        return end

    headers_at = field(field(0))
    count, at = read_varint(content, headers_at, is_odd=True)
    found += VARINT[count]
    for _ in range(2 * count):
        at = field(at)
    return found + content[at:]
