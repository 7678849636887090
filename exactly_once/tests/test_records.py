"""Kafka's record batches, compared with what the client's own builder writes and its own reader reads."""

import json
import re
import tracemalloc
import zlib
from collections.abc import Sequence
from types import SimpleNamespace
from typing import NamedTuple
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from kafka import TopicPartition
from kafka.errors import KafkaError
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

import adversary
from exactly_once import compression, unpacking
from exactly_once.compression import decompressed
from exactly_once.consumer import PORTION_BYTES, Consumer
from exactly_once.decoding import Chunk, decode, headers_of
from exactly_once.encoding import Columns, OutputBatch, add_headers, content_of, encode, encode_headers
from exactly_once.unpacking import HEADER, chunks
from exactly_once.varints import VARINT, read_varint

CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
Headers = tuple[tuple[str, bytes | None], ...]


class Written(NamedTuple):
    """What a record is made of."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


def build(records: Sequence[Written], codec: int, base_offset: int = 0, append_time: int | None = None) -> bytes:
    """Return a batch by the client's builder, as the broker would keep it."""
    builder = DefaultRecordBatchBuilder(2, codec, False, -1, -1, -1, batch_size=10**9)
    for record in records:
        builder.append(record.offset - base_offset, *record[1:4], list(record.headers))
    data = builder.build()
    header = list(HEADER.unpack_from(data))
    header[0] = base_offset
    if append_time is not None:
        header[5] |= unpacking.LOG_APPEND_TIME_BIT
        header[8] = append_time
    HEADER.pack_into(data, 0, *header)
    return bytes(data)


def read_by_client(data: bytes) -> list[Written]:
    """Return the records of a batch by the client's reader."""
    return [
        Written(record.offset, record.timestamp, record.key, record.value, tuple(record.headers))
        for record in DefaultRecordBatch(data)
    ]


def finished(batch: OutputBatch) -> bytes:
    """Return an output batch with its header filled in, as the client does before it sends it."""
    count = len(batch.offsets)
    times = (batch.base_timestamp, batch.max_timestamp)
    HEADER.pack_into(batch.data, 0, 0, len(batch.data) - 12, 0, 2, 0, 0, count - 1, *times, -1, -1, -1, count)
    return bytes(batch.data)


def as_written(data: bytes, position: int = -(2**62)) -> list[Written]:
    """Return the records of a batch by our decoder; each goes through a batch of its own, to show its content."""
    found = []
    for chunk in chunks(data, position):
        for record in decode(chunk):
            assert not record.problem, record.problem
            (batch,) = encode(Columns.of([(record.offset, record.timestamp, record.content)]), 10**9)
            (alone,) = read_by_client(finished(batch))
            value = None if record.value is None else bytes(record.value)
            assert alone[1:4] == (record.timestamp, alone.key, value)
            found.append(alone._replace(offset=record.offset))
    return found


TIMES = st.integers(-(2**40), 2**50)
DATA = st.none() | st.binary(max_size=200)
HEADERS = st.lists(st.tuples(st.text(max_size=8), st.none() | st.binary(max_size=20)), max_size=4).map(tuple)


@st.composite
def written(draw: st.DrawFn, min_size: int = 1) -> list[Written]:
    """Return records with gaps between their offsets, as compaction leaves them."""
    offset, records = draw(st.integers(0, 2**40)), []
    for gap in draw(st.lists(st.integers(1, 3) | st.integers(1, 2**20), min_size=min_size, max_size=12)):
        offset += gap
        records.append(Written(offset, draw(TIMES), draw(DATA), draw(DATA), draw(HEADERS)))
    return records


@settings(deadline=None)
@given(st.integers(-(2**63), 2**63 - 1))
def test_a_number_survives_its_varint(number: int) -> None:
    """What is encoded as a varint decodes to itself, whether or not it is remembered."""
    data = VARINT[number]
    assert VARINT[number] == data
    assert read_varint(b"x" + data + b"x", 1, 64, is_odd=True) == (number, 1 + len(data))
    if -(2**31) <= number < 2**31:
        assert read_varint(b"x" + data + b"x", 1) == (number, 1 + len(data))


