"""Record batches that no client writes: format version 2, each field and each byte whatever a test wants.

Nothing here is shared with what it tests: the varints, the checksum and the compressed streams are made from the
specification. `hostile` lists cases of interest, of which a broker takes some and refuses others.
"""

import gzip
import struct
import zlib
from collections.abc import Callable, Sequence

import cramjam
import lz4.frame
import zstandard
from kafka.record.util import calc_crc32c

HEADER = struct.Struct(">qiibIhiqqqhii")
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
TIMESTAMP = 1_700_000_000_000
Number = int | bytes  # bytes stand for a varint that is already encoded


def varint(number: int, size: int = 1, above: int = 0, bits: int = 32) -> bytes:
    """Encode a number of so many bits, padded to at least `size` bytes, with `above` in the bits that are too many."""
    left = (number << 1 ^ number >> bits - 1) & (1 << bits) - 1 | above << bits
    data = bytearray()
    while left > 127 or len(data) < size - 1:
        data.append(left & 127 | 128)
        left >>= 7
    return bytes([*data, left])


def _encoded(number: Number, bits: int = 32) -> bytes:
    return number if isinstance(number, bytes) else varint(number, bits=bits)


def field(data: bytes | None, length: Number | None = None) -> bytes:
    """Return a key, a value, or a header's name or value: the length, true unless given, and the data."""
    true = -1 if data is None else len(data)
    return _encoded(true if length is None else length) + (data or b"")


def record(
    value: bytes,
    offset: Number = 0,
    *,
    length: Number | None = None,
    length_size: int = 1,
    attributes: int = 0,
    time: Number = 0,
    key: bytes | None = None,
    key_length: Number | None = None,
    value_length: Number | None = None,
    headers: Sequence[bytes] = (),
    header_count: Number | None = None,
    trailing: bytes = b"",
) -> bytes:
    """Return a record whose offset and time are deltas; each header is two fields. What is not given is right."""
    count = _encoded(len(headers) if header_count is None else header_count)
    content = field(key, key_length) + field(value, value_length) + count + b"".join(headers) + trailing
    body = bytes([attributes]) + _encoded(time, 64) + _encoded(offset) + content
    return (varint(len(body), length_size) if length is None else _encoded(length)) + body


def batch(
    records: Sequence[bytes],
    codec: str = "none",
    compress: Callable[[bytes], bytes] | None = None,
    *,
    crc: int | None = None,
    **header: int,
) -> bytes:
    """Return a batch of these records. `header` replaces fields by name; what is not given is right."""
    data = (compress or COMPRESS[codec])(b"".join(records))
    fields = {
        "base_offset": 0,
        "length": HEADER.size - 12 + len(data),
        "leader_epoch": -1,
        "magic": 2,
        "crc": 0,
        "attributes": CODECS.index(codec),
        "last_offset_delta": len(records) - 1,
        "base_timestamp": TIMESTAMP,
        "max_timestamp": TIMESTAMP,
        "producer_id": -1,
        "producer_epoch": -1,
        "base_sequence": -1,
        "count": len(records),
    }
    assert header.keys() <= fields.keys(), header
    whole = HEADER.pack(*(fields | header).values()) + data
    return whole[:17] + struct.pack(">I", calc_crc32c(whole[21:]) if crc is None else crc) + whole[21:]


def gzip_member(data: bytes, flags: int = 0, extra: bytes = b"") -> bytes:
    """Return a gzip member with these flags and, behind its first ten bytes, what they promise."""
    deflate = zlib.compressobj(wbits=-15)
    head = b"\x1f\x8b\x08" + bytes([flags]) + b"\0\0\0\0\0\xff" + extra
    if flags & 2:  # FHCRC
        head += struct.pack("<H", zlib.crc32(head) & 0xFFFF)
    return head + deflate.compress(data) + deflate.flush() + struct.pack("<II", zlib.crc32(data), len(data))


def lz4_frame(data: bytes, block_bytes: int = 0, linked: bool = False, sized: bool = False, **options: object) -> bytes:
    """Return an lz4 frame, a block every so many bytes, by default in one."""
    frame = lz4.frame.LZ4FrameCompressor(block_linked=linked, auto_flush=True, **options)
    step = block_bytes or len(data) or 1
    parts = [frame.begin(len(data) if sized else 0)]
    parts += [frame.compress(data[at : at + step]) for at in range(0, len(data), step)]
    return b"".join([*parts, frame.flush()])


