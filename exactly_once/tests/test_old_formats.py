"""The formats before version 2: what the client writes and Java reads is read, and nothing is trusted."""

import gzip
import struct
import tracemalloc
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka.record.legacy_records import LegacyRecordBatch, LegacyRecordBatchBuilder

from exactly_once.decoding import decode, key_of
from exactly_once.old_formats import MESSAGE, START, old_chunks

CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3}
DATA = st.none() | st.binary(max_size=50)


class Read(NamedTuple):
    """A record, or a problem in its place."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    problem: str = ""


def read(batch: bytes, position: int = 0) -> list[Read]:
    """Return what there is in a batch."""
    found = [record for chunk in old_chunks(batch, position) for record in decode(chunk)]
    return [
        Read(r.offset, r.timestamp, key_of(r), None if r.value is None else bytes(r.value), r.problem) for r in found
    ]


def message(value: bytes | None, offset: int = 0, magic: int = 1, attributes: int = 0, key_size: int = -1) -> bytes:
    """Return a message without a key, as it lies in a partition; nobody looks at its checksum here."""
    size = -1 if value is None else len(value)
    body = struct.pack(">ibb", 0, magic, attributes) + (struct.pack(">q", 7) if magic else b"")
    body += struct.pack(">ii", key_size, size) + (value or b"")
    return START.pack(offset, len(body)) + body


def outer(data: bytes, last: int, magic: int = 1, attributes: int = 1, **other: int) -> bytes:
    """Return a message that has others within, with gzip."""
    return message(gzip.compress(data), last, magic, attributes, **other)


@settings(deadline=None)
@given(
    st.sampled_from([0, 1]),
    st.sampled_from(list(CODECS)),
    st.lists(st.tuples(DATA, DATA), min_size=1, max_size=5),
    st.integers(0, 2**40),
    st.integers(0, 5),
)
def test_what_the_client_writes_is_read(
    magic: int, codec: str, fields: list[tuple[bytes | None, bytes | None]], first: int, position: int
) -> None:
    """Each record at its offset, with its timestamp, from a position on."""
    codec = "none" if (magic, codec) == (0, "lz4") else codec
    fields = fields[:1] if codec == "none" else fields
    builder = LegacyRecordBatchBuilder(magic, CODECS[codec], batch_size=10**9)
    for number, (key, value) in enumerate(fields):
        builder.append(number if magic else first + number, 5 + number if magic else None, key, value)
    data = bytearray(builder.build())
    struct.pack_into(">q", data, 0, first + len(fields) - 1)  # as the broker does
    expected = [Read(first + n, 5 + n if magic else -1, key, value) for n, (key, value) in enumerate(fields)]
    assert read(bytes(data), first + position) == expected[position:]
    by_client = [Read(r.offset, r.timestamp or -1, r.key, r.value) for r in LegacyRecordBatch(data, magic)]
    assert by_client == expected


def test_what_is_cut_off_behind_the_last_one_is_none() -> None:
    """As in Java, whatever it says of its offset and size."""
    inner = b"".join(message(b"%d" % n, n) for n in range(5))
    expected = [Read(1000 + n, 7, None, b"%d" % n) for n in range(5)]
    for stub in (b"", b"xx", START.pack(-(10**6), 50), START.pack(500, 50) + b"x" * 20, START.pack(10**9, 50)):
        assert read(outer(inner + stub, 1004)) == expected
        assert read(outer(inner + stub, 1004), 1003) == expected[3:]


@pytest.mark.parametrize("places", [[0, 0, 0], [2, 1, 0], [-5, 7, 10**12], [0, 10, 20], [-(2**63), 2**63 - 1, 0]])
def test_offsets_end_at_the_outer_ones(places: list[int]) -> None:
    """Whatever the messages within say: they rise, and each has one."""
    found = read(outer(b"".join(message(b"x", place) for place in places), 1000))
    offsets = [record.offset for record in found]
    assert offsets == sorted(set(offsets))
    assert len(offsets) == 3
    assert offsets[-1] == 1000


UNREADABLE = {
    "cut off": message(b"x", 9)[:-1],
    "without fields": message(b"x", 9)[: MESSAGE.size],
    "an unknown codec": message(b"x", 9, attributes=4),
    "nothing within": outer(b"", 9),
    "a size below 0 within": outer(START.pack(0, -12) + bytes(100), 9),
    "version 3 within": outer(message(b"x", magic=3), 9),
    "more messages than offsets": outer(message(b"x") * 20, 9),
    "no gzip": message(b"no gzip", 9, attributes=1),
    "null": message(None, 9, attributes=1),
    "40 MB": outer(message(bytes(40 * 2**20)), 9),
}


@pytest.mark.parametrize("batch", UNREADABLE.values(), ids=UNREADABLE)
def test_what_cannot_be_read_has_the_last_offset(batch: bytes) -> None:
    """It is a problem, and no error."""
    *_, letter = read(batch)
    assert letter.problem.startswith("cannot be read: ")
    assert letter.offset == 9


def test_a_null_key_of_another_length_below_0() -> None:
    """As in Java it is null: what follows is the value, not what lies before it."""
    assert read(outer(message(b"x", key_size=-12), 9, key_size=-12)) == [Read(9, 7, None, b"x")]


def test_large_messages_and_many_take_little_memory() -> None:
    """One of more than 1 MiB is passed over by its size; they are read one by one."""
    inner = b"".join([message(b"a", 0), message(bytes(20 * 2**20), 1), message(b"b", 2)])
    for data, count in ((inner, 3), (b"".join(message(b"", n) for n in range(20_000)), 20_000)):
        batch = outer(data, 10**6)
        tracemalloc.start()
        found = sum(1 for chunk in old_chunks(batch, 0) for _ in decode(chunk))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert found == count
        assert peak < 4 * 2**20
    a, large, b = read(outer(inner, 2))
    assert (a.value, b.value) == (b"a", b"b")
    assert large == Read(1, 7, None, None, "too large: 20,971,542 bytes, and a record may have 1,048,576")


def test_the_time_of_the_log_is_that_of_all() -> None:
    """With LogAppendTime the outer message's counts."""
    inner = b"".join(message(b"x", n).replace(struct.pack(">q", 7), struct.pack(">q", 3)) for n in range(2))
    assert [r.timestamp for r in read(outer(inner, 1, attributes=1 | 8))] == [7, 7]
    assert [r.timestamp for r in read(outer(inner, 1))] == [3, 3]
