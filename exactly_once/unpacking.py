"""The outer layers of a record batch: its header, its compression, and chunks of its records, decompressed.

The format is version 2, which KIP-98 introduced and https://kafka.apache.org/documentation/#messageformat specifies.
A batch has 61 bytes of header: base offset, length, leader epoch, version, CRC, attributes, last offset delta, base
timestamp, largest timestamp, producer id, producer epoch, base sequence, number of records. Then come the records,
compressed if the attributes say so.

The broker writes the offsets of the header. Everything else is the producer's: no number in it is trusted.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kafka import TopicPartition

from exactly_once.compression import CODEC_BITS, LOG_APPEND_TIME_BIT, Stream, decompressed
from exactly_once.decoding import MAX_RECORD_BYTES, Chunk, Record, decode, offset_of, record_head, too_large
from exactly_once.old_formats import old_chunks
from exactly_once.varints import BatchError, Bytes, int64, read_varint

HEADER, VERSION_AT = struct.Struct(">qiibIhiqqqhii"), 16

CHUNK_BYTES = 1024 * 1024
CHUNK_RECORDS = 30_000

FRAMING_BYTES = 36
"""The most that a record takes beside its fields: its length, two deltas, and the lengths of key, value, headers."""

MAX_BATCH_BYTES = 1024 * 1024 * 1024
"""How far a batch is decompressed. A megabyte can expand to 32 GB, which would take minutes to skip."""


def records_of(batches: Mapping[TopicPartition, Iterable[Any]]) -> Iterator[tuple[TopicPartition, Record]]:
    """Yield the records that a consumer of whole batches has fetched, each with its partition, a chunk at a time."""
    for partition, chunk in unpack(batches):
        for record in decode(chunk):
            yield partition, record


def unpack(batches: Mapping[TopicPartition, Iterable[Any]]) -> Iterator[tuple[TopicPartition, Chunk]]:
    """Yield all that a consumer of whole batches has fetched, unpacking each chunk when it is asked for."""
    for partition, fetched in batches.items():
        for batch in fetched:  # the value of what the client takes for a record: see whole_batches.py
            is_old = batch.value.data[VERSION_AT] < 2
            for chunk in (old_chunks if is_old else chunks)(*batch.value):
                yield partition, chunk


def chunks(batch: Bytes, position: int) -> Iterator[Chunk]:
    """Yield the records of a batch from this offset on: up to CHUNK_BYTES and CHUNK_RECORDS at a time.

    Every offset of the batch is in a chunk, whatever it holds: a record larger than MAX_RECORD_BYTES is a chunk with a
    problem, and so is the rest of a batch that cannot be read. Decompression is incremental, so memory stays bounded
    however much a batch expands.
    """
    base_offset, _, _, _, _, attributes, last_delta, base_timestamp, max_timestamp, *_, left = HEADER.unpack_from(batch)
    first, end = base_offset, base_offset + last_delta + 1
    append_time = max_timestamp if attributes & LOG_APPEND_TIME_BIT else None
    whole = Chunk(bytearray(), left, base_offset, first, end, base_timestamp, append_time, position, "", max_timestamp)
    try:
        if not 0 <= left <= end - first:
            raise BatchError(f"{left} records at {end - first} offsets")
        stream = Stream(decompressed(attributes & CODEC_BITS, memoryview(batch)[HEADER.size :], MAX_BATCH_BYTES))
        while first < end:
            chunk = _next_chunk(stream, whole, first, left)
            first, left = chunk.next_offset, left - chunk.record_count
            if first > position:
                yield chunk
    except (BatchError, IndexError) as error:
        if end > max(first, position):
            yield whole._replace(first_offset=max(first, position), problem=f"cannot be read: {str(error)[:100]}")


def _next_chunk(stream: Stream, whole: Chunk, first: int, left: int) -> Chunk:
    # Takes the next records from the stream, of so many that are left, the first of which has at least this offset.
    stream.fill(CHUNK_BYTES)
    if not left or (stream.has_ended and len(stream.data) < CHUNK_BYTES and left <= CHUNK_RECORDS):  # that is all
        return whole._replace(records=stream.data, record_count=left, first_offset=first)
    data, size, count, offset, highest = stream.data, 0, 0, first - 1, whole.next_offset - left
    has_gaps = highest > first
    problem, timestamp, skipped = "", whole.max_timestamp, 0
    while count < min(left, CHUNK_RECORDS) and (end := end_of_record(data, size)) <= min(len(data), CHUNK_BYTES):
        offset = offset_of(whole, record_head(data, size)[2], offset, highest + count) if has_gaps else highest + count
        size, count = end, count + 1
    if not count:  # a large record by itself
        size, count = end, 1
        _, timestamp_delta, offset_delta, content_at = record_head(data, 0)
        offset = offset_of(whole, offset_delta, offset, highest)
        if size - content_at > MAX_RECORD_BYTES + FRAMING_BYTES:
            problem, skipped = too_large(size - content_at), size
            timestamp = int64(whole.base_timestamp + timestamp_delta)
            stream.skip(size)
            size, first = 0, offset
    return whole._replace(
        records=stream.take(size),
        record_count=count,
        first_offset=first,
        next_offset=whole.next_offset if count == left else offset + 1,
        problem=problem,
        max_timestamp=timestamp,
        skipped=skipped,
    )


def end_of_record(data: Bytes, at: int) -> int:
    """Return where the record ends that begins here, or beyond the data if its length is incomplete."""
    try:
        length, start = read_varint(data, at, is_odd=True)
    except IndexError:
        return len(data) + 1
    if length < 0:
        raise BatchError("a record's length is below 0")
    return start + length
