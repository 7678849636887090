"""The rule against smurfing, beside two other statements of it, and what is forgotten when."""

import sys
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ring_oracle import in_any_order
from smurfing import rings as module
from smurfing.candidates import Transfer
from smurfing.rings import GRACE_MS, Receivers, Ring

HOUR = 3_600_000
DAY = 24 * HOUR
Log = list[tuple[int, str]]


def transfer(source: str, target: str = "bob", currency: str = "EUR") -> Transfer:
    """Return what counts of a transfer."""
    return Transfer(source.encode(), target.encode(), currency)


def found(log: Log, sources: int, window: int) -> list[tuple[int, Ring]]:
    """Return what the state under test makes of a receiver's transfers: each ring, with the number of the record."""
    state = Receivers(sources, window)
    return [(n, ring) for n, (time, source) in enumerate(log) for ring in state.add(transfer(source), time)]


def in_order(log: Log, sources: int, window: int) -> list[int]:
    """State the rule for records in the order of their times: the numbers of those at which the limit is reached."""
    counts = [len({s for t, s in log[: n + 1] if t > time - window}) for n, (time, _) in enumerate(log)]
    return [n for n, count in enumerate(counts) if count >= sources and (n == 0 or counts[n - 1] < sources)]


LOGS = st.lists(st.tuples(st.integers(0, 30), st.sampled_from("abcdef")), max_size=40)


@settings(max_examples=600, deadline=None)
@given(LOGS, st.integers(2, 5), st.integers(1, 12))
def test_whatever_the_order_it_agrees_with_the_rule_stated_over_the_whole_log(
    log: Log, sources: int, window: int
) -> None:
    """Late, early and equal times, the same source again: rings, their figures and the moment are the oracle's."""
    assert found(log, sources, window) == in_any_order(log, sources, window)


@settings(max_examples=300, deadline=None)
@given(LOGS, st.integers(2, 5), st.integers(1, 12))
def test_in_order_it_is_the_usual_rule(log: Log, sources: int, window: int) -> None:
    """The count reaches the limit, and was below at the transfer before."""
    log.sort(key=lambda record: record[0])
    assert [n for n, _ in found(log, sources, window)] == in_order(log, sources, window)


@settings(max_examples=300, deadline=None)
@given(LOGS, st.data())
def test_no_order_hides_a_ring(log: Log, data: st.DataObject) -> None:
    """If there is a ring in one order, there is one in any other."""
    shuffled = data.draw(st.permutations(log))
    assert bool(found(log, 4, 10)) == bool(found(shuffled, 4, 10))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 8), st.sampled_from("abcdef")), max_size=60))