@settings(deadline=None)
@given(written(), st.sampled_from(list(CODECS.values())))
def test_what_the_client_writes_is_what_it_reads(records: list[Written], codec: int) -> None:
    """Keys, values, headers, nulls, timestamps and gaps come out as they went in, with every codec."""
    data = build(records, codec, records[0].offset)
    assert as_written(data) == read_by_client(data) == records


@settings(deadline=None)
@given(written(), st.integers(0, 3))
def test_the_last_headers_of_a_record(records: list[Written], most: int) -> None:
    """Names and values are bytes, in their order, and those that were added last are not among those left out."""
    added = (b"\xff", b"\xfe")
    (chunk,) = chunks(build(records, 0, records[0].offset), 0)
    for record, decoded in zip(records, decode(chunk), strict=True):
        headers = [(name.encode(), data) for name, data in record.headers]
        assert headers_of(decoded) == headers
        assert headers_of(decoded, most) == headers[max(0, len(headers) - most) :]
        longer = decoded._replace(content=add_headers(decoded.content, decoded.headers_at, 1, encode_headers([added])))
        assert headers_of(longer, most + 1) == [*headers[max(0, len(headers) - most) :], added]


@settings(deadline=None)
@given(written(min_size=2), st.sampled_from(list(CODECS.values())), st.data())
def test_a_fetch_can_begin_in_the_middle_of_a_batch(records: list[Written], codec: int, data: st.DataObject) -> None:
    """Records below the position are left out, and only those."""
    position = data.draw(st.integers(records[0].offset, records[-1].offset))
    batch = build(records, codec, records[0].offset)
    assert as_written(batch, position) == [record for record in records if record.offset >= position]


@settings(deadline=None)
@given(written(), st.integers(0, 2**62))
def test_log_append_time_overrides_the_records_own(records: list[Written], append_time: int) -> None:
    """Where the topic has LogAppendTime, every record has the time of its batch."""
    data = build(records, 0, records[0].offset, append_time)
    assert as_written(data) == [record._replace(timestamp=append_time) for record in records]


@settings(deadline=None)
@given(written(), st.sampled_from(list(CODECS.values())), st.integers(1, 300), st.integers(1, 4))
def test_a_batch_is_cut_into_chunks(records: list[Written], codec: int, max_bytes: int, max_records: int) -> None:
    """However small the chunks: they hold the same records, a single one at least, and each knows where it ends."""
    data = build(records, codec, records[0].offset)
    with patch.multiple(unpacking, CHUNK_BYTES=max_bytes, CHUNK_RECORDS=max_records):
        cut = list(chunks(data, 0))
        assert as_written(data) == records
    for chunk in cut:
        assert 1 <= chunk.record_count <= max_records
        assert len(chunk.records) <= max_bytes or chunk.record_count == 1
    assert sum(chunk.record_count for chunk in cut) == len(records)
    assert [chunk.next_offset for chunk in cut] == [[*decode(chunk)][-1].offset + 1 for chunk in cut]


@settings(deadline=None)
@given(written(), st.integers(300, 2000), st.integers(0, 10))
def test_what_is_encoded_the_client_reads_back(records: list[Written], max_bytes: int, first: int) -> None:
    """Output batches hold the records in their order, and none is larger than allowed but for a single record.

    It does not matter in how many parts they come.
    """
    (chunk,) = chunks(build(records, 0, records[0].offset), 0)
    contents = [(record.offset, record.timestamp, record.content) for record in decode(chunk)]
    output = encode(Columns.of(contents[first:]), max_bytes, encode(Columns.of(contents[:first]), max_bytes))
    found = [record for batch in output for record in read_by_client(finished(batch))]
    assert [record[1:] for record in found] == [record[1:] for record in records]
    for batch in output:
        alone = read_by_client(finished(batch))
        assert len(batch.data) <= max_bytes or len(alone) == 1
        assert [record.offset for record in alone] == list(range(len(alone)))
        assert batch.max_timestamp == max(record.timestamp for record in alone)


def test_a_batch_is_filled() -> None:
    """Records that do not all fit begin a new batch only where the batch is full, in whatever parts they come."""
    record = (7, 0, bytes(VARINT[-1] + VARINT[50] + b"x" * 50 + VARINT[0]))
    output = encode(Columns.of([record] * 700), 10_000, encode(Columns.of([record] * 100), 10_000))
    assert [offset for batch in output for offset in batch.offsets] == [7] * 800
    assert all(9900 < len(batch.data) <= 10_000 for batch in output[:-1])


