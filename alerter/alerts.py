"""What people are told about a record: plain text of bounded length, whatever the record holds."""

import json
import re
import time
from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

from kafka import TopicPartition

from exactly_once import Record

EMPHASIS = re.compile(r"(?<![^\W_])_|_(?![^\W_])")
"""What a chat may take for Markdown: a `_` that is not between two letters or digits."""

LISTED = 8
"""How many alerts a summary names: a message stays below 2,000 characters, the most that Discord accepts."""


class Alert(NamedTuple):
    """What is to be told about a record."""

    id: str
    text: str
    place: str
    read_at: float
    """In seconds, of a monotonic clock."""


def alert_of(source: TopicPartition, record: Record) -> Alert:
    """Return the alert that a record holds, about a ring or a single fraud. Raises ValueError if it holds none."""
    if record.problem:
        raise ValueError(record.problem)
    try:
        found = json.loads(str(record.value or b"", "utf-8"), parse_constant=str)
        is_fraud = found["rule"] == "amount"
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError("no alert in JSON") from None
    kinds = {"source": str, "amount": float} if is_fraud else {"sources": int, "sum": float, "first": int, "last": int}
    for name, kind in {"id": str, "rule": str, "target": str, "currency": str, **kinds}.items():
        if type(found.get(name)) not in ({float, int} if kind is float else {kind}):
            raise ValueError(f"no {name}")
    amount = f"{number(found['amount' if is_fraud else 'sum'])} {visible(found['currency'], 3)}"
    if is_fraud:
        text = f"Fraud: {visible(found['source'])} sent {amount} to {visible(found['target'])}"
    else:
        rule, lasted = visible(found["rule"], 20).capitalize(), duration(found["last"] - found["first"])
        text = f"{rule}: {number(found['sources'])} accounts sent {amount} to {visible(found['target'])} in {lasted}"
    place = f"{source.topic[:50]}[{source.partition}] offset {record.offset}"
    return Alert(visible(found["id"], 64), text, place, time.monotonic())


def message(alerts: Sequence[Alert]) -> tuple[str, str]:
    """Return the subject and the body of a message about these alerts: about one, or a summary."""
    lines = [f"{alert.text} (alert {alert.id})" for alert in alerts[:LISTED]]
    if len(alerts) == 1:
        return alerts[0].text, lines[0]
    if len(alerts) > LISTED:
        lines.append(f"And {len(alerts) - LISTED:,} more, from {alerts[LISTED].place} to {alerts[-1].place}")
    return f"{len(alerts):,} alerts", "\n".join(lines)


def visible(value: str, most: int = 40) -> str:
    """Return a value from a record as text that no receiver takes for markup, a link, a header or a command."""
    shown = "".join(char if char.isalnum() or char in " -_" else "\N{REPLACEMENT CHARACTER}" for char in value[:most])
    shown = EMPHASIS.sub("\N{REPLACEMENT CHARACTER}", shown)
    return shown + "…" * (len(value) > most)


def number(value: int | float) -> str:
    """Return a number for people: 50,000 or 916.93, and 1.00e+400 for one that nobody would read."""
    exact = Decimal(value)  # a large int is too large for a float
    return f"{exact:,.2f}".removesuffix(".00") if abs(exact) < 10**12 else f"{exact:.2e}"


def duration(milliseconds: int) -> str:
    """Return a time span for people, rounded up, in the largest unit that it is more than one of."""
    for size, unit in ((86_400_000, "days"), (3_600_000, "hours"), (60_000, "minutes"), (1000, "seconds")):
        if milliseconds > size:
            return f"{number(-(-milliseconds // size))} {unit}"
    return "1 second"
