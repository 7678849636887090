"""Candidates: what of a fraud is kept, and what is read from a record, whoever has written it."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exactly_once import Record
from exactly_once.encoding import batch_bytes, content_of
from smurfing.candidates import Transfer, candidate_of, transfer_of


def record(value: bytes | None, key: bytes | None = b"bob") -> Record:
    """Return a record of the candidates topic."""
    return Record(0, 0, None if value is None else memoryview(value), content_of(key, value), 0)


def fraud(amount: str, source: str = '"a"', currency: str = '"EUR"') -> bytes:
    """Return the value of a fraud, each part as JSON has it."""
    return f'{{"source": {source}, "target": "bob", "amount": {amount}, "currency": {currency}}}'.encode()


NAMES = st.text(min_size=1, max_size=400)


@settings(max_examples=50, deadline=None)
@given(NAMES, NAMES, st.sampled_from(["EUR", "eur", "uSd"]))
def test_a_candidate_is_small_and_says_what_counts(source: str, target: str, currency: str) -> None:
    """Whatever the names: less than 600 bytes, and the transfer that comes out is the one that a copy would be."""
    transaction = {"source": source, "target": target, "amount": 1000, "currency": currency}
    key, value = candidate_of(transaction)
    found = transfer_of(record(value, key), 1000)
    assert found is not None
    assert found == transfer_of(record(json.dumps(transaction).encode()), 1000)
    assert found.currency == currency.upper()
    assert len(content_of(key, value)) < 600 - 36
    assert batch_bytes(content_of(key, value)) < 600 + 61


@pytest.mark.parametrize("amount", ["1000", "1000.0", "1e3", "1E+3", "0.1e4", "1000.000"])
def test_exactly_the_amount_however_it_is_written(amount: str) -> None:
    """A number is its value, not its digits."""
    assert transfer_of(record(fraud(amount)), 1000) == Transfer(b"a", b"bob", "EUR")


@pytest.mark.parametrize(
    "data",
    [None, b"", b"no JSON", b"eur a", b"EUR", b"EUR ", b"EURa", b"EUR " + b"a" * 257, b"{"]
    + [fraud(amount) for amount in ("999.99", "1000.01", "10000", "100", '"1000"', "1e400", "true")],
)
def test_what_is_not_of_that_amount_or_no_candidate_counts_nothing(data: bytes | None) -> None:
    """Nor does what is no transaction."""
    assert transfer_of(record(data), 1000) is None


@pytest.mark.parametrize("key", [None, b"", b"\xff", b"b" * 257])
def test_a_receiver_that_cannot_be_one(key: bytes | None) -> None:
    """Anybody may have written the topic; what is told has to be a text."""
    assert transfer_of(record(b"EUR a", key), 1000) is None


def test_names_are_compared_as_text_and_currencies_without_case() -> None:
    r"""`\u0061` is `a`, eur is EUR, and half a character is a name as well."""
    assert transfer_of(record(fraud("1000", r'"\u0061"', '"eur"')), 1000) == Transfer(b"a", b"bob", "EUR")
    assert transfer_of(record(fraud("1000", r'"\ud800"')), 1000) == Transfer(b"\xed\xa0\x80", b"bob", "EUR")
