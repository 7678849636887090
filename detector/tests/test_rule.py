"""The rule: each value has one right answer, whatever it is made of."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.rule import DEAD_LETTER, FRAUD, IS_FRAUD, IS_LEGIT, LEGIT, decide, decide_usual
from detector.tests.corpus import CORPUS

ROUTES = {"legit": LEGIT, "fraud": FRAUD, "dead_letter": DEAD_LETTER}


def cases() -> list[Any]:
    """Return the corpus: each case's value and route, under its name."""
    return [pytest.param(case.value, ROUTES[case.expected], id=case.name) for case in CORPUS]


def transaction(**members: object) -> bytes:
    """Return a valid transaction of 10 EUR with these members changed or added."""
    return json.dumps({"source": "alice", "target": "bob", "amount": 10, "currency": "EUR"} | members).encode()


@pytest.mark.parametrize(
    ("start", "is_framed"), [(b"\0\0\0\0\1", True), (b"\0\0\1\0\0", True), (b"\0\0\0\1", False), (b'\0{\0"\0', False)]
)
def test_a_framed_value_is_told_as_such(start: bytes, is_framed: bool) -> None:
    """What a serializer with a Schema Registry writes has a reason of its own; what is short, or UTF-16, has not."""
    value = start + transaction() if is_framed else start
    for framed in (value, memoryview(value)):
        assert decide(framed).reason.startswith("framed for a schema registry: ") == is_framed


@pytest.mark.parametrize(("value", "expected"), cases())
def test_corpus(value: bytes | None, expected: str) -> None:
    """Every case of the corpus gets its route, and a reason if and only if it is a dead letter."""
    decision = decide(value)
    assert decision.route == expected
    assert bool(decision.reason) == (expected == DEAD_LETTER)


@given(st.one_of(st.none(), st.binary(max_size=200)))
def test_any_bytes_have_an_answer(value: bytes | None) -> None:
    """Nothing makes it raise."""
    assert decide(value).route in ROUTES.values()


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists, max_leaves=8))
def test_any_json_as_amount_has_an_answer(amount: object) -> None:
    """An amount of any type is legit or fraud if it is a number above 0, else a dead letter."""
    number = type(amount) in (int, float) and 0 < amount < float("inf")  # type: ignore[operator]
    expected = (FRAUD if amount >= 900 else LEGIT) if number else DEAD_LETTER  # type: ignore[operator]
    assert decide(transaction(amount=amount)).route == expected


def test_a_large_value_is_no_obstacle() -> None:
    """A megabyte of extra member in a valid transaction changes nothing."""
    assert decide(transaction(note="x" * 1_000_000)) is IS_LEGIT
    assert decide(transaction(note="x" * 1_000_000, amount=900)) is IS_FRAUD


@pytest.mark.parametrize(
    "value",
    [
        rb'"\u1_23"',
        rb'"\u 123"',
        rb'"\u+123"',
        rb'"\\\u12"',
        "9٩".encode(),
        "1.٣".encode(),
        "1e٣".encode(),
    ],
)
def test_what_laxer_decoders_take_is_a_dead_letter(value: bytes) -> None:
    """Some JSON decoders take these; the rule does not."""
    assert decide(transaction(note="HERE").replace(b'"HERE"', value)).route == DEAD_LETTER


@pytest.mark.parametrize("value", [rb'"\\u12"', rb'"\u00e9\\\"\/\b\f\n\r\t"', '"٩"'.encode()])
def test_escapes_and_foreign_digits_in_strings_are_fine(value: bytes) -> None:
    """What looks like a bad escape or a bad digit is none where the string allows it."""
    assert decide(transaction(note="HERE").replace(b'"HERE"', value)).route == LEGIT


@given(st.lists(st.decimals(1, 10**15, places=2) | st.sampled_from([900, 899.99, 1, 10**14]), min_size=1))
def test_many_values_of_the_usual_form_are_decided_alike(amounts: list[object]) -> None:
    """The rule for many amounts at once is the rule for each value."""
    spelled = [str(amount).encode() for amount in amounts]
    values = [b'{"source": "a", "target": "b", "amount": %b, "currency": "EUR"}' % amount for amount in spelled]
    assert decide_usual(spelled) == [decide(value) for value in values]


def test_a_reason_is_short() -> None:
    """A reason goes into a header: it stays short, whatever the value is."""
    longest = max(len(decide(case.values[0]).reason.encode()) for case in cases())
    assert longest < 200


@pytest.mark.parametrize("limit", ["0", "640"])
def test_the_environment_does_not_move_the_limit_for_digits(limit: str) -> None:
    """Python's own limit for integers can be set from outside; the rule's stays."""
    program = (
        "from detector.rule import decide\n"
        "for digits in (4300, 4301):\n"
        '    value = b\'{"source":"a","target":"b","currency":"EUR","amount":\' + b\'9\' * digits + b\'}\'\n'
        "    print(decide(value).route)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONINTMAXSTRDIGITS": limit},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.splitlines() == [FRAUD, DEAD_LETTER]
