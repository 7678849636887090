"""What people are told about a record: plain text of bounded length, whatever the record holds."""

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from kafka import TopicPartition

from exactly_once import Record

LISTED = 8
"""How many alerts a summary names: a message stays below 2,000 characters, the most that Discord accepts."""


class Alert(NamedTuple):
    """What is to be told about a record."""

    id: str
    text: str
    place: str


def alert_of(source: TopicPartition, record: Record, least_fraud: float | None) -> Alert | None:
    """Return the alert for a record, or None for a fraud of less than this amount. Raises ValueError for anything else.

    Without an amount the source has alerts, else frauds.
    """
    place = f"{source.topic}[{source.partition}] offset {record.offset}"
    if record.problem:
        raise ValueError(record.problem)
    if least_fraud is None:
        fields = members(
            record.value, id=str, rule=str, target=str, sources=int, sum=float, currency=str, first=int, last=int
        )
        amount, currency = number(fields["sum"]), visible(fields["currency"], 3)
        text = (
            f"{visible(fields['rule'], 20).capitalize()}: {number(fields['sources'])} accounts sent {amount} {currency}"
            f" to {visible(fields['target'])} in {duration(fields['last'] - fields['first'])}"
        )
        return Alert(visible(fields["id"], 64), text, place)
    fields = members(record.value, source=str, target=str, amount=float, currency=str)
    if fields["amount"] < least_fraud:
        return None
    amount, currency = number(fields["amount"]), visible(fields["currency"], 3)
    text = f"Fraud: {visible(fields['source'])} sent {amount} {currency} to {visible(fields['target'])}"
    return Alert(f"fraud-{source.partition}-{record.offset}", text, place)


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


def members(value: memoryview | None, **kinds: type) -> dict[str, Any]:
    """Return the members of the JSON object in the value. Raises ValueError if one is missing or of another kind."""
    try:
        found = json.loads(str(value or b"", "utf-8"), parse_constant=str)
        wrong = [
            name for name, kind in kinds.items() if type(found[name]) not in ({float, int} if kind is float else {kind})
        ]
    except (ValueError, TypeError, KeyError, RecursionError):
        wrong = list(kinds)
    if wrong:
        raise ValueError(f"no {', '.join(wrong)}")
    return dict(found)
