"""Forms of records, learned: whatever has been learned and whatever the bytes are, the output is the decoder's."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kafka import TopicPartition
from kafka.structs import ConsumerGroupMetadata

from detector.rule import MEMBERS, decide, decide_usual
from detector.tests.test_oracle import oracle
from exactly_once import Branching, Decision, Out, forms, samples
from exactly_once.decoding import MAX_RECORD_BYTES, Record, decode
from exactly_once.encoding import OutputBatch
from exactly_once.forms import Fitting
from exactly_once.job import Target
from exactly_once.samples import form_of
from exactly_once.tests.test_records import (
    chunk_of,
    finished,
    hostile_bodies,
    read_by_client,
    record_bytes,
    usual_value,
)
from exactly_once.unpacking import Chunk
from exactly_once.varints import VARINT

ROUTES = {route: route for route in ("legit", "fraud", "dead_letter")}
TARGETS = {topic: Target(1, 10**8) for topic in ROUTES}
SOURCE = TopicPartition("topic", 0)
ANY = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


def new_job(
    decide: Callable[[memoryview | None], Decision] = decide,
    decide_usual: Callable[..., list[Decision]] = decide_usual,
) -> Branching:
    """Return a job that has learned nothing."""
    return Branching(
        source="in",
        routes=ROUTES,
        dead_letter="dead_letter",
        decide=decide,
        members=MEMBERS,
        decide_usual=decide_usual,
    )


class Branched(NamedTuple):
    """What a job makes of a chunk."""

    batches: dict[str, list[OutputBatch]]
    reasons: list[str]


def branched(job: Branching, chunk: Chunk, target: Target = TARGETS["legit"]) -> Branched:
    """Return what the job makes of a chunk."""
    written: dict[str, list[OutputBatch]] = {route: [] for route in ROUTES}
    out = Out({}, ConsumerGroupMetadata("group"), dict.fromkeys(ROUTES, target))
    job.branch(chunk, SOURCE, out, written)
    return Branched(written, sorted(out.reasons))


def decoded(chunk: Chunk, job: Branching | None = None, target: Target = TARGETS["legit"]) -> Branched:
    """Return what is made of a chunk the general way."""
    job = job or new_job()
    with patch.object(job.forms, "cut", decode):
        return branched(job, chunk, target)


def taught(*samples: bytes) -> Branching:
    """Return a job that has learned from these records."""
    job = new_job()
    with patch.object(forms, "PRICE", 0):
        for sample in samples:
            branched(job, chunk_of([sample]))
    return job


def fitting(job: Branching, chunk: Chunk) -> int:
    """Return how many records of a chunk fit a form."""
    return sum(len(part.offsets) for part in job.forms.cut(chunk) if isinstance(part, Fitting))


# --- forms as producers have them ---

TEXTS = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ["", "é", "\u2028", "x" * 80, '"}\\', "\x7f"]
)
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
NAMES = st.sampled_from(["id", "note", "né", "a b", "", "source ", "Amount", "x.y*"])
AMOUNTS = st.sampled_from(
    ["10", "900", "899.99", "1e3", "9.0E+2", "0.50", "0.0", "-1", "1e400", "900.00", "1e-5", '"1"']
)


class Producer(NamedTuple):
    """What is the same in all records of a producer."""

    key: str
    """Of what kind: null, fixed, varying."""
    headers: list[bytes]
    order: list[str]
    extra: list[str]
    nested: list[str]
    separators: tuple[str, str]
    indent: int | None
    is_ascii: bool


PRODUCERS = st.builds(
    Producer,
    st.sampled_from(["null", "fixed", "varying"]),
    st.lists(st.sampled_from([b"traceparent", b"__TypeId__", b"\xff", b"", b"h"]), max_size=4),
    st.permutations(["source", "target", "amount", "currency", "+"]),
    st.lists(NAMES, max_size=3, unique=True),
    st.lists(NAMES, max_size=2, unique=True),
    st.sampled_from([(", ", ": "), (",", ":"), (" ,", " : ")]),
    st.sampled_from([None, None, 2]),
    st.booleans(),
)


@st.composite
def records(draw: st.DrawFn, producer: Producer) -> bytes:
    """Return a record of this producer; not all are valid."""
    texts = TEXTS | st.sampled_from(["alice", "bob"])
    members: dict[str, Any] = {}
    for name in producer.order:
        if name == "+":
            members |= {extra: draw(SCALARS) for extra in producer.extra}
            if producer.nested:
                members["nested"] = {inner: draw(SCALARS) for inner in producer.nested}
        else:
            members[name] = "EUR" if name == "currency" else draw(texts)
    spelled = json.dumps(
        members | {"amount": "AMOUNT"},
        separators=producer.separators,
        indent=producer.indent,
        ensure_ascii=producer.is_ascii,
    )
    value = spelled.encode("utf-8", "surrogatepass").replace(b'"AMOUNT"', draw(AMOUNTS).encode(), 1)
    key = {
        "null": st.none(),
        "fixed": st.binary(min_size=12, max_size=12),
        "varying": st.none() | st.binary(max_size=30) | st.just(record_bytes(usual_value())),
    }[producer.key]
    fields = st.none() | st.binary(max_size=9) | st.sampled_from([b"\x00" * 40, record_bytes(usual_value())])
    deltas = st.sampled_from([0, 1, 63, 64, -1, 2**31 - 1])
    headers = [(name, draw(fields)) for name in producer.headers]
    return record_bytes(value, draw(deltas), draw(deltas), draw(key), headers)


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[bytes], list[bytes]]:
    """Return samples, and records of the same producers among others, some of them changed."""
    producers = draw(st.lists(PRODUCERS, min_size=1, max_size=3))
    samples = [draw(records(producer)) for producer in producers]
    found = [draw(records(draw(st.sampled_from(producers)))) for _ in range(draw(st.integers(1, 8)))]
    if draw(st.booleans()):
        at = draw(st.integers(0, len(found)))
        value = draw(st.binary(max_size=9)) + draw(st.sampled_from(samples)) + draw(st.binary(max_size=9))
        found.insert(at, record_bytes(value))
    return samples, found


@st.composite
def changed(draw: st.DrawFn, body: bytes) -> bytes:
    """Return the bytes with some changed, added or taken away."""
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(body)))
        body = body[:at] + draw(st.binary(max_size=2)) + body[at + draw(st.integers(0, 2)) :]
    return body


@ANY
@given(
    streams(),
    st.data(),
    st.sampled_from([0, 10**12, 2**62, 2**63 - 1, -(2**63)]),
    st.integers(-4, 1),
    st.sampled_from([TARGETS["legit"], Target(1, 200), Target(1, 10**8, -1)]),
)
def test_what_was_learned_decides_nothing(
    stream: tuple[list[bytes], list[bytes]], data: st.DataObject, base_timestamp: int, more: int, target: Target
) -> None:
    """The output is that of the decoder, byte for byte and in its order, whatever was learned before."""
    samples, found = stream
    body = data.draw(changed(b"".join(found)))
    count = max(0, len(found) + more)
    chunk = Chunk(bytearray(body), count, 0, 0, count, base_timestamp, None, -(2**62))
    expected = decoded(chunk, target=target)
    for job, reach in ((new_job(), forms.MOST_BYTES), (taught(*samples), 200), (taught(samples[-1]), forms.MOST_BYTES)):
        with patch.object(forms, "MOST_BYTES", reach):
            assert branched(job, chunk, target) == expected


@ANY
@given(streams())
def test_the_output_is_what_the_oracle_says(stream: tuple[list[bytes], list[bytes]]) -> None:
    """Each record, as it came, is in the topic that the rule's second statement names."""
    samples, found = stream
    chunk = chunk_of(found)
    batches, _ = branched(taught(*samples), chunk)
    expected: dict[str, list[int]] = {route: [] for route in ROUTES}
    for record in decode(chunk):
        expected[oracle(bytes(record.value or b""))].append(record.offset)
    for route, offsets in expected.items():
        assert [offset for batch in batches[route] for offset in batch.offsets] == offsets
        written = [record for batch in batches[route] for record in read_by_raw(batch)]
        assert [record.value for record in written] == [
            record.value for record in decode(chunk) if record.offset in offsets
        ]


