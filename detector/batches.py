"""Kafka's records: from the bytes of a chunk to records, and back to batches. Pure functions, as in unpacking.py.

Kafka moves records in batches, and the detector changes nothing in a record. So a record's bytes, from its key to its
last header, are copied unchanged from the input batch to the output batch. A record has these parts:

    length, attributes (an unused byte), timestamp delta, offset delta, key, value, number of headers, headers

The numbers are varints (varints.py). The deltas are to the batch's base timestamp and base offset. The length counts
the bytes after it. A key, a value, and a header's name and value each follow their length, and -1 stands for null.
https://kafka.apache.org/documentation/#messageformat specifies it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from unpacking import HEADER, MAX_RECORD_BYTES, Chunk, record_head
from varints import VARINT, BatchError, Bytes, int64, read_varint

RECORD_FRAMING = 21
"""The most bytes that precede a record's content: its length, attributes, and both deltas."""


class Record(NamedTuple):
    """A record of a chunk."""

    offset: int
    timestamp: int
    value: memoryview | None
    content: memoryview
    """The record's bytes from the key to the last header."""
    headers_at: int
    """Index of the header count within the content."""


@dataclass
class OutputBatch:
    """A batch to be written."""

    base_timestamp: int
    max_timestamp: int
    record_count: int = 0
    data: bytearray = field(default_factory=lambda: bytearray(HEADER.size))
    """Room for the header, which the client fills in, and the records."""


def decode(chunk: Chunk) -> list[Record]:
    """Return the records of a chunk from its position on, whatever they hold. Raises BatchError."""
    data, records, end = memoryview(chunk.records), [], 0
    for number in range(chunk.record_count):
        try:
            end, timestamp_delta, offset_delta, start = record_head(data, end)
            key_length, at = read_varint(data, start)
            value_length, value_at = read_varint(data, at + max(key_length, 0))
            headers_at = value_at + max(value_length, 0)
        except IndexError:
            end = headers_at = start = -1
        if not start < headers_at < end <= len(data):
            raise BatchError(f"record {number} of the batch at offset {chunk.base_offset} has a wrong length")
        offset = chunk.base_offset + offset_delta
        if offset >= chunk.position:
            value = data[value_at:headers_at] if value_length >= 0 else None
            timestamp = chunk.append_time
            if timestamp is None:
                timestamp = int64(chunk.base_timestamp + timestamp_delta)
            records.append(Record(offset, timestamp, value, data[start:end], headers_at - start))
    if end != len(data):
        raise BatchError(f"the batch at offset {chunk.base_offset} has more bytes than records")
    return records


def usual_record(value: bytes) -> re.Pattern[bytes]:
    """Compile the pattern of a whole record without key and headers, whose value has this pattern.

    Its groups are the record's length, what that counts, the timestamp delta, the content, and the value's length;
    those of the value follow. It matches values up to 8 KiB. It does not check lengths: compare them with VARINT.
    """
    varint = rb"[\x80-\xff]{0,%d}+[\x00-\x7f]"  # {}+ and ++ give nothing back, which saves a tenth of the time
    length, null, none = varint % 1, rb"\x01", rb"\x00"
    content = rb"%b(%b)%b%b" % (null, length, value, none)
    return re.compile(rb"(%b)(\x00(%b)%b(%b))" % (length, varint % 4, varint % 4, content), re.DOTALL)


# --- from records to bytes ---


def add_headers(record: Record, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return the content of the record with these headers after its own. Raises BatchError."""
    try:
        count, at = read_varint(record.content, record.headers_at)
    except IndexError:
        raise BatchError(f"the record at offset {record.offset} ends within its number of headers") from None
    added = (part for header in headers for data in header for part in (VARINT[len(data)], data))
    return b"".join((record.content[: record.headers_at], VARINT[count + len(headers)], record.content[at:], *added))


def batch_bytes(content: Bytes) -> int:
    """Return the size of a batch that holds one record with this content."""
    length = 3 + len(content)  # the attributes, and both deltas, which are 0
    return HEADER.size + len(VARINT[length]) + length


def encode(
    records: Sequence[tuple[int, Bytes]], max_bytes: int, batches: list[OutputBatch] | None = None
) -> list[OutputBatch]:
    """Append these records, each a (timestamp, content) pair, in order to the last of the batches, and return them all.

    A new batch begins where one would exceed max_bytes. Each record must fit on its own (see batch_bytes).
    """
    batches = [] if batches is None else batches
    if not records:
        return batches
    timestamps, contents = zip(*records, strict=True)
    if not batches:
        batches.append(OutputBatch(timestamps[0], timestamps[0]))
    batch = batches[-1]
    if len(batch.data) + sum(map(len, contents)) + RECORD_FRAMING * len(records) > max_bytes:
        if middle := len(records) // 2:
            encode(records[:middle], max_bytes, batches)
            return encode(records[middle:], max_bytes, batches)
        if batch.record_count:
            batch = OutputBatch(timestamps[0], timestamps[0])
            batches.append(batch)
    parts: list[Bytes] = []
    for index, (timestamp, content) in enumerate(records, batch.record_count):
        timestamp_delta, offset_delta = VARINT[timestamp - batch.base_timestamp], VARINT[index]
        length = VARINT[1 + len(timestamp_delta) + len(offset_delta) + len(content)]
        parts += (length, b"\0", timestamp_delta, offset_delta, content)
    batch.data += b"".join(parts)
    batch.record_count += len(records)
    batch.max_timestamp = max(batch.max_timestamp, *timestamps)
    return batches


def encode_one(offset: int, timestamp: int, key: bytes | None, value: bytes | None) -> bytearray:
    """Return a batch of one record without headers, for a record in a format older than version 2."""
    content = b"".join(
        part for data in (key, value) for part in ((VARINT[-1],) if data is None else (VARINT[len(data)], data))
    )
    (batch,) = encode([(timestamp, content + VARINT[0])], MAX_RECORD_BYTES)
    HEADER.pack_into(batch.data, 0, offset, len(batch.data) - 12, -1, 2, 0, 0, 0, timestamp, timestamp, -1, -1, -1, 1)
    return batch.data
