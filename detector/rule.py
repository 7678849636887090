"""The rule: what a record's value is, and so which topic it belongs to.

A value is one transaction: a JSON object with `source` and `target` (strings, not empty), `amount` (a number above
0) and `currency` (three ASCII letters). Members beyond those four are allowed and decide nothing.

A decision takes time and memory in proportion to the value, whatever it holds. Measured with CPython 3.13: up to 0.1 µs
a byte, and up to 50 times the value's size, for arrays within arrays. Text takes twice its size, or ten times with a
character beyond U+FFFF.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NoReturn

from exactly_once import Decision
from exactly_once.samples import STRING

FRAUD_AMOUNT = 900
"""A transaction of this amount or more counts as fraud: the tutorial's limit, in any currency."""

MAX_DIGITS = 4300
"""The longest integer that counts as a number: Python's default, enforced regardless of the environment."""
sys.set_int_max_str_digits(MAX_DIGITS)

MOST_SCHEMAS = 2**24
"""Confluent's serializers put five bytes before a value: a zero, and the number of its schema in a Schema Registry,
which counts from 1. What would be a larger one is something else, such as UTF-16."""

LEGIT, FRAUD, DEAD_LETTER = "legit", "fraud", "dead_letter"

IS_LEGIT, IS_FRAUD = Decision(LEGIT), Decision(FRAUD)
"""What a valid transaction is. Headers to be added go in here: `Decision(FRAUD, headers=[(b"rule", b"amount")])`."""

_NAME = rb'(?!"")' + STRING
MEMBERS = {
    "source": _NAME,
    "target": _NAME,
    "amount": rb"((?:[1-9][0-9]{0,14}+|0(?=\.0{0,30}[1-9]))(?:\.[0-9]{1,40}+)?+(?:[Ee][-+]?[0-9]{1,2}+)?+)",
    "currency": rb'"[A-Za-z]{3}"',
}
"""The members that the rule looks at, as most transactions have them. Amounts of up to 15 digits; a pattern
may leave out what the rule takes, such as a currency with an escape, never the reverse."""


class InvalidTransaction(ValueError):
    """The value is not a transaction; the message says why."""


def decide(value: bytes | memoryview | None) -> Decision:
    """Return where a record with this value belongs. Raises nothing."""
    try:
        return decide_amounts([parse(value)["amount"]])[0]
    except InvalidTransaction as invalid:
        return refused(str(invalid))


@lru_cache(1024)
def refused(reason: str) -> Decision:
    """Return the decision on what is no transaction, for this reason."""
    return Decision(DEAD_LETTER, reason=reason)


def decide_usual(amounts: Sequence[bytes]) -> list[Decision]:
    """Decide on many transactions by their amounts: what the group in MEMBERS has matched."""
    return decide_amounts(map(float, amounts))


def decide_amounts(amounts: Iterable[float]) -> list[Decision]:
    """Return where transactions of these amounts belong."""
    return [IS_FRAUD if amount >= FRAUD_AMOUNT else IS_LEGIT for amount in amounts]


def parse(value: bytes | memoryview | None) -> dict[str, Any]:
    """Return the transaction that the value holds, with all its members. Raises InvalidTransaction if it holds none."""
    if not value:
        raise InvalidTransaction("no value" if value is None else "empty value")
    if value[0] == 0 and 0 < (schema := int.from_bytes(value[1:5], "big")) < MOST_SCHEMAS and len(value) >= 5:
        raise InvalidTransaction(f"framed for a schema registry: begins like a value of schema {schema}, not like JSON")
    try:
        text = str(value, "utf-8")  # strict; json.loads(bytes) would guess UTF-16 and UTF-32 as well
        transaction = DECODER.decode(text)
    except UnicodeDecodeError as error:
        raise InvalidTransaction(f"not UTF-8: {error.reason} at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise InvalidTransaction(f"not JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise InvalidTransaction("nested too deeply") from None
    if type(transaction) is not dict:
        raise InvalidTransaction("not a JSON object")
    source, target = transaction.get("source"), transaction.get("target")
    if type(source) is not str or not source or type(target) is not str or not target:
        raise InvalidTransaction("source or target is missing, empty or no string")
    currency = transaction.get("currency")
    if type(currency) is not str or len(currency) != 3 or not (currency.isascii() and currency.isalpha()):
        raise InvalidTransaction("currency is missing or not three ASCII letters")
    amount = transaction.get("amount")
    if type(amount) is not float and type(amount) is not int:  # not isinstance, as a bool is an int
        raise InvalidTransaction("amount is missing or no number")
    if not 0 < amount < float("inf"):
        raise InvalidTransaction("amount is not above 0 and finite")
    return transaction


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise InvalidTransaction("a key is there twice in one object")
    return members


def _integer(digits: str) -> int:
    if len(digits) - digits.startswith("-") > MAX_DIGITS:
        raise InvalidTransaction(f"an integer has more than {MAX_DIGITS} digits")
    return int(digits)


def _no_constant(name: str) -> NoReturn:
    raise InvalidTransaction(f"not JSON: {name}")


DECODER = json.JSONDecoder(object_pairs_hook=_members, parse_int=_integer, parse_constant=_no_constant)