def lz4_stored(*blocks: bytes) -> bytes:
    """Return an lz4 frame of these blocks, uncompressed."""
    stored = b"".join(struct.pack("<I", len(block) | 1 << 31) + block for block in blocks)
    return lz4_frame(b"x")[:7] + stored + bytes(4)


def xerial(*blocks: bytes, version: int = 1, compatible: int = 1) -> bytes:
    """Return a stream of snappy blocks as the Java library frames it."""
    stream = b"".join(struct.pack(">i", len(block)) + block for block in map(snappy, blocks))
    return b"\x82SNAPPY\0" + struct.pack(">ii", version, compatible) + stream


def snappy(data: bytes) -> bytes:
    """Return data as a single block of snappy."""
    return bytes(cramjam.snappy.compress_raw(data))


def zstd(data: bytes, checksum: bool = False, sized: bool = True) -> bytes:
    """Return a zstd frame."""
    return zstandard.ZstdCompressor(write_checksum=checksum, write_content_size=sized).compress(data)


def zstd_window(data: bytes, log: int) -> bytes:
    """Return a zstd frame that does not tell its content's size, and needs a window of 2**log bytes."""
    parameters = zstandard.ZstdCompressionParameters(window_log=log, write_content_size=False)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return stream.compress(data) + stream.flush()


def skippable(data: bytes = b"skip") -> bytes:
    """Return a frame that both lz4 and zstd skip."""
    return b"\x50\x2a\x4d\x18" + struct.pack("<I", len(data)) + data


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "none": bytes,
    "gzip": gzip_member,
    "snappy": xerial,
    "lz4": lz4_frame,
    "zstd": zstd,
}

COUNT = 5
EXTRA, NAMED, COMMENTED, CHECKED, ASCII = 4, 8, 16, 2, 1  # flags of a gzip member
LZ4_64_KB, LZ4_4_MB = 4, 7

