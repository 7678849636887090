"""The pace at which transactions come: so many a second, without drift."""

import time
from collections.abc import Callable

BURST_SECONDS = 0.005
"""How often a burst is due at high rates; shorter sleeps would cost more than they spread."""

MAX_LAG_SECONDS = 1.0
"""How much time lost (a slow broker, a busy machine) is made up for; what is beyond is forgiven."""

UNLIMITED_BURST = 500


class Pacer:
    """Says how many transactions are due, by a deadline for each: one that is late makes no other late.

    The rate is in transactions a second, float("inf") for as many as possible; the clock is in seconds.
    """

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self.clock = clock
        self.start = clock()
        self.released = 0

    def due(self, most: int) -> int:
        """Return how many transactions are due, at most so many: the caller creates them, the others stay due.

        Never more than those of MAX_LAG_SECONDS (or one) at a time.
        """
        if self.rate == float("inf"):
            return min(most, UNLIMITED_BURST)
        behind = (self.clock() - self.start) * self.rate - self.released
        limit = max(1.0, self.rate * MAX_LAG_SECONDS)
        if behind > limit:
            self.start += (behind - limit) / self.rate
            behind = limit
        count = min(most, int(behind))
        self.released += count
        return count

    def pause(self) -> float:
        """Return for how many seconds nothing is due."""
        if self.rate == float("inf"):
            return 0.0
        next_deadline = self.start + (self.released + 1) / self.rate
        return max(BURST_SECONDS, next_deadline - self.clock())
