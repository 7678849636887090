"""The outer layers of a record batch: its header, its compression, and chunks of its records, decompressed.

The format is version 2, which KIP-98 introduced and https://kafka.apache.org/documentation/#messageformat specifies.
A batch has 61 bytes of header: base offset, length, leader epoch, version, CRC, attributes, last offset delta, base
timestamp, largest timestamp, producer id, producer epoch, base sequence, number of records. Then come the records,
compressed if the attributes say so.

The broker writes the offsets of the header. Everything else is the producer's: no number in it is trusted.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from kafka import TopicPartition

from exactly_once.compression import decompressed
from exactly_once.varints import BatchError, Bytes, OddNumber, int64, read_as_java, read_varint

HEADER = struct.Struct(">qiibIhiqqqhii")
CODEC_BITS, LOG_APPEND_TIME_BIT = 0b0111, 0b1000  # of a batch's attributes

CHUNK_BYTES = 1024 * 1024
CHUNK_RECORDS = 30_000

MAX_RECORD_BYTES = 1024 * 1024
"""A record with a larger key, value and headers, counted together, is skipped. Kafka's own default allows producers as
much, and to decide on a value can take up to 60 times its memory."""

FRAMING_BYTES = 36
"""The most that a record's numbers take besides: its length, two deltas, and the lengths of key, value and headers."""

MAX_BATCH_BYTES = 1024 * 1024 * 1024
"""How far a batch is decompressed. A megabyte can expand to 32 GB, which would take minutes to skip."""


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


def unpack(fetched: Mapping[TopicPartition, Iterable[Any]]) -> Iterator[tuple[TopicPartition, Chunk]]:
    """Yield all that a consumer of whole batches has fetched, unpacking each chunk when it is asked for."""
    for partition, carriers in fetched.items():
        for carrier in carriers:  # what the client takes for a record carries a batch: see whole_batches.py
            for chunk in chunks(*carrier.value):
                yield partition, chunk


def chunks(batch: Bytes, position: int, problem: str = "") -> Iterator[Chunk]:
    """Yield the records of a batch from this offset on: up to CHUNK_BYTES and CHUNK_RECORDS at a time.

    Every offset of the batch is in a chunk, whatever it holds: a record larger than MAX_RECORD_BYTES is a chunk with a
    problem, and so is the rest of a batch that cannot be read. Decompression is incremental, so memory stays bounded
    however much a batch expands.
    """
    base_offset, _, _, _, _, attributes, last_delta, base_timestamp, max_timestamp, *_, left = HEADER.unpack_from(batch)
    end = base_offset + last_delta + 1
    append_time = max_timestamp if attributes & LOG_APPEND_TIME_BIT else None
    whole = Chunk(bytearray(), left, base_offset, base_offset, end, base_timestamp, append_time, position)
    first = base_offset
    try:
        if problem or not 0 <= left <= end - base_offset:
            raise BatchError(problem or f"{left} records at {end - base_offset} offsets")
        stream = _Stream(decompressed(attributes & CODEC_BITS, memoryview(batch)[HEADER.size :]))
        while first < end:
            chunk = _next_chunk(stream, whole, first, left)
            first, left = chunk.next_offset, left - chunk.record_count
            if first > position:
                yield chunk
    except MemoryError:
        raise
    except Exception as error:  # each codec has errors of its own
        why = str(error) if isinstance(error, BatchError) else f"{type(error).__name__}: {error}"
        if end > max(first, position):
            yield whole._replace(first_offset=max(first, position), problem=f"cannot be read: {why[:100]}")


