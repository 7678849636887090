"""The rule: what a record's value is, and so which topic it belongs to.

A value is one transaction: a JSON object with `source` and `target` (strings, not empty), `amount` (a number above
0) and `currency` (three ASCII letters). Members beyond those four are allowed and decide nothing.
"""

import json
import re
import sys
from typing import Any, NoReturn

FRAUD_AMOUNT = 900
"""From this amount on a transaction counts as fraud: the tutorial's limit, in whatever currency it is."""

MAX_DIGITS = 4300
"""The longest integer that counts as a number: Python's default, made sure of whatever the environment says."""
sys.set_int_max_str_digits(MAX_DIGITS)

LEGIT, FRAUD, DEAD_LETTER = "legit", "fraud", "dead letter"

# The usual form, recognised at once: decoding takes two to five times as long. Whatever has another form is decoded.
# Only ASCII without escapes in the names of accounts; no amount below 1, and no exponent.
USUAL_FORM = re.compile(
    rb'\{"source": ?"[^"\\\x00-\x1f\x80-\xff]+", ?"target": ?"[^"\\\x00-\x1f\x80-\xff]+",'
    rb' ?"amount": ?([1-9][0-9]{0,14}(?:\.[0-9]+)?), ?"currency": ?"[A-Za-z]{3}"\}'
)

# Some decoders are laxer than JSON: PyPy's takes "\\u1_23" for an escape and other scripts' digits for digits.
STRICT_ESCAPES = re.compile(r"(?:[^\\]|\\u[0-9a-fA-F]{4}|\\[^u])*", re.DOTALL)


class InvalidTransaction(ValueError):
    """The value is no transaction; the message says why."""


def decide(value: bytes | None) -> tuple[str, str]:
    """Return where a record with this value belongs, and for a dead letter the reason. Raises nothing."""
    try:
        return (FRAUD if parse_amount(value) >= FRAUD_AMOUNT else LEGIT), ""
    except InvalidTransaction as invalid:
        return DEAD_LETTER, str(invalid)


def parse_amount(value: bytes | None) -> float:
    """Return the amount of the transaction that the value holds. Raises InvalidTransaction where it holds none."""
    if not value:
        raise InvalidTransaction("no value" if value is None else "empty value")
    usual = USUAL_FORM.fullmatch(value)
    if usual:
        return float(usual[1])
    try:
        text = value.decode()  # strict UTF-8; json.loads(bytes) would guess UTF-16 and UTF-32 as well
        transaction = DECODER.decode(text)
        if "\\" in text and not STRICT_ESCAPES.fullmatch(text):
            raise InvalidTransaction("not JSON: an escape that is none")
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
    if type(amount) is not float and type(amount) is not int:  # a bool is an int, too, so no isinstance
        raise InvalidTransaction("amount is missing or no number")
    if not 0 < amount < float("inf"):
        raise InvalidTransaction("amount is not above 0 and finite")
    return amount


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise InvalidTransaction("a member's name is there twice in one object")
    return members


def _integer(digits: str) -> int:
    if len(digits) - digits.startswith("-") > MAX_DIGITS:
        raise InvalidTransaction(f"an integer has more than {MAX_DIGITS} digits")
    if not digits.isascii():
        raise InvalidTransaction("not JSON: a digit that is none of 0 to 9")
    return int(digits)


def _float(digits: str) -> float:
    if not digits.isascii():
        raise InvalidTransaction("not JSON: a digit that is none of 0 to 9")
    return float(digits)


def _no_constant(name: str) -> NoReturn:
    raise InvalidTransaction(f"not JSON: {name}")


DECODER = json.JSONDecoder(
    object_pairs_hook=_members, parse_float=_float, parse_int=_integer, parse_constant=_no_constant
)