def read_by_raw(batch: OutputBatch) -> Iterator[Record]:
    """Yield the records of an output batch by the decoder: the client wants headers' names in UTF-8."""
    count = len(batch.offsets)
    return decode(Chunk(batch.data[61:], count, 0, 0, count, batch.base_timestamp, None, 0))


@ANY
@given(hostile_bodies(), st.integers(0, 6), st.sampled_from([0, 10**12, 2**62, 2**63 - 1, -(2**63)]))
def test_hostile_bytes_are_decoded_alike(body: bytes, record_count: int, base_timestamp: int) -> None:
    """Whatever the bytes are made to look like, among values that imitate records: the answer is the decoder's."""
    chunk = Chunk(bytearray(body), record_count, 0, 0, record_count, base_timestamp, None, -(2**62))
    assert branched(taught(record_bytes(usual_value())), chunk) == decoded(chunk)


# --- what is learned ---

KEY, TRACE = b"alice", (b"traceparent", b"00-" + b"a" * 52)


def value(text: str) -> bytes:
    """Return a valid value with these members behind the usual ones."""
    return usual_value()[:-1] + text.encode() + b"}"


LEARNED = {
    "ours": (record_bytes(usual_value()), record_bytes(usual_value("y" * 30, 900))),
    "no spaces": (
        record_bytes(usual_value().replace(b" ", b"")),
        record_bytes(usual_value("é\\u00e9").replace(b" ", b"")),
    ),
    "key": (record_bytes(usual_value(), key=KEY), record_bytes(usual_value(), key=KEY + b"\0\n")),
    "header": (record_bytes(usual_value(), headers=[TRACE]), record_bytes(usual_value(), 5, 5, headers=[TRACE])),
    "header null": (
        record_bytes(usual_value(), headers=[TRACE]),
        record_bytes(usual_value(), headers=[(TRACE[0], None)]),
    ),
    "header text": (
        record_bytes(usual_value(), headers=[(b"h", None), (b"i", b"")]),
        record_bytes(usual_value(), headers=[(b"h", b"text"), (b"i", b"\x01\x00")]),
    ),
    "kinds": (record_bytes(value(', "note": null')), record_bytes(value(', "note": "\\ud800"'))),
    "numbers": (record_bytes(value(', "n": -1.50e+3')), record_bytes(value(', "n": true'))),
    "nested": (record_bytes(value(',\n "o": {"a": {}, "b": 1}')), record_bytes(value(',\n "o": {"a": {}, "b": "é"}'))),
    "amount": (record_bytes(usual_value(amount=10)), record_bytes(usual_value().replace(b"10", b"0.50e+2"))),
    "empty name": (record_bytes(value(', "": "x", "né": 1')), record_bytes(value(', "": "", "né": 2'))),
    "spaces around": (record_bytes(b" " + usual_value() + b"\n"), record_bytes(b" " + usual_value("z") + b"\n")),
}
"""A sample, and a record of the same form."""


