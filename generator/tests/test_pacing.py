"""The pace of transactions, on a clock that the test moves."""

import pytest

from generator.pacing import BURST_SECONDS, MAX_LAG_SECONDS, Pacer

UNLIMITED = float("inf")
MANY = 10**9


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now


def run(pacer: Pacer, clock: Clock, seconds: float, oversleep: float = 0.0) -> list[int]:
    """Do as the generator does: take what is due, pause, and again. Return the bursts."""
    bursts, end = [], clock.now + seconds
    while clock.now < end:
        bursts.append(pacer.due(MANY))
        clock.now += pacer.pause() + oversleep
    return bursts


@pytest.mark.parametrize("rate", [0.5, 1, 3, 7.7, 100, 1000, 15_000, 50_000])
def test_the_rate_asked_for_is_the_rate_delivered(rate: float) -> None:
    """Over ten minutes the count is the rate times the time, to within one burst."""
    clock = Clock()
    total = sum(run(Pacer(rate, clock), clock, 600))
    assert abs(total - rate * 600) <= 1 + rate * BURST_SECONDS


@pytest.mark.parametrize("rate", [0.5, 1000, 15_000])
def test_a_sleep_that_takes_longer_does_not_lower_the_rate(rate: float) -> None:
    """Each deadline counts from the start: 3 ms more for each sleep leave the rate as it is."""
    clock = Clock()
    total = sum(run(Pacer(rate, clock), clock, 600, oversleep=0.003))
    assert abs(total - rate * 600) <= 1 + rate * (BURST_SECONDS + 0.003)


def test_bursts_are_small() -> None:
    """At 1,000 a second there are forty every 40 ms, not a thousand every second."""
    clock = Clock()
    assert max(run(Pacer(1000, clock), clock, 10)) <= 41


def test_a_short_lag_is_made_up_for() -> None:
    """After half a second lost, the transactions of that time follow at once."""
    clock = Clock()
    pacer = Pacer(1000, clock)
    clock.now += 0.5
    assert pacer.due(MANY) == 500


def test_a_long_lag_is_dropped() -> None:
    """After an hour lost, no more than those of MAX_LAG_SECONDS follow, and then the usual rate."""
    clock = Clock()
    pacer = Pacer(1000, clock)
    clock.now += 3600
    assert pacer.due(MANY) == 1000 * MAX_LAG_SECONDS
    assert abs(sum(run(pacer, clock, 10)) - 10_000) <= 1 + 1000 * BURST_SECONDS


def test_the_lag_of_a_slow_rate_is_never_dropped() -> None:
    """One in a thousand seconds is due later than MAX_LAG_SECONDS, and comes all the same."""
    clock = Clock()
    assert sum(run(Pacer(0.001, clock), clock, 10_000)) in (9, 10)


def test_what_the_caller_has_no_room_for_stays_due() -> None:
    """With room for 10, ten of 100 come now and the others later."""
    clock = Clock()
    pacer = Pacer(1000, clock)
    clock.now += 0.1
    assert [pacer.due(10), pacer.due(0), pacer.due(MANY)] == [10, 0, 90]


def test_unlimited_hardly_pauses() -> None:
    """At an unlimited rate there is always something due, and time for the sending thread in between."""
    clock = Clock()
    pacer = Pacer(UNLIMITED, clock)
    assert pacer.due(MANY) > 0
    assert pacer.due(3) == 3
    assert 0 < pacer.pause() < 0.005