def test_a_batch_has_a_largest_number_of_records() -> None:
    """Beyond it the next batch begins, however small the records are."""
    record = (7, 0, bytes(VARINT[-1] + VARINT[-1] + VARINT[0]))
    output = encode(Columns.of([record] * 45_000), 10**9, encode(Columns.of([record] * 25_000), 10**9))
    assert [len(batch.offsets) for batch in output] == [30_000, 30_000, 10_000]
    assert [len(read_by_client(finished(batch))) for batch in output] == [30_000, 30_000, 10_000]


@settings(deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5))
def test_timestamps_of_any_value_are_passed_on(timestamps: list[int]) -> None:
    """Even where their difference overflows, which then is Java's: what a reader adds up is the timestamp again."""
    content = bytes(VARINT[-1] + VARINT[-1] + VARINT[0])
    (batch,) = encode(Columns.of((0, timestamp, content) for timestamp in timestamps), 10**6)
    (chunk,) = chunks(finished(batch), 0)
    assert [record.timestamp for record in decode(chunk)] == timestamps
    assert (batch.base_timestamp, batch.max_timestamp) == (timestamps[0], max(timestamps))


@settings(deadline=None)
@given(written(), st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=200)), max_size=70))
def test_headers_are_added_behind_the_own(records: list[Written], added: list[tuple[str, bytes]]) -> None:
    """The record's own headers stay, in their order, and the new ones follow."""
    (chunk,) = chunks(build(records, 0, records[0].offset), 0)
    for record, before in zip(decode(chunk), records, strict=True):
        more = encode_headers([(name.encode(), value) for name, value in added])
        content = add_headers(record.content, record.headers_at, len(added), more)
        (batch,) = encode(Columns.of([(record.offset, record.timestamp, content)]), 10**6)
        (after,) = read_by_client(finished(batch))
        assert after[1:] == (before.timestamp, before.key, before.value, before.headers + tuple(added))


# --- hostile bytes ---


def usual_value(name: str = "a", amount: object = 10) -> bytes:
    """Return a value of the usual form."""
    return json.dumps({"source": name, "target": "b", "amount": amount, "currency": "EUR"}).encode()


def record_bytes(
    value: bytes | None,
    timestamp_delta: int = 0,
    offset_delta: int = 0,
    key: bytes | None = None,
    headers: Sequence[tuple[bytes, bytes | None]] = (),
) -> bytes:
    """Return a record as it lies in a batch."""
    content = content_of(key, value)[:-1] + VARINT[len(headers)]
    for data in (data for header in headers for data in header):
        content += VARINT[-1] if data is None else VARINT[len(data)] + data
    body = b"\0" + VARINT[timestamp_delta] + VARINT[offset_delta] + content
    return VARINT[len(body)] + body


def chunk_of(records: Sequence[bytes], base_timestamp: int = 0, position: int = -(2**62)) -> Chunk:
    """Return an uncompressed chunk of a batch that begins at offset 0."""
    data = bytearray(b"".join(records))
    return Chunk(data, len(records), 0, 0, len(records), base_timestamp, None, position)


VALUES = st.one_of(
    st.builds(usual_value, st.sampled_from(["a", "x" * 60, "\x7f"]), st.sampled_from([1, 899.99, 900, 10**14, 0.5])),
    st.builds(
        lambda inner: usual_value("PLACE").replace(b"PLACE", inner), st.builds(record_bytes, st.just(usual_value()))
    ),
    st.builds(lambda value, more: value + more + value, st.builds(usual_value), st.binary(max_size=3)),
    st.builds(record_bytes, st.builds(usual_value)),
    st.binary(max_size=20),
)


@st.composite
def hostile_bodies(draw: st.DrawFn) -> bytes:
    """Return records, many of them usual, in which some bytes may have been changed, added or taken away."""
    deltas = st.integers(-70, 70) | st.integers(-(2**31), 2**31 - 1)
    records = st.builds(record_bytes, VALUES, deltas, deltas)
    lying = st.builds(lambda length, record: VARINT[length] + record[2:], st.integers(-200, 200), records)
    body = b"".join(draw(st.lists(records | records | lying, max_size=5)))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(body)))
        body = body[:at] + draw(st.binary(max_size=2)) + body[at + draw(st.integers(0, 2)) :]
    return body


