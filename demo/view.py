"""What the demo shows: a live view in a terminal, a plain line a second elsewhere."""

import time
from collections.abc import Callable
from contextlib import nullcontext

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from demo.observer import EXPECTED_SHARE, Observer
from demo.text import visible
from embedded.server import uninterrupted

REFRESH_SECONDS = 0.3
"""Between two pictures of the live view, which may have to travel: each is 3 to 5 kB."""
STYLES = {"fraud": "red", "dead_letter": "yellow"}


def render(observer: Observer, title: str) -> RenderableType:
    """Return the live view."""
    topics = Table(title=Text(visible(title, 100)), title_justify="left", expand=False)
    topics.add_column("topic")
    topics.add_column("records", justify="right")
    topics.add_column("per second", justify="right")
    for name, topic in observer.topics.items():
        rate = observer.rate(name)
        topics.add_row(topic, f"{observer.counts[name]:,}", f"{rate:,.1f}", style=STYLES.get(name))
    facts = Table.grid(padding=(0, 2))
    facts.add_row("fraud", f"{observer.fraud_share:.2%}, expected {EXPECTED_SHARE:.2%}")
    facts.add_row("detector lag", f"{observer.lag:,} records")
    facts.add_row(
        "latency", f"p50 {observer.latency(50):.0f} ms, p99 {observer.latency(99):.0f} ms, from creation to output"
    )
    for name, what in (("smurfing", "frauds"), ("alerter", "alerts")):
        if name in observer.groups:
            facts.add_row(f"{name} lag", f"{observer.groups[name].lag:,} {what}")
    frauds = Table.grid(padding=(0, 2))
    for fraud in reversed(observer.newest["fraud"]):
        source, target, amount, currency = map(Text, fraud.texts.values())
        amount.stylize(STYLES["fraud"])
        frauds.add_row(source, "→", target, amount, currency)
    alerts = [
        Text(f"{told['sources']} accounts sent {told['sum']} {told['currency']} to {told['target']}", STYLES["fraud"])
        for told in (seen.texts for seen in reversed(observer.newest["alerts"]))
        if {"sources", "sum", "currency", "target"} <= set(told)
    ]
    return Group(
        topics,
        *([Text(f"skipped: {observer.skipped:,}, the last in {observer.last_skipped}")] if observer.skipped else []),
        *([Panel(Group(*alerts), title="alerts")] if alerts else []),
        Columns([Panel(facts, title="now"), Panel(frauds, title="newest frauds")]),
    )


def line(observer: Observer) -> str:
    """Return the same in a line."""
    counts = " ".join(f"{name}={observer.counts[name]}" for name in observer.topics)
    return (
        f"{counts} rate={observer.rate('transactions'):.0f}/s fraud={observer.fraud_share:.2%} lag={observer.lag}"
        f" p50={observer.latency(50):.0f}ms p99={observer.latency(99):.0f}ms"
    )


def watch(observer: Observer, console: Console, title: str, tick: Callable[[], bool]) -> None:
    """Show the view until tick, called several times a second, returns False."""
    # Ctrl-C inside the client's poll would leave the client unusable, in an endless loop.
    with Live(console=console, auto_refresh=False) if console.is_interactive else nullcontext() as live:
        shown = time.monotonic()
        while tick():
            uninterrupted(lambda: observer.poll(0.25))
            if time.monotonic() - shown >= (REFRESH_SECONDS if live else 1):
                shown = time.monotonic()
                if live:
                    live.update(render(observer, title), refresh=True)
                else:
                    console.out(line(observer), highlight=False)
