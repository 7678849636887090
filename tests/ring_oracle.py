"""The rule against smurfing, stated once more."""

from collections.abc import Sequence
from itertools import groupby


def in_any_order(log: Sequence[tuple[int, str]], sources: int, window: int) -> list[tuple[int, tuple[int, ...]]]:
    """Look at all that is there after each transfer to one receiver; a transfer is its time and its source.

    Each ring comes with the number of the transfer that completed it: how many sources and transfers are in the window
    up to its first transfer, and the first and the last time of that window.
    """
    rings, told, known = [], set(), []
    for n, (time, source) in enumerate(log):
        known = sorted([*known, (time, n, source)])
        windows = {t: [o for o in known if o[0] > t[0] - window and o <= t] for t in known}
        counts = {t: len({source for _, _, source in windows[t]}) for t in known}
        for is_ring, run in groupby(known, lambda t: counts[t] >= sources):  # noqa: B023
            if is_ring and told.isdisjoint(ring := list(run)):
                first = ring[0]
                rings.append((n, (counts[first], len(windows[first]), windows[first][0][0], first[0])))
        told |= {t for t in known if counts[t] >= sources}
    return rings
