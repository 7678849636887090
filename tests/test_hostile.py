"""Batches that no client writes, and records that are too large: each offset comes out once, nothing else suffers."""

import gc
import gzip
import random
import signal
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import NamedTuple

import cramjam
import lz4.frame
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

import adversary
import raw
import strict
from adversary import RECORDS, field, hostile, record, transaction, varint
from embedded import KAFKA_3, KAFKA_4, Cluster, Line
from embedded.pipeline import Pipeline
from embedded.service import Restarted, Service, wait_until
from exactly_once.decoding import decode
from exactly_once.unpacking import chunks
from harness import TOO_SLOW, memory_peak_mb
from strict import Read

pytestmark = pytest.mark.guarantee

MAX_PEAK_MB = 150
LIMIT = 20_000

REFERRED = {
    KAFKA_4: {"gzip, length too short"},
    KAFKA_3: {"gzip, length too short", "gzip, length below 0", "gzip, length back to the record before"},
}
"""Cases that a broker accepts, though nobody can read them: dead letters refer to them. In all else the lines agree."""

READABLE = {
    *("gzip, garbage behind", "gzip, two members", "gzip, a broken member behind", "gzip, an unknown flag"),
    *("snappy, two streams", "snappy, 3 bytes behind", "snappy, without frames", "snappy, version 2 only"),
    *("lz4, bytes behind", "lz4, a wrong checksum", "lz4, a whole frame behind", "lz4, block checksums"),
    *("zstd, two frames", "zstd, a skippable frame in front", "zstd, half a skippable frame behind"),
    *("zstd, a window of 128 MB", "none, equal offsets", "none, descending offsets", "none, negative offsets"),
    *("none, large offsets", "none, offsets with a 33rd bit", "gzip, offsets with a 33rd bit", "none, padded header"),
    *("gzip, value with a 33rd bit", "gzip, header names of any bytes", "none, times that overflow"),
    *("none, many headers", "gzip, many headers"),
    *("gzip, null key as -5", "none, header value null as -7", "none, unknown producer", "none, delete horizon"),
}
"""Cases, among others, that a broker accepts."""


class Case(NamedTuple):
    """What has become of a hostile batch."""

    offsets: range
    """Those that the broker has given to it."""
    routed: list[Read]
    """What came out as transactions, in their order."""
    dead: dict[int, Read]
    """For each offset that a dead letter stands for, that."""

    @property
    def outcomes(self) -> list[tuple[str, int]]:
        """What became of the offsets, each with the number of those in a row: the exception, or that it was routed."""
        names = (self.dead[n].error("exception") if n in self.dead else "routed" for n in self.offsets)
        return [(name, len(list(same))) for name, same in groupby(names)]


def honest(number: int) -> dict[str, bytes]:
    """Return the values of an honest batch, by their route."""
    valid = {route: transaction(amount) for route, amount in (("legit", 10), ("fraud", 900))}
    return {r: v.replace(b'"a"', b'"honest %d"' % number) for r, v in valid.items()} | {
        "dead_letter": b"honest %d" % number
    }


