"""A reader of record batches that takes nothing but what everybody writes: what the detector writes has to be that.

Nothing here is shared with what it tests.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from kafka.record.util import calc_crc32c

from adversary import HEADER, varint

TRANSACTIONAL = 0b10000


class Read(NamedTuple):
    """A record."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[bytes, bytes | None], ...]

    def error(self, name: str) -> str:
        """Return what the detector has written to this header of a dead letter; nothing if it is not there."""
        return dict(self.headers).get(f"__streams.errors.{name}".encode(), b"").decode()

    def dead_offsets(self) -> range:
        """Return the offsets that this stands for if it is a dead letter: by reference it may be for several."""
        first = int(self.error("offset") or -1)
        several = re.search(r" \(offsets (\d+) to (\d+)\)$", self.error("message"))
        is_reference = self.error("exception") == "CorruptRecord"
        if first < 0 or not several or not is_reference:
            return range(first, first + 1) if first >= 0 else range(0)
        assert int(several[1]) == first
        return range(first, int(several[2]) + 1)


class _Reader:
    # Takes numbers and fields from bytes, one after the other.
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        taken = self.data[self.at : self.at + size]
        assert len(taken) == size
        self.at += size
        return taken

    def number(self, bits: int = 32) -> int:
        byte = self.data[self.at]
        if byte < 128:
            self.at += 1
            return byte >> 1 ^ -(byte & 1)
        start = self.at
        while self.take(1)[0] & 128:
            pass
        spelled = self.data[start : self.at]
        zigzag = sum((byte & 127) << 7 * n for n, byte in enumerate(spelled))
        number = zigzag >> 1 ^ -(zigzag & 1)
        assert spelled == varint(number, bits=bits), spelled
        return number

    def field(self) -> bytes | None:
        length = self.number()
        assert length >= -1
        return None if length < 0 else self.take(length)


def read(batch: bytes) -> Iterator[Read]:
    """Yield the records of an uncompressed batch. Raises AssertionError or IndexError if it is anything else."""
    base, length, _, magic, crc, attributes, last_delta, first, largest, *_, count = HEADER.unpack_from(batch)
    assert (magic, attributes & ~TRANSACTIONAL, crc) == (2, 0, calc_crc32c(batch[21:]))
    assert (length, last_delta) == (len(batch) - 12, count - 1)
    reader, times = _Reader(batch[HEADER.size :]), []
    for n in range(count):
        length = reader.number()
        end = reader.at + length
        assert reader.take(1) == b"\0"
        timestamp = (first + reader.number(64) + 2**63) % 2**64 - 2**63
        assert reader.number() == n
        key, value = reader.field(), reader.field()
        headers = tuple((reader.field(), reader.field()) for _ in range(reader.number()))
        assert reader.at == end
        names = [name for name, _ in headers if name is not None]
        assert len(names) == len(headers)
        times.append(timestamp)
        yield Read(base + n, timestamp, key, value, tuple(zip(names, (data for _, data in headers), strict=True)))
    assert reader.at == len(reader.data)
    # Kafka 4 looks for the largest from -1 on, which stands for no time.
    assert largest in (max(times), max(*times, -1)), (largest, times)
