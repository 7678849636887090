"""The contents of records, as text for a terminal or a browser."""

import json
import unicodedata
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import NamedTuple

from exactly_once import Record
from exactly_once.branching import NOT_THERE
from exactly_once.decoding import headers_of

INVISIBLE = ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp")
"""Unicode's categories of characters that a terminal may obey, or that change the order or the lines of a text."""

ERRORS = b"__streams.errors."
"""How the names of the headers begin that the detector adds to a dead letter."""

ALERT = ("rule", "target", "sources", "sum", "currency", "first", "last", "id")
"""The members of an alert that the page shows."""


class Transaction(NamedTuple):
    """What the views show of a transaction; nothing in it has been checked but the amount's type."""

    source: str
    target: str
    amount: int | float
    currency: str

    def texts(self) -> dict[str, str]:
        """Return its members as text to be shown."""
        source, target, currency = visible(self.source), visible(self.target), visible(self.currency, 3)
        return {"source": source, "target": target, "amount": money(self.amount), "currency": currency}


def visible(value: str, most: int = 20) -> str:
    """Return a value from a record without control characters, cut to fit."""
    shown = "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) in INVISIBLE else c for c in value[:most])
    return shown + "…" * (len(value) > most)


def money(amount: int | float) -> str:
    """Return an amount as text, whatever its size."""
    number = Decimal(amount)  # a large int is too large for a float
    return f"{number:,.2f}" if abs(amount) < 1e12 else f"{number:.2e}"


def parse(value: memoryview | None) -> Transaction | None:
    """Return the transaction that the value holds, or None if it holds none. Raises nothing."""
    # A value nested too deeply ends in a RecursionError.
    with suppress(ValueError, TypeError, KeyError, RecursionError):
        members = json.loads(str(value or b"", "utf-8"))
        amount = members["amount"]
        if isinstance(amount, (int, float)):
            return Transaction(str(members["source"]), str(members["target"]), amount, str(members["currency"]))
    return None


def dead_letter(record: Record) -> dict[str, str]:
    """Return where the record comes from, why it is a dead letter, and how it begins. Raises nothing."""
    headers = errors(record)
    texts = {name: visible(headers.get(name, ""), 120) for name in ("message", "topic", "partition", "offset")}
    if record.value is not None:
        return texts | {"value": visible(str(record.value[:400], "utf-8", "replace"), 80)}
    place = "{topic}[{partition}] offset {offset}".format_map(texts)
    return texts | {"value": "null" if reference(record) is None else f"only in {place}"}


def errors(record: Record) -> dict[str, str]:
    """Return what the detector's headers say, each under the end of its name. Raises nothing."""
    return {
        str(name.removeprefix(ERRORS), "utf-8", "replace"): str((value or b"")[:400], "utf-8", "replace")
        for name, value in headers_of(record)
        if name.startswith(ERRORS)
    }


def reference(record: Record) -> int | None:
    """Return the offset in the input that a dead letter refers to, having no copy of what is there; None if it has."""
    headers = errors(record) if record.value is None else {}
    offset = headers.get("offset", "")
    return int(offset) if headers.get("exception") in NOT_THERE.values() and offset.isdecimal() else None


def alert(value: memoryview | None) -> dict[str, str]:
    """Return the members of an alert that are there. Raises nothing."""
    with suppress(ValueError, TypeError, RecursionError):
        members = json.loads(str(value or b"", "utf-8"))
        if "amount" in members:  # of a single fraud: a ring of one
            amount, time = members["amount"], members.get("time")
            members = {"sources": 1, "sum": amount, "first": time, "last": time, **members}
        texts = {name: visible(str(members[name]), 40) for name in ALERT if name in members}
        return texts | {name: moment(members[name]) for name in ("first", "last") if name in texts}
    return {}


def moment(milliseconds: object) -> str:
    """Return milliseconds since 1970 as a time in UTC, and anything else as it is. Raises nothing."""
    with suppress(TypeError, ValueError, OverflowError, OSError):
        return str(datetime.fromtimestamp(int(str(milliseconds)) // 1000, UTC))[:19] + "Z"
    return visible(str(milliseconds), 40)
