"""The generator on a real broker: what it writes, how many, how fast, and how it ends."""

import re
import signal
from itertools import pairwise
from statistics import median

import pytest

from detector.rule import FRAUD, LEGIT, decide
from embedded import Cluster
from embedded.pipeline import Pipeline
from embedded.service import wait_until


def totals(log: str) -> tuple[int, int]:
    """Return what the last line says of delivered and undelivered transactions."""
    found = re.search(r"Stopped: delivered=(\d+) not_delivered=(\d+)\n$", log)
    assert found, log
    return int(found[1]), int(found[2])


def test_the_limit_is_delivered_exactly(pipeline: Pipeline) -> None:
    """It stops by itself after TRANSACTIONS_LIMIT, all acknowledged, with exit code 0; each is a valid transaction."""
    with pipeline.service("generator", TRANSACTIONS_PER_SECOND="unlimited", TRANSACTIONS_LIMIT="12345") as generator:
        assert generator.wait() == 0
        assert totals(generator.log) == (12_345, 0)
    values = [record.value for record in pipeline.read(pipeline.transactions)]
    assert len(values) == len(set(values)) == 12_345
    routes = [decide(value).route for value in values]
    assert routes.count(FRAUD) + routes.count(LEGIT) == 12_345
    assert 1_000 < routes.count(FRAUD) < 1_500


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(pipeline: Pipeline, number: signal.Signals) -> None:
    """It stops creating, waits for what is in flight, logs the totals, and ends with exit code 0."""
    with pipeline.service("generator") as generator:
        wait_until(lambda: pipeline.count(pipeline.transactions) > 0, 120)
        assert generator.stop(number) == 0
        delivered, lost = totals(generator.log)
    assert lost == 0
    assert delivered == len(pipeline.read(pipeline.transactions)) > 0


def test_the_rate_asked_for_is_the_rate_delivered(pipeline: Pipeline) -> None:
    """By the records' own timestamps, 2,000 take two seconds; with a sleep for each it would be some three.

    When the machine was busy with something else for a moment, the generator makes up for it.
    """
    with pipeline.service("generator", TRANSACTIONS_LIMIT="8000") as generator:
        assert generator.wait() == 0
    stamps = sorted(record.timestamp or 0 for record in pipeline.read(pipeline.transactions))
    assert median(stamps[n + 2000] - stamps[n] for n in range(0, 6000, 10)) == pytest.approx(2000, rel=0.1)


def test_a_slow_rate_is_kept_as_well(pipeline: Pipeline) -> None:
    """At 2.5 a second there are 400 milliseconds from one to the next."""
    with pipeline.service("generator", TRANSACTIONS_PER_SECOND="2.5", TRANSACTIONS_LIMIT="12") as generator:
        assert generator.wait() == 0
    stamps = [record.timestamp or 0 for record in pipeline.read(pipeline.transactions)]
    assert median(later - earlier for earlier, later in pairwise(stamps)) == pytest.approx(400, abs=100)


def refused(log: str) -> int:
    """Return how many transactions the log says could not be delivered."""
    return sum(map(int, re.findall(r"(\d+) transactions could not be delivered", log)))


def test_what_cannot_be_delivered_is_counted_and_logged(cluster: Cluster, pipeline: Pipeline) -> None:
    """A topic that takes no record of that size refuses them all: that is logged, counted, and exit code 1."""
    refusing = Pipeline(pipeline.broker_url)
    refusing.create(refusing.transactions, max_message_bytes="50")
    with refusing.service("generator") as generator:
        wait_until(lambda: refused(generator.log) > 100, 120)
        assert generator.stop() == 1
        delivered, lost = totals(generator.log)
        assert delivered == 0
        assert lost > 100
        assert "transactions could not be delivered" in generator.log
        assert "MessageSizeTooLargeError" in generator.log
    assert refusing.read(refusing.transactions) == []


def test_it_waits_when_too_much_is_in_flight(cluster: Cluster, pipeline: Pipeline) -> None:
    """While the broker does not answer, no more than 10,000 records wait in memory; afterwards none is lost."""
    with pipeline.service("generator", TRANSACTIONS_PER_SECOND="unlimited", TRANSACTIONS_LIMIT="100000") as generator:
        wait_until(lambda: pipeline.count(pipeline.transactions) > 0, 120)
        cluster.brokers[0].pause()
        try:
            generator.wait_for("in_flight=10000")
        finally:
            cluster.brokers[0].resume()
        assert generator.wait() == 0
        assert totals(generator.log) == (100_000, 0)
    assert len({record.value for record in pipeline.read(pipeline.transactions)}) == 100_000
