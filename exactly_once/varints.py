"""Kafka's varints: groups of seven bits, the lowest first, of a number in zigzag form (0, -1, 1, -2 are 0, 1, 2, 3).

https://kafka.apache.org/documentation/#messageformat uses the encoding of Protocol Buffers.
"""

Bytes = bytes | bytearray | memoryview

VARINT_FORM = rb"[\x80-\xff]{0,%d}+[\x00-\x7f]"
"""The pattern of a varint with so many bytes before its last one."""

LARGEST_REMEMBERED = 30_000
"""About as many as a batch has records, because offset deltas count up from 0."""


class BatchError(ValueError):
    """What a batch holds cannot be read; the message says why."""


class _Varints(dict[int, bytes]):
    # Encodes on demand, and remembers small numbers.
    def __missing__(self, number: int) -> bytes:
        signed = int64(number)  # the difference of two timestamps can have 65 bits
        zigzag = signed << 1 ^ signed >> 63
        data = bytearray()
        while zigzag > 127:
            data.append(zigzag & 127 | 128)
            zigzag >>= 7
        data.append(zigzag)
        if 0 <= number <= LARGEST_REMEMBERED:
            self[number] = bytes(data)
        return bytes(data)


class _Numbers(dict[bytes, int]):
    # Decodes on demand, and remembers short varints.
    def __missing__(self, data: bytes) -> int:
        number, _ = read_varint(data, 0, 64, is_odd=True)
        if len(data) <= 2:
            self[data] = number
        return number


VARINT, NUMBER = _Varints(), _Numbers()
"""`VARINT[n]` is n encoded; `NUMBER[data]` is data decoded."""


def read_varint(data: Bytes, at: int, bits: int = 32, is_odd: bool = False) -> tuple[int, int]:
    """Return the number at this index, and the index after it. Raises IndexError and BatchError.

    A number has 32 bits, and no more bytes than it needs. One that may be odd is read as Java does, however it is
    spelled: bits that are too many are cut off, and bytes may add nothing. Only the delta of a timestamp has 64 bits.
    """
    byte = data[at]
    at += 1
    if byte < 128:
        return byte >> 1 ^ -(byte & 1), at
    zigzag, shift = byte & 127, 7
    while shift < bits:
        byte = data[at]
        at += 1
        zigzag |= (byte & 127) << shift
        if byte < 128:
            if is_odd:
                zigzag &= (1 << bits) - 1
            elif not byte or zigzag >> bits:
                raise BatchError("a number is spelled with more than it needs")
            return zigzag >> 1 ^ -(zigzag & 1), at
        shift += 7
    raise BatchError(f"a number has more than {bits} bits")


def int64(number: int) -> int:
    """Return the number wrapped to 64 bits, as Java's long overflows."""
    return (number + 2**63) % 2**64 - 2**63
