"""What the page in the browser shows, and the events that keep it moving."""

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import Any

from demo.observer import EXPECTED_SHARE, Observer
from embedded.pipeline import ROUTES

ROW_COUNT = 300
"""How many seconds the charts show."""
INTERVAL_SECONDS = 0.5
IDLE_SECONDS = 30
"""After this long without a transaction, or ..."""
STUCK_SECONDS = 10
"""... without progress of a service although there is work, the page says so."""
STUCK = {
    "detector": "The detector commits nothing, and records wait for it",
    "smurfing": "The smurfing detector commits nothing, and frauds wait for it",
    "alerter": "The alerter commits nothing, and alerts wait for it",
}


class Page:
    """What every browser is shown: the newest figures, and some of them for each second of the last minutes."""

    def __init__(self, title: str) -> None:
        self.figures: dict[str, Any] = {"title": title, "expected_share": EXPECTED_SHARE, "started": time.time()}
        self.rows: deque[list[float | None]] = deque(maxlen=ROW_COUNT)
        self.row_count = 0
        """The number of all rows so far."""
        self.taken_at = 0.0
        self.streams = 0
        self.fail("Waiting for Kafka")

    def take(self, observer: Observer) -> None:
        """Copy the observer's figures, unless that was done a moment ago."""
        if time.monotonic() - self.taken_at < INTERVAL_SECONDS:
            return
        self.taken_at = time.monotonic()
        p50, p99 = observer.latency(50), observer.latency(99)
        rates = {name: observer.rate(name) for name in observer.topics}
        self.figures |= {
            "taken": time.time(),
            "problems": list(problems(observer)),
            "topics": [
                {"name": name, "topic": topic, "records": observer.counts[name], "rate": rates[name]}
                for name, topic in observer.topics.items()
            ],
            "share": observer.fraud_share,
            "lags": {name: group.lag for name, group in observer.groups.items()},
            "alert_count": observer.counts["alerts"],
            "p50": p50,
            "p99": p99,
            "skipped": observer.skipped,
            "last_skipped": observer.last_skipped,
            **{name: [{"at": at, **texts} for at, texts in reversed(seen)] for name, seen in observer.newest.items()},
        }
        self._add([observer.fraud_share * 100 or None, observer.lag, p50, p99, *rates.values()])

    def fail(self, text: str) -> None:
        """Say what is wrong, beside the last figures."""
        known = self.figures.get("problems") or [{}]
        since = known[0]["since"] if known[0].get("text") == text else time.time()
        self.figures |= {"problems": [{"text": text, "since": since}]}
        self._add([None] * (4 + 1 + len(ROUTES)))

    def _add(self, values: list[float | None]) -> None:
        now = time.time()
        if not self.rows or abs(now - (self.rows[-1][0] or 0)) >= 1:
            self.rows.append([now, *values])
            self.row_count += 1

    async def events(self) -> AsyncIterator[str]:
        """Yield the figures, and the rows that are new since the last time, as server-sent events without end."""
        sent = 0
        while True:
            # Nothing is kept for a client: one that is slow misses what was in between.
            count = self.row_count
            new = list(self.rows)[max(0, len(self.rows) - (count - sent)) :] if count > sent else []
            yield f"data: {json.dumps({**self.figures, 'is_first': not sent, 'rows': new})}\n\n"
            sent = count
            await asyncio.sleep(INTERVAL_SECONDS)


def problems(observer: Observer) -> Iterator[dict[str, Any]]:
    """Yield what is wrong with the pipeline, and since when (seconds since 1970)."""
    for text, moved_at, seconds in (
        *((f"There is no topic {topic}", since, 0) for topic, since in observer.missing.items()),
        *((STUCK[name], group.committed_at, STUCK_SECONDS) for name, group in observer.groups.items()),
        ("Nobody writes transactions", observer.written_at, IDLE_SECONDS),
    ):
        if time.monotonic() - moved_at > seconds:
            yield {"text": text, "since": round(time.time() - (time.monotonic() - moved_at))}
