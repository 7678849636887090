"""The rule, stated a second time by other means, and 20,000 mutations on which both must agree."""

import json
import math
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from detector.rule import DEAD_LETTER, FRAUD, LEGIT, decide
from detector.tests.corpus import CORPUS

LIMIT = 900
"""The least amount that is fraud: stated here a second time."""

SCHEMA = Draft202012Validator(
    json.loads((Path(__file__).parent.parent.parent / "docs/transaction.schema.json").read_text())
)
"""The one that is documented."""
VALUES = [case.value for case in CORPUS if case.value is not None]
SMALL = [value for value in VALUES if len(value) < 600]
PIECES = [
    *(bytes([b]) for b in b'"\\{}[],: \n09-.eE+\0\x1f\x7f\xff'),
    b"",
    b"\xc3\xa9",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
]
PIECES += [
    b"1e400",
    b"NaN",
    b"true",
    b"null",
    b"\\u0061",
    b"\\ud800",
    b"amount",
    b'"amount": %d, ' % LIMIT,
    b'"source": "", ',
]
PIECES += [b'"x": {"a": 1, "a": 2}, ', b'"x": {"a": [1, {}]}, ']


TEXTS = [
    b'"a"',
    b'"a"',
    b'" "',
    b'"\x7f"',
    b'""',
    rb'"\u0061"',
    rb'"\"',
    b'"\xc3\xa9"',
    b'"\xff"',
    b'"\0"',
    b'"a""',
    b"1",
]
AMOUNTS = [
    b"%d" % LIMIT,
    b"%d.99" % (LIMIT - 1),
    b"1",
    b"0",
    b"0.00",
    b"0.5",
    b"01",
    b"1.",
    b".5",
    b"+1",
    b"-1",
    b"1e3",
    b"1_0",
    b'"900"',
]
AMOUNTS += [
    b"9" * 15,
    b"9" * 16,
    b"%d." % (LIMIT - 1) + b"9" * 30,
    b"9" * 4301,
    b"9" * 400 + b".0",
    "9٩".encode(),
    "1.٣".encode(),
]
CURRENCIES = [b'"EUR"', b'"EUR"', b'"eur"', b'"EURO"', b'"EU"', b'"E1R"', b'"EUR\n"', '"EÜR"'.encode(), b"EUR", b"null"]
SPACES = [b"", b" ", b" ", b"  ", b"\t", b"\n", b"\f", b"\xc2\xa0"]


def oracle(value: bytes) -> str:
    """Return the route, by the standard decoder, the JSON schema and a look at what neither checks."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) < len(pairs):
            raise ValueError("twice")
        return dict(pairs)

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        transaction = json.loads(str(value, "utf-8", "strict"), object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError):
        return DEAD_LETTER
    if not SCHEMA.is_valid(transaction):
        return DEAD_LETTER
    amount = transaction["amount"]
    if isinstance(amount, float) and math.isinf(amount):
        return DEAD_LETTER
    return LEGIT if amount < LIMIT else FRAUD


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """Return a value of the corpus with one to four places changed."""
    value = draw(st.sampled_from(SMALL))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(value)))
        removed = draw(st.sampled_from([0, 0, 1, 1, 2, 5, 20]))
        value = value[:start] + draw(st.sampled_from(PIECES)) + value[start + removed :]
    return value


@st.composite
def almost_usual_forms(draw: st.DrawFn) -> bytes:
    """Return what the generator writes, or something close to it."""
    space = draw(st.sampled_from(SPACES))
    parts = {b"source": TEXTS, b"target": TEXTS, b"amount": AMOUNTS, b"currency": CURRENCIES}
    members = [b'"%b":%b%b' % (name, space, draw(st.sampled_from(values))) for name, values in parts.items()]
    around = [b"", b"", b"", *SPACES, b"x", b"\xef\xbb\xbf", b"{}"]
    return draw(st.sampled_from(around)) + b"{" + (b"," + space).join(members) + b"}" + draw(st.sampled_from(around))


def test_the_corpus_agrees_with_the_oracle() -> None:
    """Both statements of the rule agree on the whole corpus, large values included."""
    assert [decide(value).route for value in VALUES] == [oracle(value) for value in VALUES]


@settings(max_examples=8_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutations())
def test_mutations_agree_with_the_oracle(value: bytes) -> None:
    """Whatever is changed in a value, both agree on where it belongs."""
    assert decide(value).route == oracle(value)


@settings(max_examples=2_000, deadline=None)
@given(almost_usual_forms())
def test_what_is_almost_of_the_usual_form_agrees_with_the_oracle(value: bytes) -> None:
    """What is recognised without decoding has the route that decoding would have given it."""
    assert decide(value).route == oracle(value)
