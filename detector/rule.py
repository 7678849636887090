"""The rule: what a record's value is, and so which topic it belongs to.

A value is one transaction: a JSON object with `source` and `target` (strings, not empty), `amount` (a number above
0) and `currency` (three ASCII letters). Members beyond those four are allowed and decide nothing.

A decision takes time and memory in proportion to the value, whatever it holds. Measured with CPython 3.13: up to 0.1 µs
a byte, and up to 50 times the value's size, for arrays within arrays. Text takes twice its size, or ten times with a
character beyond U+FFFF; a transaction of the usual form takes nothing.
"""

import json
import re
import sys
from typing import Any, NoReturn

FRAUD_AMOUNT = 900
"""A transaction of this amount or more counts as fraud: the tutorial's limit, in any currency."""

MAX_DIGITS = 4300
"""The longest integer that counts as a number: Python's default, enforced regardless of the environment."""
sys.set_int_max_str_digits(MAX_DIGITS)

LEGIT, FRAUD, DEAD_LETTER = "legit", "fraud", "dead_letter"
ROUTES = {
    LEGIT: ("LEGIT_TOPIC", "streaming.transactions.legit"),
    FRAUD: ("FRAUD_TOPIC", "streaming.transactions.fraud"),
    DEAD_LETTER: ("DEAD_LETTER_TOPIC", "streaming.transactions.dead-letter"),
}
"""Per route, the variable that names its topic, and the topic's name in Compose."""

USUAL_FORM = (
    rb'\{"source": ?+"[^"\\\x00-\x1f\x80-\xff]++", ?+"target": ?+"[^"\\\x00-\x1f\x80-\xff]++",'
    rb' ?+"amount": ?+([1-9][0-9]{0,14}+(?:\.[0-9]++)?+), ?+"currency": ?+"[A-Za-z]{3}"\}'
)
"""Most transactions: they need no decoding. ASCII without escapes; amounts from 1 on, without an exponent."""
_USUAL_FORM = re.compile(USUAL_FORM)


class InvalidTransaction(ValueError):
    """The value is not a transaction; the message says why."""


def decide(value: bytes | memoryview | None) -> tuple[str, str]:
    """Return the route of a record with this value, and the reason if it is a dead letter. Raises nothing."""
    try:
        return (FRAUD if parse_amount(value) >= FRAUD_AMOUNT else LEGIT), ""
    except InvalidTransaction as invalid:
        return DEAD_LETTER, str(invalid)


def parse_amount(value: bytes | memoryview | None) -> float:
    """Return the amount of the transaction that the value holds. Raises InvalidTransaction if it holds none."""
    if not value:
        raise InvalidTransaction("no value" if value is None else "empty value")
    usual = _USUAL_FORM.fullmatch(value)
    if usual:
        return float(usual[1])
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
    return amount


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
