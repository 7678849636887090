"""The rule against smurfing: many senders of the same amount to one receiver. State in memory, no Kafka.

A receiver's transfers are ordered by time, then by arrival. A transfer's count is the number of distinct sources in the
window up to it. Consecutive transfers whose counts reach the limit are a ring. A ring is reported when it appears and
no part of it was a ring before. docs/smurfing.md explains the consequences.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from hashlib import sha256
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from detector.rule import InvalidTransaction, parse

HOUR_MS = 3_600_000
GRACE_MS = 24 * HOUR_MS
"""How much later than others a transfer may arrive and still be counted with all of its window."""

SWEEP_TRANSFERS = 10_000
"""Old transfers are dropped whenever this many have arrived, or as many as were kept, whichever is more."""

MAX_NAME_BYTES = 256
"""A longer account name is replaced by its hash, so that names take bounded memory."""

_Transfers = list[tuple[int, bytes, bool]]  # of one receiver: the time, the source, and whether it is in a ring
TIME = itemgetter(0)


class Transfer(NamedTuple):
    """What the rule needs of a transaction that has the rule's amount."""

    source: bytes
    target: bytes
    currency: str  # in capitals


class Ring(NamedTuple):
    """The window up to a ring's first transfer: what is in it, and its first and last time, in ms since 1970."""

    sources: int
    transfers: int
    first: int
    last: int


def parse_transfer(value: bytes | memoryview | None, amount: float) -> Transfer | None:
    """Return the transfer that a record's value holds, or None if it holds none of exactly this amount."""
    try:
        transaction = parse(value)
    except InvalidTransaction:
        return None
    if transaction["amount"] != amount:
        return None
    return Transfer(_name(transaction["source"]), _name(transaction["target"]), transaction["currency"].upper())


def _name(account: str) -> bytes:
    name = account.encode("utf-8", "surrogatepass")  # JSON can escape half a character
    return name if len(name) <= MAX_NAME_BYTES else b"sha256:" + sha256(name).hexdigest().encode()


class Receivers:
    """The receivers of a partition, each with its recent transfers."""

    def __init__(self, sources: int, window_ms: int) -> None:
        self.sources, self.window_ms = sources, window_ms
        self._receivers: dict[bytes, _Transfers] = {}
        self._kept = 0  # transfers after the last sweep
        self._times = array("q")  # of those that have arrived since

    def add(self, transfer: Transfer, time: int) -> list[Ring]:
        """Add a transfer, and return the rings that it completes: at most one, unless it arrived late."""
        transfers = self._receivers.setdefault(transfer.target + transfer.currency.encode(), [])
        at = bisect_right(transfers, time, key=TIME)
        transfers.insert(at, (time, transfer.source, False))
        reached = self._reached(transfers, at)
        rings = list(self._rings(transfers, reached))
        for i in reached:
            transfers[i] = (*transfers[i][:2], True)
        self._times.append(time)
        if len(self._times) >= max(SWEEP_TRANSFERS, self._kept):
            self._forget()
        return rings

    def _reached(self, transfers: _Transfers, at: int) -> list[int]:
        # Returns, in order, the places where a new transfer makes the count reach the limit. Only its own count and
        # those of later transfers change, the latter only if its source is not in the window yet.
        time, source, _ = transfers[at]
        is_below = at > 0 and not transfers[at - 1][2]
        seen, own_before = {source}, time - self.window_ms
        for i in range(at - 1, -1, -1):
            earlier, other, _ = transfers[i]
            if earlier <= time - self.window_ms or len(seen) == self.sources:
                break
            seen.add(other)
            if other == source:
                own_before = max(own_before, earlier)
                if is_below:  # its count is at most the previous one's, so below the limit
                    break
        reached = [at] if len(seen) == self.sources else []
        below = []
        for i in range(at + 1, len(transfers)):
            later, other, is_part = transfers[i]
            if later >= time + self.window_ms or other == source:
                break
            if not is_part and later >= own_before + self.window_ms:
                below.append(i)
        return reached + [i for i in self._counts_reached(transfers, below) if not transfers[i][2]]

    def _counts_reached(self, transfers: _Transfers, places: list[int]) -> Iterator[int]:
        # Moves the window from the first to the last of the places, and yields those whose count reaches the limit.
        newest: OrderedDict[bytes, int] = OrderedDict()  # per source in the window, the time of its last transfer
        start = bisect_right(transfers, transfers[places[0]][0] - self.window_ms, key=TIME) if places else 0
        for i in range(start, places[-1] + 1 if places else 0):
            time, source, _ = transfers[i]
            newest[source] = time
            newest.move_to_end(source)
            while newest[next(iter(newest))] <= time - self.window_ms:
                newest.popitem(last=False)
            if i >= places[0] and len(newest) >= self.sources:
                yield i

    def _rings(self, transfers: _Transfers, reached: list[int]) -> Iterator[Ring]:
        # Yields a ring for each run of these places that adjoins no transfer already in a ring.
        for _, run in groupby(enumerate(reached), lambda numbered: numbered[1] - numbered[0]):
            places = [place for _, place in run]
            beside = transfers[places[0] - 1 : places[0]] + transfers[places[-1] + 1 : places[-1] + 2]
            if not any(is_part for _, _, is_part in beside):
                last = transfers[places[0]][0]
                window = transfers[bisect_right(transfers, last - self.window_ms, key=TIME) : places[0] + 1]
                yield Ring(len({source for _, source, _ in window}), len(window), window[0][0], last)

    def _forget(self) -> None:
        # The median of the latest times counts as now: nothing is dropped too early unless half of them are wrong.
        oldest = sorted(self._times)[len(self._times) // 2] - self.window_ms - GRACE_MS
        for receiver, transfers in list(self._receivers.items()):
            del transfers[: bisect_left(transfers, oldest, key=TIME)]
            if not transfers:
                del self._receivers[receiver]
        self._kept = sum(map(len, self._receivers.values()))
        self._times = array("q")
