"""What the candidates are given, and whether all of it came out: before a speed counts, every record is looked up."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bench.candidates import Candidate
from embedded.pipeline import Pipeline
from embedded.records import Record, stream, write

AS_THE_GENERATOR: dict[str, Any] = {"batch_size": 256 * 1024, "linger_ms": 5}
"""How a producer writes batches of that size."""


def _made(n: int, value: bytes, *headers: Any, more: Mapping[str, Any] = {}, **style: Any) -> Record:
    members = {**json.loads(value), **more}
    key = members["source"][n % 3 :].encode() if headers else None
    return Record(json.dumps(members, **style).encode(), key, headers)


def _traced(n: int, value: bytes) -> Record:
    more = {"id": f"{n:032x}", "note": (None, "lunch", "a taxi")[n % 3]}
    return _made(n, value, ("traceparent", b"00-%032x-%016x-01" % (n, n)), more=more)


def _dead(n: int, value: bytes) -> Record:
    # For one of three reasons, which the peers notice too: they look at the amount only.
    members = json.loads(value)
    amount = members.pop("amount")
    return Record((value[:-1], *(json.dumps(members | m).encode() for m in ({"amount": str(amount)}, {})))[n % 3])


_SORTED: dict[str, Any] = {"sort_keys": True, "separators": (",", ":")}
_MORE = {"id": "f" * 32, "at": 10**12, "ok": True, "memo": None, "fee": 0.5, "country": "DE"}
_HEADERS = [(f"header{n}", b"x" * n) for n in range(7)]

STREAMS: dict[str, tuple[str, Callable[[int, bytes], Record] | None]] = {
    "usual": ("transactions as the generator writes them", None),
    "spring": ("a key, a header, other order, no spaces", lambda n, v: _made(n, v, ("__TypeId__", b"a.B"), **_SORTED)),
    "traced": ("a key, `traceparent`, two more members, one of them at times null", _traced),
    "nested": (
        "over several lines, with a nested object and `é`",
        lambda n, v: _made(n, v, more={"note": f"é{n}", "device": {"version": n}}, indent=2, ensure_ascii=False),
    ),
    "turn": ("the first and the third of these in turn", lambda n, v: _traced(n, v) if n % 2 else Record(v)),
    "large": (
        "ten members, a key and eight headers",
        lambda n, v: _made(n, v, *_HEADERS, ("parent", (b"", b"%d" % n)[n % 2]), more=_MORE),
    ),
    "odd": (
        "as the generator's, with 1 % malformed and 1 % that have an array",
        lambda n, v: _made(n, v, more={"tags": [n]}) if n % 100 == 57 else Record(v[: -1 if n % 100 == 7 else None]),
    ),
    "dead": ("nothing but dead letters", _dead),
    "own": ("every record in a form of its own", lambda n, v: _made(n, v, more={f"m{n}": n})),
    "long": ("a long drain, in which a JVM has the time to compile its code", None),
}
"""What is in each stream, and how its records are made from the generator's values, unless they stay as they are."""


def fill(pipeline: Pipeline, records: int, name: str = "usual") -> None:
    """Create the transactions topic, and write a stream to it with our generator's help."""
    make = STREAMS[name][1]
    source = Pipeline(pipeline.broker_url) if make else pipeline
    source.create(source.transactions)
    limits = {"TRANSACTIONS_PER_SECOND": "unlimited", "TRANSACTIONS_LIMIT": str(records)}
    with source.service("generator", **limits) as generator:
        if generator.wait(3600):
            generator.check()
    if make:
        values = [record.value or b"" for record in source.read(source.transactions)]
        pipeline.create(pipeline.transactions)
        made = [make(number, value) for number, value in enumerate(values)]
        write(pipeline.broker_url, pipeline.transactions, made, **AS_THE_GENERATOR)


def route_of(value: bytes | None) -> str:
    """Return where a record of our streams belongs; not the detector's rule, on purpose."""
    try:
        return "fraud" if json.loads(value or b"")["amount"] >= 900 else "legit"
    except (ValueError, TypeError, KeyError):
        return "dead_letter"


class Sums:
    """A checksum of the records of each route and partition, in their order, as far as a candidate keeps them."""

    def __init__(self, candidate: Candidate) -> None:
        self.candidate = candidate
        self.counts: Counter[tuple[str, int]] = Counter()
        self._hashes = defaultdict[tuple[str, int], Any](hashlib.sha256)

    def add(self, records: Iterable[Record], route: str = "") -> None:
        """Add records that were found in the topic of this route; without one, records of the input."""
        for record in records:
            place = (route or route_of(record.value), record.partition)
            content = record.value or b""
            if self.candidate.keeps_records:
                # Without those that our detector adds to a dead letter.
                own = [header for header in record.headers if not header[0].startswith("__streams.errors.")]
                content += repr((record.key, own, record.timestamp)).encode()
            elif place[0] != "dead_letter":
                content = json.dumps(json.loads(content), sort_keys=True).encode()
            self.counts[place] += 1
            self._hashes[place].update(content)

    def check(self, expected: "Sums") -> None:
        """Raise RuntimeError unless the same records were added, each once and in the same order."""
        for place in sorted(expected.counts.keys() | self.counts.keys()):
            if self.counts[place] != expected.counts[place]:
                raise RuntimeError(f"{place[0]} has {self.counts[place]} records instead of {expected.counts[place]}")
            if self._hashes[place].digest() != expected._hashes[place].digest():
                raise RuntimeError(f"{place[0]} has a record that is not as it came in, or not in its place")


def sums(pipeline: Pipeline, candidate: Candidate) -> Sums:
    """Return the checksums of the transactions topic."""
    (expected := Sums(candidate)).add(stream(pipeline.broker_url, pipeline.transactions))
    return expected
