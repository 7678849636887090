"""A candidate from a cold start on: when its records are fresh, then how old they are, and at what cost."""

import re
import time
from collections.abc import Callable
from contextlib import closing

from kafka import KafkaConsumer

from bench.candidates import Candidate
from bench.inputs import Sums, sums
from bench.machine import Meter
from bench.rounds import Figures, Row, in_turns
from embedded import Cluster
from embedded.brokers import HOST
from embedded.cluster import free_ports
from embedded.pipeline import Pipeline
from embedded.records import Record
from embedded.service import Restarted

FRESH_SECONDS, STEADY_SECONDS, WAIT_SECONDS = 0.2, 3, 60
"""A cold start is over when no record that is read has been older, for so long; or when that takes too long."""


class Arrivals:
    """Reads what comes out of a pipeline, and notes when."""

    def __init__(self, pipeline: Pipeline, candidate: Candidate) -> None:
        self.times: list[tuple[float, float]] = []
        """When each record was created, and when it was read, in seconds since 1970."""
        self.stale_at = time.time()
        """The last moment at which nothing had been read yet, or a record was read that was not fresh."""
        self._pipeline, self._candidate, self._found = pipeline, candidate, Sums(candidate)
        self.consumer = KafkaConsumer(
            bootstrap_servers=pipeline.broker_url,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            max_poll_records=10_000,
            metadata_max_age_ms=200,  # how soon it finds a topic that is new
            fetch_max_wait_ms=50,  # the client may ask for the dead letters alone, and there are none
        )
        self.consumer.subscribe(pattern=f"^({'|'.join(map(re.escape, pipeline.outputs))})$")  # names create topics

    def read_until(self, is_over: Callable[[], bool]) -> None:
        """Read until something is over. Raises TimeoutError."""
        routes = {topic: route for route, topic in self._pipeline.routes.items()}
        deadline = time.monotonic() + WAIT_SECONDS
        while not is_over():
            batches = self.consumer.poll(50)
            now = time.time()
            self.stale_at = self.stale_at if self.times else now
            for partition, batch in batches.items():
                deadline = time.monotonic() + WAIT_SECONDS
                self._found.add(map(Record.of, batch), routes[partition.topic])
                self.times += [(record.timestamp / 1000, now) for record in batch]
                if now - min(record.timestamp for record in batch) / 1000 > FRESH_SECONDS:
                    self.stale_at = now
            if time.monotonic() > deadline:
                raise TimeoutError(f"no more than {len(self.times)} records came")

    def are_steady(self, begun: float) -> bool:
        """Return whether what has been read for a while was fresh. A minute after `begun` it need not be fresh."""
        now = time.time()
        is_flowing = len(self.times) > 0 and now - self.times[-1][1] < 1
        return is_flowing and (now - begun > WAIT_SECONDS or now - self.stale_at > STEADY_SECONDS)

    def complete(self) -> None:
        """Read until all of the input is there. Raises RuntimeError if anything is wrong."""
        expected = sums(self._pipeline, self._candidate)
        self.read_until(lambda: len(self.times) >= sum(expected.counts.values()))
        self._found.check(expected)


def measure(candidates: list[Candidate], rounds: int, seconds: int, rate: int, warm_up: int) -> tuple[Row, list[Row]]:
    """Return the settings and a row for each candidate, at `rate` records a second for so many seconds.

    Between the cold start and these lies the warm-up, in seconds as well: Java compiles what it runs often.
    """

    def one(candidate: Candidate) -> Figures:
        (port,) = free_ports(1)
        pipeline, started = Pipeline(f"{HOST}:{port}"), time.time()
        with (
            Restarted(lambda: candidate.start(pipeline, TUNING="latency")) as restarted,
            pipeline.service("generator", TRANSACTIONS_PER_SECOND=str(rate)) as generator,
            Cluster(port=port, config={"num.partitions": "1"}),
            closing((arrivals := Arrivals(pipeline, candidate)).consumer),
        ):
            arrivals.read_until(lambda: arrivals.are_steady(started))
            cold_seconds = arrivals.stale_at - started
            begin = time.time() + warm_up
            arrivals.read_until(lambda: time.time() >= begin)
            meters = Meter(restarted.service), Meter(generator)
            before = [meter.read().cpu_seconds for meter in meters]
            arrivals.read_until(lambda: time.time() >= begin + seconds)
            cpu = [meter.read().cpu_seconds - earlier for meter, earlier in zip(meters, before, strict=True)]
            generator.stop()
            arrivals.complete()
        ages = sorted((read - made) * 1000 for made, read in arrivals.times if begin <= made < begin + seconds)
        return {
            **{f"p{percent}_ms": ages[len(ages) * percent // 100] for percent in (50, 90, 99)},
            "max_ms": ages[-1],
            "cpu_percent": cpu[0] / seconds * 100,
            "generator_cpu_percent": cpu[1] / seconds * 100,
            "cold_seconds": cold_seconds,
            "starts": 1 + len(restarted.exit_codes),
        }

    rows = in_turns(candidates, rounds, one)
    return {"seconds": seconds, "rate": rate, "warm_up": warm_up, "fresh": FRESH_SECONDS, "rounds": rounds}, rows
