"""The formats before version 2: messages, alone or compressed together within another one. Kafka 4 has none of them.

A message has an offset, the size of what follows, a checksum, the format's version, attributes, from version 1 on a
timestamp, and a key and a value, each after its length, below 0 for null. The outer message's offset is that of the
last within, which the broker knows. https://kafka.apache.org/documentation/#messageset specifies them.
"""

import struct
from collections.abc import Iterator

from exactly_once.compression import BLOCK_BYTES, CODEC_BITS, LOG_APPEND_TIME_BIT, Stream, decompressed
from exactly_once.decoding import MAX_RECORD_BYTES, Chunk, too_large
from exactly_once.varints import VARINT, BatchError, Bytes

START, MESSAGE = struct.Struct(">qi"), struct.Struct(">qiibb")
LENGTH, TIME = struct.Struct(">i"), struct.Struct(">q")
LEAST_BYTES = MESSAGE.size - START.size + 2 * LENGTH.size


def old_chunks(batch: Bytes, position: int) -> Iterator[Chunk]:
    """Yield the messages of a batch from this offset on, each as a chunk of one record.

    Where they cannot be read, a chunk with a problem has the last one's offset.
    """
    last, *_, attributes = MESSAGE.unpack_from(batch)
    whole = Chunk(bytearray(), 1, last, last, last + 1, -1, None, position)
    try:
        outer, value = _read(batch, whole)
        if not attributes & CODEC_BITS:
            yield outer
            return
        append_time = outer.base_timestamp if attributes & LOG_APPEND_TIME_BIT else None
        whole = whole._replace(append_time=append_time, max_timestamp=outer.base_timestamp)
        # Twice: what they say of their offsets counts from the last one's.
        left, last_place, offset = 0, 0, -1
        for message_within in _messages(attributes & CODEC_BITS, value):
            left, last_place = left + 1, message_within[0]
        if not 0 < left <= last + 1:
            raise BatchError(f"{left} messages up to offset {last}")
        for place, size, message in _messages(attributes & CODEC_BITS, value):
            left -= 1  # leaves an offset to each that follows
            offset = min(max(last - last_place + place, offset + 1), last - left)
            if offset >= position:
                one = whole._replace(base_offset=offset, first_offset=offset, next_offset=offset + 1)
                yield _read(message, one)[0] if message else one._replace(problem=too_large(size), skipped=size)
    except (BatchError, struct.error) as error:
        yield whole._replace(problem=f"cannot be read: {str(error)[:100]}")


def _messages(codec: int, data: memoryview) -> Iterator[tuple[int, int, bytearray]]:
    # Yields what each message within says of its offset, its size, and itself; or nothing, if it is too large. As in
    # Java, one that is cut off is none.
    stream = Stream(decompressed(codec, data, BLOCK_BYTES))
    while stream.has(START.size):
        place, size = START.unpack_from(stream.data)
        if size < LEAST_BYTES:
            raise BatchError(f"a message of {size} bytes")
        if not stream.has(min(START.size + size, 2 * MAX_RECORD_BYTES)):
            return
        if START.size + size < 2 * MAX_RECORD_BYTES:
            yield place, size, stream.take(START.size + size)
        else:
            stream.skip(START.size + size)
            yield place, size, bytearray()


def _read(message: Bytes, whole: Chunk) -> tuple[Chunk, memoryview]:
    # Returns a message as a chunk, and its value. Raises BatchError and struct.error.
    version, at, timestamp, fields = MESSAGE.unpack_from(message)[3], MESSAGE.size, -1, []
    if version not in (0, 1):
        raise BatchError(f"a message of version {version}")
    if version:
        (timestamp,) = TIME.unpack_from(message, at)
        at += TIME.size
    for _ in range(2):
        (length,) = LENGTH.unpack_from(message, at)
        at += LENGTH.size + max(length, 0)
        if at > len(message):
            raise BatchError("a key or a value of more bytes than there are")
        fields.append(memoryview(message)[at - length : at] if length >= 0 else None)
    content = b"".join(VARINT[-1] if field is None else VARINT[len(field)] + field for field in fields) + VARINT[0]
    records = bytearray(VARINT[3 + len(content)] + bytes(3) + content)
    return whole._replace(records=records, base_timestamp=timestamp), fields[1] or memoryview(b"")