STREAMS: dict[str, dict[str, Callable[[bytes], bytes]]] = {
    "gzip": {
        "garbage behind": lambda data: gzip_member(data) + b"garbage",
        "zeros behind": lambda data: gzip_member(data) + bytes(20),
        "two members": lambda data: gzip_member(data[:50]) + gzip_member(data[50:]),
        "an empty member behind": lambda data: gzip_member(data) + gzip_member(b""),
        "an empty member in front": lambda data: gzip_member(b"") + gzip_member(data),
        "a broken member behind": lambda data: gzip_member(data) + b"\x1f\x8b\x08\0\0\0\0\0\0\xff\xff\xff\xff",
        "half a header behind": lambda data: gzip_member(data) + b"\x1f\x8b\x08",
        "all fields": lambda data: gzip_member(data, EXTRA | NAMED | COMMENTED | CHECKED, b"\3\0abcname\0comment\0"),
        "text": lambda data: gzip_member(data, ASCII),
        "an unknown flag": lambda data: gzip_member(data, 32),
        "a wrong checksum": lambda data: gzip_member(data)[:-8] + bytes(4) + gzip_member(data)[-4:],
        "a wrong size": lambda data: gzip_member(data)[:-4] + bytes(4),
        "no trailer": lambda data: gzip_member(data)[:-8],
        "zlib": zlib.compress,
        "stored": lambda data: gzip.compress(data, 0),
    },
    "snappy": {
        "without frames": snappy,
        "without frames, a byte behind": lambda data: snappy(data) + b"\0",
        "two streams": lambda data: xerial(data[:50]) + xerial(data[50:]),
        "many blocks": lambda data: xerial(*(data[at : at + 7] for at in range(0, len(data), 7))),
        "an empty block": lambda data: xerial(data[:50], b"", data[50:]),
        "an empty block behind": lambda data: xerial(data, b""),
        "a block of no bytes behind": lambda data: xerial(data) + bytes(4),
        "a block of no bytes within": lambda data: xerial(data[:50]) + bytes(4) + xerial(data[50:])[16:],
        "a negative length behind": lambda data: xerial(data) + b"\xff" * 4,
        "half a block behind": lambda data: xerial(data) + b"\0\0\0\7abc",
        "version 2": lambda data: xerial(data, version=2),
        "version 2 only": lambda data: xerial(data, version=2, compatible=2),
        "version 0": lambda data: xerial(data, version=0, compatible=0),
        "little-endian versions": lambda data: xerial(data, version=1 << 24, compatible=1 << 24),
        "framed as Google does": lambda data: bytes(cramjam.snappy.compress(data)),
    }
    | {f"{n} bytes behind": lambda data, n=n: xerial(data) + bytes(n) for n in (1, 2, 3)},
    "lz4": {
        "bytes behind": lambda data: lz4_frame(data) + b"garbage",
        "two frames": lambda data: lz4_frame(data[:50]) + lz4_frame(data[50:]),
        "a whole frame behind": lambda data: lz4_frame(data) + lz4_frame(b"more"),
        "an empty frame behind": lambda data: lz4_frame(data) + lz4_frame(b""),
        "a skippable frame in front": lambda data: skippable() + lz4_frame(data),
        "a skippable frame behind": lambda data: lz4_frame(data) + skippable(),
        "checksum": lambda data: lz4_frame(data, content_checksum=True),
        "a wrong checksum": lambda data: lz4_frame(data, content_checksum=True)[:-4] + bytes(4),
        "no checksum where promised": lambda data: lz4_frame(data, content_checksum=True)[:-4],
        "block checksums": lambda data: lz4_frame(data, 50, block_checksum=True),
        "content size": lambda data: lz4_frame(data, sized=True),
        "blocks of 64 KB": lambda data: lz4_frame(data, block_size=LZ4_64_KB),
        "blocks of 4 MB": lambda data: lz4_frame(data, block_size=LZ4_4_MB),
        "independent blocks": lambda data: lz4_frame(data, 50),
        "linked blocks": lambda data: lz4_frame(data, 50, linked=True),
        "linked, in one block": lambda data: lz4_frame(data, linked=True),
        "stored blocks": lambda data: lz4_stored(data[:50], data[50:]),
        "an empty stored block": lambda data: lz4_stored(data[:50], b"", data[50:]),
        "an empty stored block behind": lambda data: lz4_stored(data, b""),
        "an empty block": lambda data: lz4_stored(data)[:-4] + b"\1\0\0\0\0" + bytes(4),
        "no end mark": lambda data: lz4_stored(data)[:-4],
        "a wrong header checksum": lambda data: lz4_frame(data)[:6] + b"\0" + lz4_frame(data)[7:],
    },
    "zstd": {
        "bytes behind": lambda data: zstd(data) + b"garbage",
        "zeros behind": lambda data: zstd(data) + bytes(4),
        "two frames": lambda data: zstd(data[:50]) + zstd(data[50:]),
        "an empty frame behind": lambda data: zstd(data) + zstd(b""),
        "a skippable frame in front": lambda data: skippable() + zstd(data),
        "a skippable frame behind": lambda data: zstd(data) + skippable(),
        "half a skippable frame behind": lambda data: zstd(data) + skippable()[:-2],
        "checksum": lambda data: zstd(data, checksum=True),
        "a wrong checksum": lambda data: zstd(data, checksum=True)[:-4] + bytes(4),
        "no content size": lambda data: zstd(data, sized=False),
        "a window of 128 MB": lambda data: zstd_window(data, 27),
        "a window of 256 MB": lambda data: zstd_window(data, 28),
        "cut off": lambda data: zstd(data)[:-1],
    },
}


def transaction(amount: int) -> bytes:
    """Return the value of a valid transaction."""
    return b'{"source": "a", "target": "b", "amount": %d, "currency": "EUR"}' % amount


def records(count: int = COUNT, **odd: object) -> list[bytes]:
    """Return records of distinct amounts, all with the same oddities."""
    return [record(transaction(n + 1), n, **odd) for n in range(count)]  # type: ignore[arg-type]