class Stream:
    """One partition, in which each hostile batch lies between two honest ones."""

    def __init__(self, broker: raw.Wire, pipeline: Pipeline) -> None:
        self.broker, self.pipeline = broker, pipeline
        self.begins: list[int] = []
        """The offset at which each honest batch begins."""
        self.cases: dict[str, Case] = {}
        self._following: dict[int, str] = {}  # the case after an honest batch
        self.write_honest()

    def write_honest(self) -> None:
        """Write a record for each route, which name their batch."""
        written = raw.batch([(1, raw.content(value)) for value in honest(len(self.begins)).values()])
        self.begins.append(self.broker.produce(self.pipeline.transactions, written))

    def write(self, name: str, batch: bytes) -> bool:
        """Write a batch, and an honest one if the broker has taken it; return whether it has."""
        answer = self.broker.offer(self.pipeline.transactions, batch)
        if answer.error_code or answer.base_offset < self.begins[-1]:  # one that it takes for a repetition
            return False
        last_delta = adversary.HEADER.unpack_from(batch)[6]
        self.cases[name] = Case(range(answer.base_offset, answer.base_offset + last_delta + 1), [], {})
        self._following[len(self.begins) - 1] = name
        self.write_honest()
        return True

    def look_up(self) -> None:
        """Fill in what has become of the cases; check that nothing is lost, doubled, out of order or odd."""
        assert self.pipeline.lag() == 0
        for route, topic in self.pipeline.routes.items():
            number = -1  # of the honest batch that has been met last
            for found in (r for data in self.broker.fetch(topic) for r in strict.read(data)):
                offset = int(found.error("offset") or -1)
                if b"honest" in (found.value or b""):
                    number += 1
                    assert found.value == honest(number)[route]
                    assert offset == (self.begins[number] + 2 if route == "dead_letter" else -1)
                elif route == "dead_letter":
                    self._bury(offset, found)
                else:
                    self.cases[self._following[number]].routed.append(found)
            assert number == len(self.begins) - 1
        for name, case in self.cases.items():
            assert len(case.routed) + len(case.dead) == len(case.offsets), (name, case)

    def _bury(self, offset: int, found: Read) -> None:
        (case,) = (case for case in self.cases.values() if offset in case.offsets)
        assert (found.error("topic"), found.error("partition")) == (self.pipeline.transactions, "0")
        exception, message = found.error("exception"), found.error("message")
        if exception != "InvalidTransaction":
            assert (found.key, found.value, len(found.headers)) == (None, None, 5)
            assert exception == {"t": "RecordTooLarge", "c": "CorruptRecord"}[message[0]], message
        for n in found.dead_offsets():
            assert n in case.offsets
            assert n not in case.dead, (case.offsets, n, case.dead[n], found)
            case.dead[n] = found


def assert_alive(detector: Service | Restarted) -> None:
    """Check that it has not ended, unless the machine was too slow, and what memory it took."""
    detector.check()
    errors = [line for line in detector.log.splitlines() if " ERROR " in line]
    assert [line for line in errors if not TOO_SLOW.search(line)] == [], detector.log
    assert "Traceback" not in detector.log


@pytest.fixture
def stream(cluster: Cluster) -> Iterator[Stream]:
    """A partition that takes batches of up to 10 MB."""
    pipeline = Pipeline(cluster.bootstrap_servers)
    pipeline.create(pipeline.transactions, max_message_bytes="10000000")
    with raw.wire(pipeline.broker_url) as broker:
        yield Stream(broker, pipeline)


def assert_cases(stream: Stream, line: Line) -> None:
    """Look up the cases of `hostile`: all can be read, but for a few."""
    stream.look_up()
    assert stream.cases.keys() >= READABLE
    assert {name for name, case in stream.cases.items() if "CorruptRecord" in dict(case.outcomes)} == REFERRED[line]
    assert len(stream.cases) == {KAFKA_4: 111, KAFKA_3: 113}[line]
    for name, case in stream.cases.items():
        values = [found.value for found in case.routed]
        if name.endswith("value with a 33rd bit"):
            assert values == [transaction(9)]
        elif name.endswith("many headers"):
            assert values == [transaction(1)]
        elif name.endswith("null value as -7"):
            assert [(found.value, found.error("message")) for found in case.dead.values()] == [(None, "no value")]
        elif name not in REFERRED[line]:
            assert values == [transaction(n + 1) for n in range(len(RECORDS["right"]))], name
        assert {found.key for found in case.routed} <= {None, b"k"}
    for codec in ("none", "gzip"):
        assert {r.key for r in stream.cases[f"{codec}, key with a 33rd bit"].routed} == {b"k"}
        of_any_bytes = stream.cases[f"{codec}, header names of any bytes"].routed
        assert {r.headers for r in of_any_bytes} == {((b"\xff\xfe", b"1"), (b"", b""))}
        assert {r.timestamp for r in stream.cases[f"{codec}, latest time"].routed} == {2**63 - 1}