def has_high_attributes(body: bytes, record_count: int) -> bool:
    """Return whether a record's attributes are above 127. They are a byte, but the client reads them as a varint."""
    at = 0
    for _ in range(record_count):
        length, start = read_varint(body, at)
        if start >= len(body) or body[start] > 127:
            return True
        at = start + length
    return False


@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(hostile_bodies(), st.integers(0, 6))
def test_what_the_client_can_read_we_read_alike(body: bytes, record_count: int) -> None:
    """What the client reads of any bytes, we read as well, but for the offsets, which are those of the header."""
    header = HEADER.pack(0, len(body) + 49, 0, 2, 0, 0, record_count - 1, 0, 0, -1, -1, -1, record_count)
    try:
        expected = read_by_client(header + body)
    except (KafkaError, UnicodeDecodeError):
        return
    assume(not has_high_attributes(body, record_count))
    assume(not re.search(rb"[\x80-\xff]{5}", body))  # a number of more than five bytes, which Java refuses
    assert as_written(header + body) == [record._replace(offset=n) for n, record in enumerate(expected)]


@settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
@given(hostile_bodies(), st.integers(-1, 8), st.integers(0, 8), st.integers(0, 7), st.integers(0, 9))
def test_every_offset_of_a_batch_comes_out_once(
    body: bytes, record_count: int, last_delta: int, codec: int, position: int
) -> None:
    """Whatever is in a batch: the chunks cover its offsets in order, and each record has one within its chunk."""
    data = HEADER.pack(5, len(body) + 49, 0, 2, 0, codec, last_delta, 0, 0, -1, -1, -1, record_count) + body
    following, taken = 5, []
    for chunk in chunks(data, position):
        assert max(following, position) < chunk.next_offset
        for record in decode(chunk):
            assert max(following, position) <= record.offset < chunk.next_offset
            following = record.offset + 1
            taken.append(record)
        following = chunk.next_offset
    assert following == 6 + last_delta or position >= 6 + last_delta
    if not any(record.problem for record in taken) and position <= 5:
        assert len(taken) == record_count


@settings(deadline=None)
@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=40), st.integers(0, 3), st.integers(1, 60))
def test_offsets_rise_within_the_batch_whatever_the_records_say(deltas: list[int], gaps: int, max_bytes: int) -> None:
    """In a batch without gaps each record has its place's offset; in a compacted one they rise, and leave room."""
    body = b"".join(record_bytes(b"x", 0, delta) for delta in deltas)
    count, end = len(deltas), 100 + len(deltas) + gaps
    data = HEADER.pack(100, len(body) + 49, 0, 2, 0, 0, end - 101, 0, 0, -1, -1, -1, count) + body
    (whole,) = chunks(data, 0)
    offsets = [record.offset for record in decode(whole)]
    assert all(100 + n <= offset <= end - (count - n) for n, offset in enumerate(offsets))
    assert offsets == sorted(set(offsets))
    assert len(offsets) == count
    with patch.multiple(unpacking, CHUNK_BYTES=max_bytes):
        cut = list(chunks(data, 0))
        assert [record.offset for chunk in cut for record in decode(chunk)] == offsets
        for position in offsets:  # as after a restart in the middle of the batch
            found = [record.offset for chunk in chunks(data, position) for record in decode(chunk)]
            assert found == [offset for offset in offsets if offset >= position]
    assert cut[-1].next_offset == end


def padded(number: int, more: int) -> bytes:
    """Return the number as a varint with bits beyond the 32nd, which Java cuts off, or with more bytes than needed."""
    zigzag = (number << 1 ^ number >> 31) & 0xFFFFFFFF
    if more == 5:
        zigzag |= 0b111 << 32
        return bytes((zigzag >> shift & 127) | 128 for shift in (0, 7, 14, 21)) + bytes([zigzag >> 28 & 127])
    data = bytearray(VARINT[number])
    while len(data) < more:
        data[-1] |= 128
        data.append(0)
    return bytes(data)


