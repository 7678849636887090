"""What the demo shows: a live view in a terminal, a plain line a second elsewhere."""

import time
from collections.abc import Callable

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table

from demo.observer import Observer

EXPECTED_SHARE = 10_001 / 99_901
"""Of the amounts from 1.00 to 1000.00, in cents, those of 900 and more."""


def render(observer: Observer, title: str) -> RenderableType:
    """Return the live view."""
    topics = Table(title=title, title_justify="left", expand=False)
    topics.add_column("topic")
    topics.add_column("records", justify="right")
    topics.add_column("per second", justify="right")
    for role, topic in observer.topics.items():
        style = {"fraud": "red", "dead_letter": "yellow"}.get(role)
        topics.add_row(topic, f"{observer.counts[role]:,}", f"{observer.rate(role):,.1f}", style=style)
    facts = Table.grid(padding=(0, 2))
    facts.add_row("fraud", f"{observer.fraud_share:.2%}, expected {EXPECTED_SHARE:.2%}")
    facts.add_row("detector lag", f"{observer.lag:,} records")
    facts.add_row(
        "latency", f"p50 {observer.latency(50):.0f} ms, p99 {observer.latency(99):.0f} ms, from creation to output"
    )
    frauds = Table.grid(padding=(0, 2))
    for fraud in reversed(observer.frauds):
        frauds.add_row(fraud["source"], "→", fraud["target"], f"[red]{fraud['amount']:.2f}[/] {fraud['currency']}")
    return Group(topics, Columns([Panel(facts, title="now"), Panel(frauds, title="newest frauds")]))


def line(observer: Observer) -> str:
    """Return the same in a line."""
    counts = " ".join(f"{role}={observer.counts[role]}" for role in observer.topics)
    return (
        f"{counts} rate={observer.rate('transactions'):.0f}/s fraud={observer.fraud_share:.2%} lag={observer.lag}"
        f" p50={observer.latency(50):.0f}ms p99={observer.latency(99):.0f}ms"
    )


def watch(observer: Observer, console: Console, title: str, tick: Callable[[], bool]) -> None:
    """Show the view until tick, called several times a second, returns False."""
    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            while tick():
                observer.poll(0.25)
                live.update(render(observer, title), refresh=True)
        return
    shown = time.monotonic()
    while tick():
        observer.poll(0.25)
        if time.monotonic() - shown >= 1:
            shown = time.monotonic()
            console.out(line(observer), highlight=False)