def test_forgetting_changes_nothing_within_the_grace(log: list[tuple[int, int, str]]) -> None:
    """With times up to a day late, in a stream of many days, what is forgotten was of no more use."""
    late = [
        (4 * HOUR * day - 3 * HOUR * late, source) for day, late, source in sorted(log, key=lambda record: record[0])
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SWEEP_TRANSFERS", 2)
        assert found(late, 4, DAY) == in_any_order(late, 4, DAY)


def ring_of(count: int, start: int = 0, step: int = HOUR // 4) -> Log:
    """Return transfers from so many accounts, at intervals."""
    return [(start + n * step, f"account {n}") for n in range(count)]


def test_the_tutorials_example() -> None:
    """50 accounts within a day are a ring, 49 are none; it is told once, until it was below."""
    assert found(ring_of(49), 50, DAY) == []
    assert found(ring_of(50), 50, DAY) == [(49, Ring(50, 50, 0, 49 * HOUR // 4))]
    assert len(found(ring_of(90), 50, DAY)) == 1
    assert [n for n, _ in found(ring_of(60) + ring_of(60, start=3 * DAY), 50, DAY)] == [49, 109]


def test_the_window_is_open_at_its_old_end() -> None:
    """What is exactly 24 hours old does not count any more; a millisecond less, and it does."""
    assert found([(0, "a"), (DAY, "b")], 2, DAY) == []
    assert found([(1, "a"), (DAY, "b")], 2, DAY) == [(1, Ring(2, 2, 1, DAY))]


def test_the_same_source_counts_once_and_its_transfers_are_in_the_sum() -> None:
    """A source may send as often as it likes, and may be the receiver itself."""
    assert found([(n, "a") for n in range(100)], 2, DAY) == []
    assert found([(0, "a"), (1, "a"), (2, "bob")], 2, DAY) == [(2, Ring(2, 3, 0, 2))]


def test_late_early_and_equal_times() -> None:
    """A late transfer completes its ring; an early one is a matter of its own time; at one time all count."""
    assert found([(3, "a"), (1, "b"), (2, "c")], 3, DAY) == [(2, Ring(3, 3, 1, 3))]
    assert found([(1, "a"), (9 * DAY, "b"), (2, "c"), (3, "d")], 3, DAY) == [(3, Ring(3, 3, 1, 3))]
    assert found([(5, "a"), (5, "b"), (5, "c")], 3, DAY) == [(2, Ring(3, 3, 5, 5))]
    assert found([(-5, "a"), (2**63 - 1, "b"), (-(2**63), "c")], 2, DAY) == []


def test_receivers_and_currencies_count_each_by_itself() -> None:
    """Neither another receiver's transfers nor those in another currency complete a ring."""
    state = Receivers(2, DAY)
    assert not state.add(transfer("a"), 0)
    assert not state.add(transfer("b", currency="USD"), 0)
    assert not state.add(transfer("b", target="bobUSD", currency="EUR"), 0)
    assert state.add(transfer("b"), 0)
    long = "b" * 100_000
    assert not state.add(transfer("a", target=long), 0)
    assert not state.add(transfer("c", target=long + "b"), 0)
    assert state.add(transfer("c", target=long), 0)


def test_what_is_old_is_forgotten_and_the_far_future_makes_nobody_forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Receivers go a window and a grace after their last transfer; a third of all times may be wrong."""
    monkeypatch.setattr(module, "SWEEP_TRANSFERS", 100)
    state = Receivers(3, DAY)
    for n in range(20_000):
        wrong = n % 3 == 2
        state.add(transfer("a", f"receiver {n}"), 10**14 + n if wrong else n * HOUR)
    kept = [transfers for transfers in state._few.values() if transfers[-1][0] < 10**14]
    oldest = min(transfers[0][0] for transfers in kept)
    # Between two sweeps as many come as are there: the median is half of these behind.
    assert len(kept) < 20_000
    assert 0 < oldest < 20_000 * HOUR - DAY - GRACE_MS
    monkeypatch.setattr(module, "SWEEP_TRANSFERS", 1)
    state = Receivers(3, DAY)
    for n in range(1000):
        state.add(transfer("a", f"receiver {n}"), n * HOUR)
    assert len(state._few) < 4 * 48
    assert not state.add(transfer("b", "receiver 0"), 1)
    assert not state.add(transfer("c", "receiver 0"), 2)


ORDERS = {
    "ascending": lambda n: (n, n),
    "descending": lambda n: (-n, n),
    "descending, of few sources": lambda n: (-n, n % 7),
    "descending, over many windows": lambda n: (-n * DAY // 20, n),
    "shuffled": lambda n: (n * 7919 % 10_007, n),
    "shuffled, over many windows": lambda n: (n * 7919 % 10_007 * HOUR // 40, n % 1009),
    "at one time": lambda n: (0, n),
    "a source that goes on after all others": lambda n: (n, min(n, 30)),
    "two ends that approach each other": lambda n: ((-1) ** n * (10_000 - n), n),
}


@pytest.mark.long
@pytest.mark.parametrize("order", ORDERS)
def test_a_transfer_costs_the_same_however_many_there_are(order: str) -> None:
    """In any order of the times, four times as many transfers to one receiver take four times the instructions."""

    def instructions(count: int) -> int:
        state, executed = Receivers(20, DAY), 0

        def trace(frame: Any, event: str, _: object) -> Any:
            nonlocal executed
            frame.f_trace_opcodes = True
            executed += event == "opcode"
            return trace

        sys.settrace(trace)
        try:
            for n in range(count):
                when, source = ORDERS[order](n)
                state.add(transfer(str(source)), when)
        finally:
            sys.settrace(None)
        return executed

    assert instructions(1600) < 4.4 * instructions(400)


@pytest.mark.long
def test_a_million_candidates_in_400_mb() -> None:
    """Measured with a fiftieth of them, each with a receiver of its own, which takes most."""
    tracemalloc.start()
    state = Receivers(50, DAY)
    for n in range(20_000):
        state.add(transfer(f"source {n:05}", f"target {n:05}"), 1_700_000_000_000 + n)
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    print(f"{used / 20_000:.0f} bytes a candidate")
    assert used < 20_000 * 400