@settings(deadline=None)
@given(
    st.sampled_from([None, b"", b"k", b"k" * 100]),
    st.sampled_from([None, b"", usual_value(), usual_value("x" * 200)]),
    st.lists(st.tuples(st.binary(max_size=3), st.none() | st.binary(max_size=3)), max_size=3),
    st.lists(st.integers(1, 5), min_size=20, max_size=20),
)
def test_numbers_spelled_oddly_are_spelled_anew(
    key: bytes | None, value: bytes | None, headers: list[tuple[bytes, bytes | None]], spellings: list[int]
) -> None:
    """Java reads varints with too many bytes or bits, so a broker takes them; what we write, every reader can read."""
    more = iter(spellings)

    def field(data: bytes | None, spelled: bool) -> bytes:
        number = -1 if data is None else len(data)
        return (padded(number, next(more)) if spelled else VARINT[number]) + (data or b"")

    def content(spelled: bool) -> bytes:
        count = padded(len(headers), next(more)) if spelled else VARINT[len(headers)]
        parts = [field(part, spelled) for header in headers for part in header]
        return field(key, spelled) + field(value, spelled) + count + b"".join(parts)

    body = b"\xff" + VARINT[3] + padded(1, next(more)) + content(spelled=True)
    (record,) = decode(chunk_of([padded(len(body), next(more)) + body]))
    assert (record.problem, record.timestamp, record.value) == ("", 3, value)
    assert record.content == content(spelled=False)


def test_many_headers_spelled_oddly_take_little_memory() -> None:
    """A record of 1 MiB can have half a million."""
    content = padded(1, 5) + b"k" + VARINT[1] + b"v" + VARINT[300_000] + bytes(2 * 300_000)
    chunk = chunk_of([VARINT[len(content) + 3] + b"\0\0\0" + content])
    tracemalloc.start()
    (record,) = decode(chunk)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (record.problem, record.content) == ("", VARINT[1] + content[5:])
    assert peak < 6 * len(content)


INFLATE = zlib.decompressobj


class Inflate:
    """zlib's decompressor, which counts what it is given."""

    given = 0

    def __init__(self, wbits: int) -> None:
        self.inflate = INFLATE(wbits)

    def decompress(self, data: bytes, most: int) -> bytes:
        """Decompress, and count."""
        Inflate.given += len(data)
        return self.inflate.decompress(data, most)

    def __getattr__(self, name: str) -> object:
        return getattr(self.inflate, name)


def test_gzip_of_many_members_is_read_in_linear_time() -> None:
    """Twice the members are twice the work: what follows a member is not copied for each."""
    work = []
    for count in (10_000, 20_000):
        Inflate.given, data = 0, memoryview(adversary.gzip_member(b"x") * count)
        with patch.object(compression.zlib, "decompressobj", Inflate):
            assert b"".join(decompressed(1, data, 10**9)) == b"x" * count
        work.append(Inflate.given)
    assert work[1] <= 2 * work[0] + compression.PIECE_BYTES
    assert work[0] <= 10_000 * 1024


def test_what_is_skipped_counts_for_a_portion() -> None:
    """A gigabyte is a few kB, compressed, and takes a third of a second to skip: one such record is enough for one."""
    large = build([Written(n, 0, None, bytes(5 * 2**20 * n), ()) for n in range(2)], CODECS["zstd"])
    found = [(chunk.problem[:9], chunk.skipped > 5 * 2**20) for chunk in chunks(large, 0)]
    assert found == [("", False), ("too large", True)]
    each = [(TopicPartition("t", 0), chunk) for _ in range(3) for chunk in chunks(large, 0)]
    consumer = SimpleNamespace(unread=iter(each), portion_bytes=PORTION_BYTES)
    portions = [Consumer._take(consumer) for _ in range(4)]  # type: ignore[arg-type]
    assert [len(chunks) for portion in portions for chunks in portion.values()] == [2, 2, 2]


def test_what_cannot_be_read_has_a_time_that_the_broker_has_checked() -> None:
    """The base timestamp is what the producer says, and no broker looks at it."""
    data = bytearray(build([Written(0, 5, None, b"v", ())] * 2, 0))
    fields = [*HEADER.unpack_from(data)]
    fields[7], fields[8] = 2**62, 7
    HEADER.pack_into(data, 0, *fields)
    for broken in (data[:-1], data[: HEADER.size], data[: HEADER.size + 1] + b"\xff" * len(data)):
        *_, letter = [record for chunk in chunks(broken, 0) for record in decode(chunk)]
        assert letter.problem
        assert letter.timestamp == 7