def _next_chunk(stream: "_Stream", whole: Chunk, first: int, left: int) -> Chunk:
    # Takes the next records from the stream, of so many that are left, the first of which has at least this offset.
    stream.fill(CHUNK_BYTES)
    if not left or (stream.has_ended and len(stream.data) < CHUNK_BYTES and left <= CHUNK_RECORDS):  # that is all
        return whole._replace(records=stream.data, record_count=left, first_offset=first)
    data, size, count, offset, highest = stream.data, 0, 0, first - 1, whole.next_offset - left
    has_gaps = highest > first
    following = 0
    while count < min(left, CHUNK_RECORDS):
        following = end_of_record(data, size)
        if following > min(len(data), CHUNK_BYTES):
            break
        offset = offset_of(whole, record_head(data, size)[2], offset, highest + count) if has_gaps else highest + count
        size, count = following, count + 1
    problem, timestamp = "", whole.base_timestamp
    if not count:  # a large record by itself
        size, count = following, 1
        _, timestamp_delta, offset_delta, content_at = record_head(data, 0)
        offset = offset_of(whole, offset_delta, offset, highest)
        if size - content_at > MAX_RECORD_BYTES + FRAMING_BYTES:
            stream.skip(size)
            problem, timestamp = too_large(size - content_at), int64(timestamp + timestamp_delta)
            first, size = offset, 0
    return whole._replace(
        records=stream.take(size),
        record_count=count,
        first_offset=first,
        next_offset=whole.next_offset if count == left else offset + 1,
        base_timestamp=timestamp,
        problem=problem,
    )


class _Stream:
    # The decompressed bytes of a batch, as far as they have been asked for.
    def __init__(self, pieces: Iterator[Bytes]) -> None:
        self.data, self.has_ended = bytearray(), False
        self._pieces, self._left, self._error = pieces, MAX_BATCH_BYTES, Exception()

    def fill(self, size: int) -> bool:
        """Read until there are so many bytes. Return False if the stream ends before, or has an error."""
        while len(self.data) < size and not self.has_ended and self._left >= 0:
            try:
                piece = next(self._pieces)
                self._left -= len(piece)
                self.data += piece if self._left >= 0 else b""
                self._error = BatchError(f"more than {MAX_BATCH_BYTES:,} bytes")
            except StopIteration:
                self.has_ended, self._error = True, BatchError("it ends within a record")
            except MemoryError:
                raise
            except Exception as error:  # each codec has errors of its own; behind the records one does no harm
                self._left, self._error = -1, error
        return len(self.data) >= size

    def take(self, size: int) -> bytearray:
        """Return the next bytes. Raises the error if the stream has fewer."""
        if not self.fill(size):
            raise self._error
        taken = self.data[:size]
        del self.data[:size]
        return taken

    def skip(self, size: int) -> None:
        """Drop the next bytes. Raises the error if the stream has fewer."""
        while size:
            size -= len(self.take(min(size, CHUNK_BYTES)))


def too_large(size: int) -> str:
    """Return the problem of a record of so many bytes."""
    return f"too large: {size:,} bytes, and a record may have {MAX_RECORD_BYTES:,}"


def offset_of(chunk: Chunk, offset_delta: int, previous: int, highest: int) -> int:
    """Return a record's offset: what its delta says, but above the previous record's, and not above the highest.

    The latter leaves an offset to each record that follows. The broker checks the deltas of compressed batches only.
    """
    return min(max(chunk.base_offset + offset_delta, previous + 1), highest)


def end_of_record(data: Bytes, at: int) -> int:
    """Return where the record ends that begins here, or beyond the data if its length is incomplete."""
    try:
        length, start = read_as_java(data, at)
    except IndexError:
        return len(data) + 1
    if length < 0:
        raise BatchError("a record's length is below 0")
    return start + length


def record_head(data: Bytes, at: int) -> tuple[int, int, int, int]:
    """Return where a record ends, its timestamp and offset deltas, and where its content begins."""
    try:
        length, start = read_varint(data, at)
        timestamp_delta, after = read_varint(data, start + 1)
        offset_delta, after = read_varint(data, after)
    except OddNumber:
        length, start = read_as_java(data, at)
        timestamp_delta, after = read_as_java(data, start + 1, 64)
        offset_delta, after = read_as_java(data, after)
    return start + length, timestamp_delta, offset_delta, after