RECORDS: dict[str, list[bytes]] = {
    "right": records(),
    "attributes": records(attributes=255),
    "padded length": records(length_size=5),
    "padded time": records(time=varint(1, 10, bits=64)),
    "time with a 65th bit": records(time=varint(1, above=1, bits=64)),
    "times that overflow": records(time=2**63 - 1),
    "times before 1970": records(time=-(2**62)),
    "padded offsets": [record(transaction(n + 1), varint(n, 5)) for n in range(COUNT)],
    "offsets with a 33rd bit": [record(transaction(n + 1), varint(n, above=1)) for n in range(COUNT)],
    "equal offsets": [record(transaction(n + 1), 0) for n in range(COUNT)],
    "descending offsets": [record(transaction(n + 1), COUNT - 1 - n) for n in range(COUNT)],
    "negative offsets": [record(transaction(n + 1), n - COUNT) for n in range(COUNT)],
    "large offsets": [record(transaction(n + 1), n * 1000) for n in range(COUNT)],
    "null key as -5": records(key_length=-5),
    "null key as the smallest": records(key_length=-(2**31)),
    "padded null key": records(key_length=varint(-1, 5)),
    "key with a 33rd bit": records(key=b"k", key_length=varint(1, above=7)),
    "value with a 33rd bit": [record(transaction(9), value_length=varint(len(transaction(9)), above=1))],
    "null value as -7": [record(b"", value_length=-7)],
    "padded header count": records(header_count=varint(0, 5)),
    "header count below 0": records(header_count=-1),
    "header count too high": records(header_count=3),
    "header count too low": records(headers=[field(b"a") + field(b"b")], header_count=0),
    "header names of any bytes": records(headers=[field(b"\xff\xfe") + field(b"1"), field(b"") + field(b"")]),
    "header name null": records(headers=[field(None) + field(b"1")]),
    "header value null as -7": records(headers=[field(b"a") + field(None, -7)]),
    "padded header": records(headers=[field(b"a", varint(1, 5)) + field(b"b", varint(1, above=1))]),
    "bytes behind a record": records(trailing=b"abc"),
    "many headers": [record(transaction(1), key=b"k", key_length=varint(1, 5), headers=[bytes(2)] * 250_000)],
    "length too short": records(length=10),
    "length below 0": records(length=-1),
    "length back to the record before": [*records(2), record(transaction(3), 2, length=-len(records(1)[0]))],
    "bytes behind the last record": [*records(1), record(transaction(2), 1) + b"abc"],
}

HEADERS: dict[str, dict[str, int]] = {
    "wrong checksum": {"crc": 0},
    "base offset": {"base_offset": 2**63 - 1},
    "length too high": {"length": 10_000},
    "length too low": {"length": 49},
    "leader epoch": {"leader_epoch": 2**31 - 1},
    "magic 3": {"magic": 3},
    "last offset too high": {"last_offset_delta": COUNT},
    "no records": {"count": 0, "last_offset_delta": -1},
    "count too low": {"count": COUNT - 1, "last_offset_delta": COUNT - 2},
    "count too high": {"count": COUNT + 1, "last_offset_delta": COUNT},
    "oldest time": {"base_timestamp": -(2**63), "max_timestamp": -(2**63)},
    "time -1": {"base_timestamp": -1, "max_timestamp": -1},
    "latest time": {"base_timestamp": 2**63 - 1, "max_timestamp": 2**63 - 1},
    "largest time wrong": {"max_timestamp": 5},
    "producer without epoch": {"producer_id": 10**6},
    "producer without sequence": {"producer_id": 10**6, "producer_epoch": 0},
    "unknown producer": {"producer_id": 10**6, "producer_epoch": 0, "base_sequence": 0},
    "unknown producer, wrapping": {"producer_id": 10**6, "producer_epoch": 32767, "base_sequence": 2**31 - 1},
    "producer below -1": {"producer_id": -2, "producer_epoch": -2, "base_sequence": -2},
}
ATTRIBUTES = {"append time": 3, "transactional": 4, "control": 5, "delete horizon": 6} | {
    f"bit {n}": n for n in (7, 14)
}


def hostile() -> dict[str, bytes]:
    """Return named batches of a few transactions each, ready to be produced."""
    plain = RECORDS["right"]
    cases = {f"{codec}, {name}": batch(plain, codec, odd) for codec in STREAMS for name, odd in STREAMS[codec].items()}
    for codec in ("none", "gzip"):
        bits = CODECS.index(codec)
        cases |= {f"{codec}, {name}": batch(odd, codec) for name, odd in RECORDS.items()}
        cases |= {f"{codec}, {name}": batch(plain, codec, None, **fields) for name, fields in HEADERS.items()}
        cases |= {f"{codec}, {name}": batch(plain, codec, attributes=bits | 1 << n) for name, n in ATTRIBUTES.items()}
    return cases | {f"codec {n}": batch(plain, attributes=n) for n in (5, 6, 7)}