@pytest.mark.parametrize(("size", "is_too_large"), [(2**20 - 1, False), (2**20, False), (2**20 + 1, True)])
@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_a_record_is_as_large_as_its_key_value_and_headers(size: int, is_too_large: bool, codec: int) -> None:
    """Of 1 MiB and less it is read, of more it is not; its neighbours always are."""
    small = Written(0, 5, b"k", b"v", ())
    for key, headers in ((None, ()), (b"k" * 1000, ()), (b"", (("name", b"x" * 994),))):
        rest = len(key or b"") + sum(1 + len(name) + 2 + len(data) for name, data in headers)
        large = Written(1, 6, key, bytes(size - rest), headers)
        data = build([small, large, small._replace(offset=2)], codec)
        found = [(r.offset, r.timestamp, r.problem[:9]) for chunk in chunks(data, 0) for r in decode(chunk)]
        assert found == [(0, 5, ""), (1, 6, "too large" if is_too_large else ""), (2, 5, "")]


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_what_is_cut_off_is_a_problem(codec: int) -> None:
    """Of a batch that ends too early, what can be read is read, and a problem stands for the rest."""
    records = [Written(n, 0, b"k", bytes([n]) * 100, ()) for n in range(50)]
    data = build(records, codec)
    for end in (*range(HEADER.size, len(data), 7), len(data) // 2):
        found = [record for chunk in chunks(data[:end], 0) for record in decode(chunk)]
        whole = [record for record in found if not record.problem]
        assert [bytes(record.value or b"") for record in whole] == [record.value for record in records[: len(whole)]]
        if len(whole) < 50:
            assert (len(found), found[-1].offset) == (len(whole) + 1, len(whole))
            assert found[-1].problem.startswith("cannot be read: ")
        else:
            assert len(found) == 50
            assert codec in (CODECS["gzip"], CODECS["lz4"])  # what follows the last record is not needed


@pytest.mark.parametrize("codec", ["gzip", "lz4", "zstd"])
def test_a_batch_that_inflates_is_unpacked_bit_by_bit(codec: str) -> None:
    """Half a gigabyte in one batch: the chunks come one after the other, and none is held longer than needed."""
    record = Written(0, 0, None, bytes(1_000_000), ())
    builder = DefaultRecordBatchBuilder(2, CODECS[codec], False, -1, -1, -1, batch_size=10**9)
    for n in range(100):
        builder.append(n, *record[1:4], [])
    batch = bytes(builder.build())
    total = 0
    for chunk in chunks(batch, 0):
        assert len(chunk.records) < 2_100_000
        total += chunk.record_count
    assert total == 100


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_a_large_record_is_passed_over_in_the_stream(codec: str) -> None:
    """It is told by its length, before its bytes are there; what is behind it is read."""
    records = [
        Written(7, 0, None, b"x", ()),
        Written(9, 3, None, bytes(30_000_000), ()),
        Written(10, 0, None, b"y", ()),
    ]
    tracemalloc.start()
    data = build(records, CODECS[codec], 5)
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    found = [record for chunk in chunks(data, 0) for record in decode(chunk)]
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    assert [(r.offset, r.timestamp, r.problem) for r in found] == [
        (7, 0, ""),
        (9, 3, "too large: 30,000,006 bytes, and a record may have 1,048,576"),
        (10, 0, ""),
    ]
    assert peak < (8_000_000 if codec != "snappy" else 100_000_000)


def test_a_batch_is_unpacked_up_to_a_limit() -> None:
    """A batch that would take minutes to go through is read up to there, and what is beyond is a problem."""
    records = [Written(n, 0, None, bytes(500_000), ()) for n in range(10)]
    data = build(records, CODECS["zstd"])
    with patch.multiple(unpacking, MAX_BATCH_BYTES=3_500_000):
        found = [record for chunk in chunks(data, 0) for record in decode(chunk)]
    assert [record.offset for record in found] == list(range(len(found)))
    assert 4 <= len(found) <= 7
    assert found[-1].problem == f"cannot be read: more than 3,500,000 bytes (offsets {found[-1].offset} to 9)"
