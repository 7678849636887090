"""A redrive that is killed at random moments: each dead letter goes back once, while the detector is at work."""

import random
import time
from collections import Counter

from embedded import Cluster
from embedded.pipeline import Pipeline
from embedded.records import Record
from embedded.service import Service, wait_until

LETTERS, PARTITIONS = 15_000, 3
ATTEMPT = "__streams.redrive.attempt"


def test_each_goes_back_once_although_it_is_killed(cluster: Cluster, seed: int, rounds: int) -> None:
    """Killed as often as there are rounds, it continues; what the detector refuses again is left to another time."""
    pipeline = Pipeline(cluster.bootstrap_servers, partitions=PARTITIONS)
    pipeline.create(pipeline.transactions)
    values = [b"malformed %d ".ljust(3000, b".") % n for n in range(LETTERS)]
    pipeline.write(Record(value, partition=n % PARTITIONS) for n, value in enumerate(values))
    draw, kills = random.Random(seed), 0
    variables = pipeline.environ("detector", CONSUMER_GROUP=f"{pipeline.name}-redrive", WRITE="1")
    with pipeline.restarted("detector") as detector:
        pipeline.drain()
        for _ in range(rounds):
            before = pipeline.count(pipeline.transactions)
            with Service("redrive", variables | {"TRANSACTIONAL_ID": pipeline.name}) as job:
                moved = lambda: pipeline.count(pipeline.transactions) > before or job.process.poll() is not None  # noqa: B023, E731
                wait_until(moved, 120, lambda: job.log)
                time.sleep(draw.uniform(0, 0.3))
                kills += job.process.poll() is None
                job.process.kill()
        with Service("redrive", variables | {"TRANSACTIONAL_ID": pipeline.name}) as job:
            assert job.wait(240) == 0, job.log
            assert "staying=" in job.log
        pipeline.drain()
        assert detector.end() == 0
    assert kills, f"it was never killed at work, seed={seed}"
    found = Counter((r.value, dict(r.headers).get(ATTEMPT)) for r in pipeline.read(pipeline.transactions))
    expected = Counter((value, attempt) for value in values for attempt in (None, b"1"))
    doubled, lost = (found - expected).total(), (expected - found).total()
    assert (doubled, lost) == (0, 0), f"seed={seed}"
    dead = Counter(r.value for r in pipeline.read(pipeline.dead_letter))
    assert (len(dead), set(dead.values())) == (LETTERS, {2})