@pytest.mark.parametrize(("sample", "like"), LEARNED.values(), ids=LEARNED)
def test_one_record_teaches_its_form(sample: bytes, like: bytes) -> None:
    """What producers vary from record to record is no other form; such records are not decoded again."""
    job, chunk = taught(sample), chunk_of([like, sample, like] * 20)
    assert fitting(job, chunk) == 60
    with patch.object(job, "decide", side_effect=AssertionError):
        assert branched(job, chunk) == decoded(chunk)


NOT_LEARNED = {
    "dead letter": record_bytes(usual_value()[:-1]),
    "no value": record_bytes(None),
    "array": record_bytes(value(', "a": [1]')),
    "name with an escape": record_bytes(value(', "\\u0061": 1')),
    "long value": record_bytes(value(', "note": "%s"' % ("x" * 5000))),
    "many members": record_bytes(value("".join(f', "{n}": 1' for n in range(60)))),
    "many headers": record_bytes(usual_value(), headers=[(b"h", b"")] * 11),
    "long header": record_bytes(usual_value(), headers=[(b"h", b"x" * 300)]),
    "long key": record_bytes(usual_value(), key=b"x" * 300),
}


@pytest.mark.parametrize("sample", NOT_LEARNED.values(), ids=NOT_LEARNED)
def test_some_forms_are_not_learned(sample: bytes) -> None:
    """What is no transaction, has what varies in length, or would make a large pattern."""
    assert not taught(sample).forms._forms


