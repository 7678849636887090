"""The generator when the broker is away: nothing lost, nothing twice, memory bounded, no burst afterwards."""

import re
import time
from collections import Counter
from pathlib import Path

import pytest

from embedded import Cluster, Line
from embedded.pipeline import Pipeline
from embedded.service import Service, wait_until


def delivered(generator: Service) -> int:
    """Return how many transactions the generator says it has delivered."""
    found = re.findall(r" delivered=(\d+)", generator.log)
    return int(found[-1]) if found else 0


def memory(generator: Service) -> int:
    """Return the memory in use, in MB."""
    status = Path(f"/proc/{generator.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) // 1024  # type: ignore[index]


def check(pipeline: Pipeline, generator: Service) -> list[int]:
    """Every record that was acknowledged is in the topic, once. Return the records' timestamps in milliseconds."""
    values = Counter(record.value for record in pipeline.read(pipeline.transactions))
    assert max(values.values()) == 1
    assert values.total() == delivered(generator)
    assert "not_delivered=0" in generator.log
    return sorted(record.timestamp or 0 for record in pipeline.read(pipeline.transactions))


@pytest.mark.parametrize(
    "how", ["stopped", *(pytest.param(how, marks=pytest.mark.long) for how in ("killed", "paused"))]
)
def test_broker_away(cluster: Cluster, pipeline: Pipeline, rounds: int, how: str) -> None:
    """The generator waits, and goes on at its rate; at most a second's worth is made up for in a burst."""
    broker, seconds = cluster.brokers[0], 60 if rounds > 1 else 5
    with pipeline.service("generator") as generator:
        wait_until(lambda: delivered(generator) > 0, 120)
        before = memory(generator)
        {"stopped": broker.stop, "killed": broker.kill, "paused": broker.pause}[how]()
        time.sleep(seconds)
        assert memory(generator) < before + 40
        if how == "paused":
            broker.resume()
        else:
            broker.start()
            broker.wait_ready()
        back = delivered(generator)
        wait_until(lambda: delivered(generator) > back + 2000, 120, lambda: generator.log)
        assert generator.stop() == 0
    stamps = check(pipeline, generator)
    # A record's timestamp is the time of its creation. Bursts: in no second more than the rate and what is made up for,
    # after the outage and, on a busy machine, after a moment without a processor. All that was missed would be 6,000.
    busiest = max(Counter(stamp // 1000 for stamp in stamps).values())
    assert busiest <= 3500


def test_the_limit_is_exact_through_a_restart(cluster: Cluster, pipeline: Pipeline) -> None:
    """TRANSACTIONS_LIMIT=N delivers exactly N, though the broker is restarted and then killed meanwhile."""
    broker = cluster.brokers[0]
    with pipeline.service("generator", TRANSACTIONS_PER_SECOND="2000", TRANSACTIONS_LIMIT="40000") as generator:
        wait_until(lambda: delivered(generator) > 0, 120)
        broker.restart()
        wait_until(lambda: delivered(generator) > 15_000, 120, lambda: generator.log)
        broker.kill()
        broker.start()
        broker.wait_ready()
        assert generator.wait(120) == 0
    assert len(check(pipeline, generator)) == 40_000


@pytest.mark.long
def test_an_outage_longer_than_the_client_waits(line: Line) -> None:
    """After two minutes it ends with exit code 1, and says how many were not delivered; a new one goes on."""
    with Cluster(line=line) as own:
        pipeline = Pipeline(own.bootstrap_servers)
        pipeline.create(pipeline.transactions)
        with pipeline.service("generator") as generator:
            wait_until(lambda: delivered(generator) > 0, 120)
            own.brokers[0].pause()
            assert generator.wait(240) == 1
            assert "transactions had no answer for two minutes: a restart begins anew" in generator.log
            assert re.search(r"Stopped: delivered=\d+ not_delivered=[1-9]", generator.log)
            assert "Traceback" not in generator.log
        own.brokers[0].resume()
        with pipeline.service("generator", TRANSACTIONS_LIMIT="1000") as generator:
            assert generator.wait(120) == 0
