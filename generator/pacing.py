"""The pace of the transactions: a fixed rate, without drift."""

import time
from collections.abc import Callable

BURST_SECONDS = 0.04
"""The time between two bursts at high rates. A burst's request and response cost more CPU time than
twenty transactions, and the detector commits after each: six requests, however few records there are."""

MAX_LAG_SECONDS = 1.0
"""How much lost time (a slow broker, a busy machine) is made up for; the rest is dropped."""

UNLIMITED_BURST = 500


class Pacer:
    """Says how many transactions are due. Each has a deadline of its own: one that is late delays no other.

    The rate is in transactions per second, float("inf") for as many as possible; the clock is in seconds.
    """

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self.clock = clock
        self.start = clock()
        self.released = 0

    def due(self, capacity: int) -> int:
        """Return how many transactions to create now, at most `capacity`; the others stay due."""
        if self.rate == float("inf"):
            return min(capacity, UNLIMITED_BURST)
        behind = (self.clock() - self.start) * self.rate - self.released
        limit = max(1.0, self.rate * MAX_LAG_SECONDS)
        if behind > limit:
            self.start += (behind - limit) / self.rate
            behind = limit
        count = min(capacity, int(behind))
        self.released += count
        return count

    def pause(self) -> float:
        """Return how many seconds to sleep."""
        if self.rate == float("inf"):
            return 0.001  # lets the client's sending thread work
        next_deadline = self.start + (self.released + 1) / self.rate
        return max(BURST_SECONDS, next_deadline - self.clock())
