"""Kafka's records: from contents to batches. Pure functions; decoding.py says what a record is made of."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from operator import add, itemgetter, sub
from typing import NamedTuple, Self

from exactly_once.unpacking import FRAMING_BYTES, HEADER
from exactly_once.varints import LARGEST_REMEMBERED, VARINT, Bytes, read_varint

OFFSET_DELTAS = [VARINT[number] for number in range(LARGEST_REMEMBERED)]
"""Those of a batch's records. A batch that we write has no more."""


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

    def sort(self) -> None:
        """Put the records in the order of their offsets."""
        if sorted(self.offsets) != self.offsets:
            rows = sorted(zip(self.offsets, self.timestamps, self.contents, strict=True), key=itemgetter(0))
            self.offsets[:], self.timestamps[:], self.contents[:] = zip(*rows, strict=True)

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
    """Room for the header, which the producer fills in, and the records."""


Headers = Sequence[tuple[bytes, bytes]]
"""Names and values."""


def content_of(key: bytes | None, value: bytes | None) -> bytes:
    """Return the content of a record without headers."""
    parts = ((VARINT[-1],) if data is None else (VARINT[len(data)], data) for data in (key, value))
    return b"".join((*chain.from_iterable(parts), VARINT[0]))


def headers_at(content: Bytes) -> int:
    """Return the index of the header count within a content: behind the key and the value."""
    length, at = read_varint(content, 0)
    length, at = read_varint(content, at + max(length, 0))
    return at + max(length, 0)


def add_headers(content: Bytes, headers_at: int, number: int, added: bytes) -> bytes:
    """Return the content, whose headers begin at this index, with so many more behind its own: `encode_headers`."""
    count, at = read_varint(content, headers_at)
    return b"".join((content[:headers_at], VARINT[count + number], content[at:], added))


def encode_headers(headers: Headers) -> bytes:
    """Return headers as they lie in a record."""
    return b"".join([part for header in headers for data in header for part in (VARINT[len(data)], data)])


def batch_bytes(content: Bytes) -> int:
    """Return the size of a batch that holds one record with this content."""
    length = 3 + len(content)  # the attributes, and both deltas, which are 0
    return HEADER.size + len(VARINT[length]) + length


def encode(records: Columns, max_bytes: int, batches: list[OutputBatch] | None = None) -> list[OutputBatch]:
    """Append these records, in order, to the last of the batches, and return all batches.

    A new batch begins where one would have too many records, or exceed max_bytes. Each record must fit on its own (see
    batch_bytes).
    """
    batches = [] if batches is None else batches
    offsets, timestamps, contents = records
    if not offsets:
        return batches
    if not batches:
        batches.append(OutputBatch(timestamps[0], timestamps[0]))
    batch = batches[-1]
    sizes, count = list(map(len, contents)), len(batch.offsets)
    end = count + len(sizes)
    if end > len(OFFSET_DELTAS) or len(batch.data) + sum(sizes) + FRAMING_BYTES * len(sizes) > max_bytes:
        if middle := len(offsets) // 2:
            encode(Columns(offsets[:middle], timestamps[:middle], contents[:middle]), max_bytes, batches)
            return encode(Columns(offsets[middle:], timestamps[middle:], contents[middle:]), max_bytes, batches)
        if count:
            batches.append(OutputBatch(timestamps[0], timestamps[0]))
            return encode(records, max_bytes, batches)
    timestamp_deltas = list(map(VARINT.__getitem__, map(sub, timestamps, repeat(batch.base_timestamp))))
    offset_deltas = OFFSET_DELTAS[count:end]
    heads = map(add, map(len, timestamp_deltas), map(len, offset_deltas))
    parts: list[Bytes] = [b"\0"] * (5 * len(sizes))  # a record's second part, the attributes, is always that
    parts[0::5] = map(VARINT.__getitem__, map(add, map(add, heads, sizes), repeat(1)))
    parts[2::5], parts[3::5], parts[4::5] = timestamp_deltas, offset_deltas, contents
    batch.data += b"".join(parts)
    batch.offsets += offsets
    batch.max_timestamp = max(batch.max_timestamp, max(timestamps))
    return batches
