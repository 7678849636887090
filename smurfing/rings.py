"""The rule against smurfing: many senders of the same amount to one receiver. State in memory, no Kafka.

A receiver's transfers are ordered by time, then by arrival. A transfer's count is the number of distinct sources in the
window up to it. Consecutive transfers whose counts reach the limit are a ring. A ring is reported when it appears and
no part of it was a ring before. docs/smurfing.md explains the consequences.
"""

from array import array
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

from smurfing.candidates import Transfer

HOUR_MS = 3_600_000
GRACE_MS = 24 * HOUR_MS
"""How much later than others a transfer may arrive and still be counted with all of its window."""

SWEEP_TRANSFERS = 10_000
"""Old transfers are dropped whenever this many have arrived, or as many as were kept, whichever is more."""

ARRIVAL_BITS = 40
"""A transfer's key is its time in ms, and in so many bits below, from 1 on, the number of its arrival."""
EVER = float("inf")


class Ring(NamedTuple):
    """The window up to a ring's first transfer: what is in it, and its first and last time, in ms since 1970."""

    sources: int
    transfers: int
    first: int
    last: int


class Receivers:
    """The receivers of a partition, each with its recent transfers."""

    def __init__(self, sources: int, window_ms: int) -> None:
        self.sources, self.window_ms = sources, window_ms
        self._few: dict[bytes, list[tuple[int, bytes]]] = {}  # with fewer transfers than a ring has, as they arrived
        self._many: dict[bytes, Receiver] = {}
        self._kept = 0  # transfers after the last sweep
        self._times = array("q")  # of those that have arrived since

    def add(self, transfer: Transfer, time: int) -> list[Ring]:
        """Add a transfer, and return the rings that it completes: at most one, unless it arrived late."""
        name, rings = transfer.target + transfer.currency.encode(), list[Ring]()
        if receiver := self._many.get(name):
            rings = receiver.add(time, transfer.source)
        else:
            few = self._few.setdefault(name, [])
            few.append((time, transfer.source))
            if len(few) == self.sources:
                receiver = self._many[name] = Receiver(self.sources, self.window_ms)
                for arrived in self._few.pop(name):
                    rings = receiver.add(*arrived)
        self._times.append(time)
        if len(self._times) >= max(SWEEP_TRANSFERS, self._kept):
            self._forget()
        return rings

    def _forget(self) -> None:
        # The median of the latest times counts as now: nothing is dropped too early unless half of them are wrong.
        oldest = sorted(self._times)[len(self._times) // 2] - self.window_ms - GRACE_MS
        for receiver in self._many.values():
            receiver.forget(oldest)
        self._many = {name: receiver for name, receiver in self._many.items() if receiver.transfers}
        left = ((name, [sent for sent in few if sent[0] >= oldest]) for name, few in self._few.items())
        self._few = {name: few for name, few in left if few}
        self._kept = sum(map(len, self._few.values())) + sum(len(r.transfers) for r in self._many.values())
        self._times = array("q")


class Receiver:
    """One with many transfers. A further one takes a time that grows with the sources of a ring, and the logarithm."""

    def __init__(self, sources: int, window_ms: int) -> None:
        self.sources, self.window = sources, window_ms << ARRIVAL_BITS
        self.transfers: list[int] = []  # the keys, in order
        self._spans: dict[bytes, list[tuple[int, int]]] = {}  # in order, from and up to where each source counts
        # How many count, up to the limit, and from where. No two in succession are equal, so that there are few: within
        # a window, a source below the limit begins to count once, and ends once.
        self._counts: list[tuple[float, int]] = [(-EVER, 0)]
        self._arrived = 0

    def add(self, time: int, source: bytes) -> list[Ring]:
        """Add a transfer, and return the rings that it completes."""
        self._arrived += 1
        key = (time << ARRIVAL_BITS) + self._arrived
        insort(self.transfers, key)
        start, end = self._extend(source, key, (time << ARRIVAL_BITS) + self.window)
        reached = self._count_one_more(start, end) if start < end else []
        return list(self._rings(reached))

    def forget(self, oldest: int) -> None:
        """Drop the transfers before this time."""
        oldest <<= ARRIVAL_BITS
        del self.transfers[: bisect_left(self.transfers, oldest)]
        at = bisect_right(self._counts, (oldest, EVER))
        self._counts[:at] = [(-EVER, 0), (oldest, self._counts[at - 1][1])]
        left = ((source, [span for span in spans if span[1] > oldest]) for source, spans in self._spans.items())
        self._spans = {source: spans for source, spans in left if spans}

    def _extend(self, source: bytes, start: int, end: int) -> tuple[int, int]:
        # Makes the source count in this span, and returns in which part of it it did not yet.
        spans = self._spans.setdefault(source, [])
        at = bisect_right(spans, (start,))
        first, last = start, end
        if at < len(spans) and spans[at][0] <= end:
            end, last = spans.pop(at)
        if at and spans[at - 1][1] >= start:
            at -= 1
            first, start = spans.pop(at)
        spans.insert(at, (first, max(last, start)))
        return start, end

    def _count_one_more(self, start: int, end: int) -> list[tuple[float, float]]:
        # Returns the spans in which that makes the limit be reached.
        counts, limit = self._counts, self.sources
        first, last = bisect_right(counts, (start, EVER)) - 1, bisect_left(counts, (end,))
        stretch = [(max(key, start), count) for key, count in counts[first:last]]
        raised = [(key, min(count + 1, limit)) for key, count in stretch]
        before = max(0, first - 1)
        changed = [*counts[before : first + 1], *raised, (end, stretch[-1][1]), *counts[last : last + 1]]
        changed = [*dict(changed).items()]  # of two at one place, the latter
        counts[before : last + 1] = changed[:1] + [
            step for step_before, step in pairwise(changed) if step[1] != step_before[1]
        ]
        ends = [*(key for key, _ in stretch[1:]), end]
        return [(key, until) for (key, count), until in zip(stretch, ends, strict=True) if count == limit - 1]

    def _is_reached(self, key: int) -> bool:
        return self._counts[bisect_right(self._counts, (key, EVER)) - 1][1] == self.sources

    def _rings(self, reached: Iterable[tuple[float, float]]) -> Iterator[Ring]:
        # Yields a ring for each run of transfers in these spans that adjoins no transfer already in a ring.
        keys = self.transfers
        runs: list[list[int]] = []
        for places in ([bisect_left(keys, key) for key in span] for span in reached):
            if runs and runs[-1][1] == places[0]:
                runs[-1][1] = places[1]
            elif places[0] < places[1]:
                runs.append(places)
        for first, after in runs:
            if not any(map(self._is_reached, keys[max(0, first - 1) : first] + keys[after : after + 1])):
                window = ((keys[first] >> ARRIVAL_BITS) + 1 << ARRIVAL_BITS) - self.window
                start = bisect_left(keys, window)
                # The limit is reached by one source more.
                yield Ring(self.sources, first + 1 - start, keys[start] >> ARRIVAL_BITS, keys[first] >> ARRIVAL_BITS)