def test_hostile_batches(stream: Stream, line: Line) -> None:
    """Whatever a broker accepts comes out as the broker reads it, once, or is referred to; the detector lives on."""
    with stream.pipeline.restarted("detector") as detector:
        for name, batch in hostile().items():
            stream.write(name, batch)
        stream.pipeline.drain()
        assert_alive(detector)
        assert memory_peak_mb(detector.service) < MAX_PEAK_MB
    assert_cases(stream, line)


def test_hostile_batches_while_it_is_killed(stream: Stream, line: Line) -> None:
    """The same, with a SIGKILL at random moments: no offset is lost, doubled, or committed before its time."""
    cases = hostile()
    moments = random.sample(range(20, len(cases)), 5)
    with stream.pipeline.restarted("detector") as detector:
        for n, (name, batch) in enumerate(cases.items()):
            if n in moments:
                lag = stream.pipeline.lag()
                wait_until(lambda lag=lag: stream.pipeline.lag() < max(lag, 1), 120, lambda: detector.log)  # type: ignore[misc]
            stream.write(name, batch)
            if n in moments:
                time.sleep(random.uniform(0, 0.1))
                detector.service.process.kill()
        stream.pipeline.drain()
        assert set(detector.exit_codes) <= {1, -signal.SIGKILL}, detector.log
    assert_cases(stream, line)


# --- what has happened ---


class Incident(NamedTuple):
    """A batch, and what is to become of it."""

    batch: Callable[[], bytes]
    outcomes: Sequence[tuple[str, int]]
    says: Mapping[int, str] = {}
    """What the dead letter of an offset says, counted from the batch's first one."""


def numbered(*values: bytes) -> list[bytes]:
    """Return records with these values, one after the other."""
    return [record(value, n) for n, value in enumerate(values)]


def many_sizes(codec: str) -> bytes:
    """Return a batch with records that are too large, and others before, between and behind."""
    good = [transaction(n + 1) for n in range(10)]
    records = numbered(
        bytes(101 * 2**20), *good, bytes(65 * 10**6), bytes(100 * 10**6), good[0], bytes(2**20), bytes(2**20 + 1)
    )
    return adversary.batch(records, codec, partial(gzip.compress, compresslevel=1) if codec == "gzip" else None)


def many_brackets() -> bytes:
    """Return a valid transaction, but for its size: arrays take sixty times their size when they are decoded."""
    value = transaction(10)[:-1] + b', "note": [' + b"[]," * 7_000_000 + b"0]}"
    return adversary.batch(numbered(value, transaction(1)), "gzip")


def zstd_of_zeros(count: int, size: int, window_log: int) -> bytes:
    """Return a batch of so many records of this size, compressed piece by piece."""
    parameters = zstandard.ZstdCompressionParameters(window_log=window_log, write_content_size=False)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    zeros = bytes(size)
    data = b""
    for n in range(count):
        begin = record(b"", n, value_length=size)[1:-1]
        data += stream.compress(varint(len(begin) + size + 1) + begin) + stream.compress(zeros) + stream.compress(b"\0")
    data += stream.flush()
    return adversary.batch([b""] * count, "zstd", lambda _: data)


def many_headers() -> bytes:
    """Return a transaction and a dead letter with 25,000 headers each."""
    headers = [field(b"a") + field(b"%d" % n) for n in range(25_000)]
    return adversary.batch(
        [record(transaction(1), headers=headers), record(b"x", 1, headers=headers), record(transaction(2), 2)], "zstd"
    )


def above_the_limits() -> bytes:
    """Return records that the outputs do not take, and others that they do."""
    headers = [field(b"name") + field(b"x" * (LIMIT - 200))]
    noted = transaction(1)[:-1] + b', "note": "%b"}' % (b"x" * LIMIT)
    return adversary.batch(
        [record(transaction(1)), record(noted, 1), record(b"x", 2, headers=headers), record(b"x", 3)], "gzip"
    )


