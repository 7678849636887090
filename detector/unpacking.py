"""The outer layers of a record batch: its header, its compression, and chunks of its records, decompressed.

The format is version 2, which KIP-98 introduced and https://kafka.apache.org/documentation/#messageformat specifies.
A batch has 61 bytes of header: base offset, length, leader epoch, version, CRC, attributes, last offset delta, base
timestamp, largest timestamp, producer id, producer epoch, base sequence, number of records. Then come the records,
compressed if the attributes say so.
"""

import gzip
import io
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, Any, NamedTuple

import lz4.frame
import zstandard
from kafka import TopicPartition
from kafka.codec import snappy_decode

from varints import BatchError, Bytes, read_varint

HEADER = struct.Struct(">qiibIhiqqqhii")
CODEC_BITS, LOG_APPEND_TIME_BIT = 0b0111, 0b1000  # of a batch's attributes

CHUNK_BYTES = 1024 * 1024
CHUNK_RECORDS = 30_000

MAX_RECORD_BYTES = 100 * 1024 * 1024
"""A larger record is not unpacked, because no broker would accept it: by default none reads a larger request."""


class Chunk(NamedTuple):
    """Consecutive records of a batch, decompressed. A batch is a single chunk unless it is large."""

    records: bytearray
    record_count: int
    base_offset: int
    """That of the batch, from which the offsets of its records count."""
    base_timestamp: int
    """In milliseconds since 1970, like every timestamp here."""
    append_time: int | None
    """The timestamp of all records if the topic has LogAppendTime, which overrides their own; otherwise None."""
    position: int
    """Records below this offset are to be skipped: a fetch can begin in the middle of a batch."""
    next_offset: int
    """The offset after the last record. Compaction leaves gaps, so it may be more than one higher."""


def _zstd(data: bytes) -> IO[bytes]:
    return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True))


DECOMPRESS: dict[int, Callable[[bytes], Any]] = {
    0: io.BytesIO,
    1: lambda data: gzip.GzipFile(fileobj=io.BytesIO(data)),
    2: lambda data: io.BytesIO(snappy_decode(data)),  # in one go: snappy expands at most 22-fold
    3: lambda data: lz4.frame.LZ4FrameFile(io.BytesIO(data)),
    4: _zstd,
}


def unpack(fetched: Mapping[TopicPartition, Iterable[Any]]) -> Iterator[tuple[TopicPartition, Chunk]]:
    """Yield all that a consumer of whole batches has fetched, unpacking each chunk when it is asked for.

    Raises BatchError, which names the partition.
    """
    for partition, records in fetched.items():
        for record in records:
            try:
                for chunk in chunks(*record.value):
                    yield partition, chunk
            except BatchError as error:
                raise BatchError(f"{partition.topic}[{partition.partition}]: {error.args[0]}") from None


def chunks(batch: Bytes, position: int) -> Iterator[Chunk]:
    """Yield the records of a batch from this offset on: up to CHUNK_BYTES and CHUNK_RECORDS at a time.

    A single larger record is a chunk of its own. Decompression is incremental, so memory stays bounded however much
    a batch expands. Raises BatchError.
    """
    base_offset, _, _, _, _, attributes, last_delta, base_timestamp, max_timestamp, *_, count = HEADER.unpack_from(
        batch
    )
    append_time = max_timestamp if attributes & LOG_APPEND_TIME_BIT else None
    end_offset = base_offset + last_delta + 1
    try:
        stream = DECOMPRESS[attributes & CODEC_BITS](bytes(batch[HEADER.size :]))
        for records, number, next_offset in _whole_records(stream, count, base_offset, end_offset):
            if next_offset > position:
                yield Chunk(records, number, base_offset, base_timestamp, append_time, position, next_offset)
    except BatchError:
        raise
    except Exception as error:  # each codec has errors of its own
        raise BatchError(f"the batch at offset {base_offset} cannot be unpacked: {error!r}") from None


def _whole_records(
    stream: IO[bytes], count: int, base_offset: int, end_offset: int
) -> Iterator[tuple[bytearray, int, int]]:
    # Yields the bytes of whole records, their number, and the offset after the last of them.
    data, wanted = bytearray(), CHUNK_BYTES
    while True:
        more = stream.read(min(wanted - len(data), CHUNK_BYTES))
        data += more
        if len(data) < CHUNK_BYTES and count <= CHUNK_RECORDS:  # nothing is left to read
            yield data, count, end_offset
            return
        number = last = end = 0
        while number < min(count, CHUNK_RECORDS) and (following := _end_of_record(data, end)) <= len(data):
            number, last, end = number + 1, end, following
        if number:
            count -= number
            rest = data[end:]
            if not count and (rest or stream.read(1)):
                raise BatchError(f"the batch at offset {base_offset} has more bytes than records")
            del data[end:]
            yield data, number, base_offset + record_head(data, last)[2] + 1 if count else end_offset
            if not count:
                return
            data, wanted = rest, CHUNK_BYTES
        elif following > MAX_RECORD_BYTES:
            offset = base_offset + record_head(data, 0)[2]
            raise BatchError(f"the record at offset {offset} has {following:,} bytes, more than Kafka would take back")
        elif not more:
            raise BatchError(f"the batch at offset {base_offset} ends within a record")
        else:
            wanted = following


def _end_of_record(data: Bytes, at: int) -> int:
    try:
        length, start = read_varint(data, at)
    except IndexError:  # even its length is incomplete
        return len(data) + 1
    if length < 0:
        raise BatchError("a record's length is below 0")
    return start + length


def record_head(data: Bytes, at: int) -> tuple[int, int, int, int]:
    """Return where a record ends, its timestamp and offset deltas, and where its content begins."""
    length, start = read_varint(data, at)
    timestamp_delta, at = read_varint(data, start + 1)
    offset_delta, at = read_varint(data, at)
    return start + length, timestamp_delta, offset_delta, at