def test_a_name_in_a_nested_object_is_another() -> None:
    """Only members of the transaction itself are what the rule looks at."""
    sample = record_bytes(value(', "o": {"amount": 5000, "currency": 7}'))
    batches, _ = branched(taught(sample), chunk_of([sample] * 3))
    assert batches["legit"][0].offsets == [0, 1, 2]


def test_forms_in_turn_are_all_columns() -> None:
    """Several producers in a topic, or a member that is optional: each of the forms fits, whatever the order."""
    samples = [sample for sample, _ in LEARNED.values()][:8]
    chunk = chunk_of([like for _, like in list(LEARNED.values())[:8]] * 7)
    job = taught(*samples)
    assert fitting(job, chunk) == 56
    assert branched(job, chunk) == decoded(chunk)


def test_an_odd_record_costs_its_neighbours_nothing() -> None:
    """Only what fits no form is decoded: malformed, unusual, or with records in its value."""
    good, inner = record_bytes(usual_value()), record_bytes(usual_value("b"))
    odd = [b"", b"x", usual_value()[:-1], value(', "a": [1]'), inner, b"x" * 50 + inner * 3 + b"y", inner[3:] + inner]
    found = [record for each in odd for record in ([good] * 10 + [record_bytes(each)])]
    job, chunk = taught(good), chunk_of(found)
    assert fitting(job, chunk) == 70
    assert branched(job, chunk) == decoded(chunk)


@pytest.mark.parametrize("max_bytes", [10**8, 200])
def test_what_lies_behind_the_last_record_is_none(max_bytes: int) -> None:
    """Whatever the batch's number of records is, those that fit and the others between them are counted alike."""
    good, odd = record_bytes(usual_value()), record_bytes(b"x")
    found = [good, odd, odd, odd, good, record_bytes(usual_value("x" * 200)), odd, good, good]
    for count in range(len(found) + 1):
        chunk = chunk_of(found)._replace(record_count=count, next_offset=count)
        job, target = taught(good), Target(1, max_bytes)
        assert branched(job, chunk, target) == decoded(chunk, target=target)


def test_a_length_below_0_leads_nowhere() -> None:
    """It points to bytes that have been read: they are read once."""
    good = record_bytes(usual_value())
    back = VARINT[-len(good)] + b"\0\0\0\1" + VARINT[len(usual_value())] + usual_value() + b"\0"
    for found in ([good, back], [good, good, back, good], [good, back + b"p" * len(good)], [back + good, good]):
        chunk = chunk_of(found)._replace(record_count=1000, next_offset=1000)
        expected = decoded(chunk)
        assert sum(len(batch.offsets) for batches in expected.batches.values() for batch in batches) <= 4
        assert branched(taught(good), chunk) == expected


def test_few_forms_are_kept_and_the_useful_ones_stay() -> None:
    """A stream of ever new forms has room for a handful, and does not displace those that are in use."""
    used, job = record_bytes(usual_value()), taught(record_bytes(usual_value()))
    with patch.object(forms, "PRICE", 0):
        for n in range(50):
            branched(job, chunk_of([used, record_bytes(value(f', "m{n}": 1')), used]))
    assert len(job.forms._forms) == forms.MOST_FORMS
    assert fitting(job, chunk_of([used] * 3)) == 3
    assert fitting(job, chunk_of([record_bytes(value(', "m49": 1'))])) == 1
    assert fitting(job, chunk_of([record_bytes(value(', "m1": 1'))])) == 0