def many_objects() -> bytes:
    """Return valid transactions of the largest size, made of what takes most memory when it is decoded."""
    begin = transaction(10)[:-1] + b', "note": ['
    value = begin + b'{"":0},' * ((2**20 - len(begin) - 10) // 7) + b"0]}"
    return adversary.batch(numbered(*[value] * 10), "gzip")


INCIDENTS = {
    **{
        f"{codec}, too large": Incident(
            partial(many_sizes, codec),
            [
                ("RecordTooLarge", 1),
                ("routed", 10),
                ("RecordTooLarge", 2),
                ("routed", 1),
                ("InvalidTransaction", 1),
                ("RecordTooLarge", 1),
            ],
            {0: "too large: 105,906,182 bytes, and a record may have 1,048,576"},
        )
        for codec in ("gzip", "zstd")
    },
    "20 MB of brackets": Incident(many_brackets, [("RecordTooLarge", 1), ("routed", 1)]),
    "above the limits": Incident(
        above_the_limits,
        [("routed", 1), ("RecordTooLarge", 2), ("InvalidTransaction", 1)],
        dict.fromkeys((1, 2), "more than the 20,000 of max.message.bytes of "),
    ),
    "zstd, 2 GB": Incident(lambda: zstd_of_zeros(20, 100 * 10**6, 20), [("RecordTooLarge", 10), ("CorruptRecord", 10)]),
    "zstd, 200 MB in a window of 128 MB": Incident(
        lambda: zstd_of_zeros(20, 10**7, 27), [("RecordTooLarge", 3), ("CorruptRecord", 17)]
    ),
    "snappy, a block of 100 MB": Incident(
        lambda: adversary.batch(numbered(*[bytes(10**7)] * 10), "snappy"), [("CorruptRecord", 10)]
    ),
    "snappy, 100 MB without frames": Incident(
        lambda: adversary.batch(numbered(*[bytes(10**7)] * 10), "snappy", adversary.snappy),
        [("CorruptRecord", 10)],
    ),
    "1 MiB of objects": Incident(many_objects, [("routed", 10)]),
    "many headers": Incident(many_headers, [("routed", 1), ("InvalidTransaction", 1), ("routed", 1)]),
    "200,000 dead letters": Incident(
        lambda: adversary.batch(numbered(*[b""] * 200_000), "gzip"), [("InvalidTransaction", 200_000)]
    ),
}


@pytest.mark.parametrize("name", INCIDENTS)
def test_incidents(stream: Stream, name: str) -> None:
    """Each comes out as it should, what is around it as ever, and the detector takes no more memory than usual."""
    incident = INCIDENTS[name]
    if name == "above the limits":
        stream.pipeline.create(stream.pipeline.legit, stream.pipeline.dead_letter, max_message_bytes=str(LIMIT))
    assert stream.write(name, incident.batch())
    with stream.pipeline.restarted("detector") as detector:
        stream.pipeline.drain()
        assert_alive(detector)
        peak = memory_peak_mb(detector.service)
    print(f"{name}: {peak:.0f} MB")
    stream.look_up()
    case = stream.cases[name]
    assert case.outcomes == incident.outcomes
    for n, words in incident.says.items():
        assert words in case.dead[case.offsets[n]].error("message")
    assert peak < MAX_PEAK_MB


@pytest.mark.parametrize("delta", [2**31 - 1, -(2**31)])
def test_an_offset_that_points_elsewhere(stream: Stream, delta: int) -> None:
    """30,001 records, of which one says that its offset is far away: no other producer's record is passed over.

    Not even after a restart: what is committed is never beyond the end.
    """
    values = [transaction(n + 1) for n in range(30_001)]
    records = [record(value, delta if n == 29_999 else n) for n, value in enumerate(values)]
    assert stream.write("elsewhere", adversary.batch(records))
    for _ in range(2):
        with stream.pipeline.restarted("detector") as detector:
            stream.pipeline.drain()
            assert stream.pipeline.lag() == 0
            assert_alive(detector)
            print(f"{delta}: {memory_peak_mb(detector.service):.0f} MB")
            assert memory_peak_mb(detector.service) < MAX_PEAK_MB
        stream.write_honest()
    with stream.pipeline.restarted("detector"):
        stream.pipeline.drain()
    stream.look_up()
    assert [found.value for found in stream.cases["elsewhere"].routed] == values


# --- bytes at random ---

HONEST = [transaction(n + 1) for n in range(20)]
COMPRESSED = {codec: adversary.COMPRESS[codec](b"".join(numbered(*HONEST))) for codec in adversary.STREAMS}


def as_batch(codec: str, frame: bytes) -> bytes:
    """Return a batch of honest records that these bytes stand for."""
    return adversary.batch([b""] * len(HONEST), codec, lambda _: frame)


def changed(draw: random.Random, frame: bytes) -> bytes:
    """Return the frame with up to three bytes changed."""
    data = bytearray(frame)
    for _ in range(draw.randint(1, 3)):
        data[draw.randrange(len(data))] = draw.choice((0, 1, 127, 128, 255, draw.randrange(256)))
    return bytes(data)


def reads(codec: str, frame: bytes) -> bytes:
    """Return what a library makes of the frame, as far as it gets."""
    if codec == "snappy":
        size = int.from_bytes(frame[16:20], "big")
        try:
            return bytes(cramjam.snappy.decompress_raw(frame[20 : 20 + size])) if frame[:8] == b"\x82SNAPPY\0" else b""
        except cramjam.DecompressionError:
            return b""
    decompress = {
        "gzip": lambda: zlib.decompressobj(31),
        "lz4": lz4.frame.LZ4FrameDecompressor,
        "zstd": lambda: zstandard.ZstdDecompressor().decompressobj(),
    }[codec]()
    found = b""
    try:
        for n in range(len(frame)):
            found += decompress.decompress(frame[n : n + 1])
    except Exception:  # each has errors of its own, also for what comes behind the end
        pass
    return found


@settings(max_examples=1000)
@given(
    st.sampled_from(list(COMPRESSED)),
    st.binary(max_size=30),
    st.dictionaries(st.integers(0, 400), st.integers(0, 255), max_size=3),
)
def test_bytes_at_random_in_a_frame(codec: str, behind: bytes, other: dict[int, int]) -> None:
    """Each offset comes out once; and the records do if the frame, read by its library, still yields them."""
    frame = bytearray(COMPRESSED[codec])
    for at, byte in other.items():
        frame[at % len(frame)] = byte
    frame += behind
    following, values = 0, {}
    for chunk in chunks(as_batch(codec, bytes(frame)), 0):
        for found in decode(chunk):
            assert found.offset == following
            values[found.offset] = bytes(found.value or b"")
            following = chunk.next_offset if found.problem else found.offset + 1
        assert chunk.next_offset == following
    assert following == len(HONEST)
    if codec == "zstd" and behind:  # Java does not take that, either
        return
    if reads(codec, bytes(frame)).startswith(b"".join(numbered(*HONEST))) or not other:
        assert list(values.values()) == HONEST


def test_nothing_of_them_is_left_behind() -> None:
    """All that a batch took is free at once: the collector of cycles may come hours later."""
    batches = list(hostile().values())
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)  # what the collector finds, it keeps; other threads leave something, too
    try:
        for data in batches:
            for chunk in chunks(data, 0):
                assert sum(1 for _ in decode(chunk))
        gc.collect()
        assert {type(one).__name__ for one in gc.garbage if type(one).__module__.startswith("exactly_once")} == set()
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


def test_bytes_at_random_that_a_broker_takes(stream: Stream) -> None:
    """Whatever is behind a frame, the records are there; whatever is in it, each offset comes out once."""
    draw = random.Random(1)
    with stream.pipeline.restarted("detector") as detector:
        for codec, frame in COMPRESSED.items():
            for n in range(20):
                stream.write(f"{codec}, behind {n}", as_batch(codec, frame + draw.randbytes(draw.randint(1, 20))))
            for n in range(60):
                stream.write(f"{codec}, within {n}", as_batch(codec, changed(draw, frame)))
        stream.pipeline.drain()
        assert_alive(detector)
    stream.look_up()
    counts = Counter(name.rstrip("0123456789 ") for name in stream.cases)
    assert {"gzip, behind", "lz4, behind", "lz4, within", "snappy, within", "zstd, within"} <= counts.keys(), counts
    for name, case in stream.cases.items():
        if "behind" in name:
            assert [found.value for found in case.routed] == HONEST, name