def test_forms_are_learned_no_faster_than_is_worth_it() -> None:
    """If every record has a form of its own, few are compiled: compiling a form takes as long as many records do."""
    job, compiled = new_job(), []
    with patch.object(forms.Forms, "_compile", lambda self: compiled.append(1)):
        for n in range(20):
            branched(job, chunk_of([record_bytes(value(f', "m{n}x{m}": 1')) for m in range(100)]))
    assert len(compiled) <= 1 + 2000 // forms.PRICE


def largest_sample() -> bytes:
    """Return a record as large as is learned, of what makes the largest pattern."""
    members = "".join(f', "{n}": 1' for n in range(samples.MOST_SCALARS - len(MEMBERS)))
    headers = [(b"h%d" % n, b"x" * samples.MOST_FIELD_BYTES) for n in range(samples.MOST_HEADERS)]
    return record_bytes(value(members), key=b"k" * 100, headers=headers)


def test_the_pattern_is_bounded() -> None:
    """The largest samples make a pattern of bounded size, so of bounded time to compile."""
    sample = largest_sample()
    assert fitting(taught(sample), chunk_of([sample])) == 1
    for each in (sample, record_bytes(value(', "n": "%s"' % ("*" * 3500)))):
        (record,) = decode(chunk_of([each]))
        form = form_of(record, MEMBERS)
        assert form
        assert len(form.pattern) < 12_000


# --- growth ---


class Counting:
    """A pattern that counts the bytes it is given, and how often it is tried."""

    def __init__(self, pattern: Any) -> None:
        self.pattern, self.groups, self.bytes, self.tries = pattern, pattern.groups, 0, 0

    def split(self, data: memoryview) -> list[bytes]:
        """Split, and count the bytes."""
        self.bytes += len(data)
        return self.pattern.split(data)

    def match(self, data: memoryview, at: int) -> Any:
        """Match, and count."""
        self.tries += 1
        return self.pattern.match(data, at)


GOOD = record_bytes(usual_value())
BAD_TEXT = record_bytes(usual_value().replace(b'"b"', b'"\xff"'))
"""Fits but for its text, which is not UTF-8: that comes out after the split."""
SHAPES = {
    "good": [GOOD],
    "dead letters": [record_bytes(b"x")],
    "good and bad in turn": [GOOD, record_bytes(b"x")],
    "fits at first": [BAD_TEXT],
    "fits at first, in turn": [GOOD, BAD_TEXT],
    "a record within a record": [record_bytes(b"x" * 30 + GOOD)],
    "others, the last with a record within it": [GOOD, *[record_bytes(b"x")] * 9, record_bytes(b"x" * 30 + GOOD)],
    "wrong length of the value": [GOOD.replace(VARINT[len(usual_value())], VARINT[len(usual_value()) - 1], 1)],
    "beginnings": [record_bytes(GOOD[:-9] * 20)],
    "zeros": [record_bytes(bytes(500))],
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_work_grows_as_the_chunk_does(shape: Sequence[bytes]) -> None:
    """Twice the chunk is twice the work, and that is a few times the bytes at most, whatever they are."""
    work = []
    for times in (1, 2, 4):
        job, chunk = taught(GOOD), chunk_of(list(shape) * (400 * times))
        job.forms._wait = 10**9  # nothing new
        counting = job.forms._pattern = Counting(job.forms._pattern)  # type: ignore[assignment]
        assert branched(job, chunk) == decoded(chunk)
        work.append(counting.bytes)
        assert counting.bytes < 12 * len(chunk.records) + forms.MOST_BYTES
        assert counting.tries <= 2 * chunk.record_count + 10
    assert work[2] <= 4.5 * work[0] + forms.MOST_BYTES


# --- what else a rule may say ---


MARKED, PLAIN = Decision("fraud", headers=[(b"rule", b"large")]), Decision("fraud")


@pytest.mark.parametrize("sample", [record_bytes(usual_value()), record_bytes(usual_value(), key=KEY, headers=[TRACE])])
def test_headers_of_a_rule_are_added_on_both_ways_in_the_same_order(sample: bytes) -> None:
    """Some records of a route get a header and some do not: on both ways each stays where it was among the others."""
    job = new_job(
        lambda value: MARKED if b"1000" in bytes(value or b"") else PLAIN,
        lambda amounts: [MARKED if amount == b"1000" else PLAIN for amount in amounts],
    )
    key, headers = (None, []) if sample == GOOD else (KEY, [TRACE])
    amounts = (1000, 1, 2, 1000, 3)
    chunk = chunk_of([record_bytes(usual_value(amount=amount), key=key, headers=headers) for amount in amounts])
    for n in range(2):
        assert bool(n) == (fitting(job, chunk) == 5)
        batches, _ = branched(job, chunk)
        assert batches == decoded(chunk, job).batches
        (batch,) = batches["fraud"]
        assert batch.offsets == [0, 1, 2, 3, 4]
        found = [record.headers[len(headers) :] for record in read_by_client(finished(batch))]
        assert found == [(("rule", b"large"),) if amount == 1000 else () for amount in amounts]


@pytest.mark.parametrize(("compresses", "time", "is_taken"), [(True, -1, True), (True, -2, False), (False, -2, True)])
def test_a_time_that_an_output_does_not_take(compresses: bool, time: int, is_taken: bool) -> None:
    """A broker that compresses an output refuses times below -1: such a record becomes a dead letter by reference."""
    target = Target(1, 10**8, -1 if compresses else -(2**63))
    job = taught(GOOD)
    for content in (usual_value(), usual_value("é"), value(', "a": []')):
        batches, _ = branched(job, chunk_of([record_bytes(content, time)]), target)
        (batch,) = batches["legit" if is_taken else "dead_letter"]
        (record,) = read_by_client(finished(batch))
        expected = content if is_taken else None
        assert (record.timestamp, record.value) == (max(time, -1 if compresses else time), expected)
        if not is_taken:
            assert dict(record.headers)["__streams.errors.exception"] == b"InvalidTimestamp"


def test_a_size_that_an_output_does_not_take() -> None:
    """A record that fits a form and not its output is a dead letter by reference, its neighbours are none."""
    job, target = taught(GOOD), Target(1, 500)
    chunk = chunk_of([GOOD, record_bytes(usual_value("x" * 500)), GOOD])
    found = branched(job, chunk, target)
    assert found == decoded(chunk, target=target)
    assert [batch.offsets for batch in found.batches["legit"]] == [[0, 2]]
    assert found.reasons[0].startswith("too large")


@pytest.mark.parametrize(
    "change", [{"append_time": 5}, {"position": 1}, {"next_offset": 9}, {"base_timestamp": 2**63 - 1}]
)
def test_some_chunks_go_the_general_way(change: dict[str, int]) -> None:
    """LogAppendTime, a position in the middle, gaps between the offsets, times beyond all reason."""
    job, chunk = taught(GOOD), chunk_of([GOOD] * 3)._replace(**change)  # type: ignore[arg-type]
    assert fitting(job, chunk) == 0
    assert branched(job, chunk) == decoded(chunk)


@pytest.mark.parametrize("size", [MAX_RECORD_BYTES, MAX_RECORD_BYTES + 1])
def test_a_record_above_the_limit_is_none_that_fits(size: int) -> None:
    """A form bounds no text: what is too large for the decoder goes by reference all the same."""
    empty = len(usual_value(""))
    chunk = chunk_of([record_bytes(usual_value("x" * (size - empty)))])
    found = branched(taught(GOOD), chunk)
    assert found == decoded(chunk)
    assert len(found.reasons) == (size > MAX_RECORD_BYTES)
