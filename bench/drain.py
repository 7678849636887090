"""Watches instances of a candidate drain a full topic, and says how fast they were once they were under way.

Every POLL_SECONDS the ends of the outputs are asked for, as a reader of committed records sees them. The steady rate is
taken from the first sample that had records in it to the first that had all: the records committed in between, by the
time in between. So nobody's start-up counts, nor how large the first commit is. Markers are told from records later.
"""

import time
from array import array
from bisect import bisect_left
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import NamedTuple

from kafka import KafkaConsumer, TopicPartition

from bench.candidates import Candidate
from bench.inputs import Sums, fill, sums
from bench.machine import Meter, Usage
from bench.rounds import Figures, Row, in_turns
from embedded import Cluster
from embedded.pipeline import Pipeline
from embedded.records import stream

POLL_SECONDS = 0.02
QUIET_SECONDS = 2.0
"""A drain is over when nothing has arrived for this long: longer than any candidate's commit interval."""


class Sample(NamedTuple):
    """How far a drain was, at a moment on the monotonic clock, and what its processes had used."""

    seconds: float
    ends: dict[TopicPartition, int]
    """The offset after the last committed record or marker."""
    usage: Usage


class Drain(ExitStack):
    """Instances of a candidate that drain a topic, for a `with` block."""

    def __init__(self, candidate: Candidate, pipeline: Pipeline, instances: int = 1, seconds: float = 900) -> None:
        """Create the outputs, so that no candidate spends time on it, and start the instances, which have `seconds`."""
        super().__init__()
        pipeline.create(*pipeline.outputs)
        self.pipeline = pipeline
        self.samples: list[Sample] = []
        self.peak_mb = 0.0
        self.found = Sums(candidate)
        self.offsets = {TopicPartition(t, p): array("q") for t in pipeline.outputs for p in range(pipeline.partitions)}
        """The offsets of the records in each output partition, once the drain is complete."""
        self.deadline = time.monotonic() + seconds
        consumer = KafkaConsumer(bootstrap_servers=pipeline.broker_url, isolation_level="read_committed")
        self.consumer = self.enter_context(closing(consumer))
        self.instances = [self.enter_context(candidate.start(pipeline, number)) for number in range(instances)]
        self.meter = Meter(*self.instances)

    def ends(self) -> dict[TopicPartition, int]:
        """Return the offset after the last committed record or marker of each output partition."""
        ends: dict[TopicPartition, int] = self.consumer.end_offsets(list(self.offsets))
        return ends

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Take samples until the condition holds. Raises ServiceError if an instance ends, and TimeoutError."""
        while not condition():
            ends, now, usage = self.ends(), time.monotonic(), self.meter.read()
            self.peak_mb = max(self.peak_mb, usage.memory_mb)
            if not self.samples or ends != self.samples[-1].ends:
                self.samples.append(Sample(now, ends, usage))
            if now > self.deadline:
                raise TimeoutError(f"not done in time: the outputs have {sum(ends.values())} offsets")
            for instance in self.instances:
                instance.check()
            time.sleep(POLL_SECONDS)

    def complete(self, expected: Sums) -> None:
        """Wait until nothing more comes, and look every record up. Raises RuntimeError if anything is wrong."""
        records = sum(expected.counts.values())

        def is_quiet() -> bool:
            if not self.samples:
                return False
            has_all = sum(self.samples[-1].ends.values()) >= records
            return has_all and time.monotonic() - self.samples[-1].seconds > QUIET_SECONDS

        self.wait_for(is_quiet)
        for route, topic in self.pipeline.routes.items():
            for record in stream(self.pipeline.broker_url, topic):
                self.found.add([record], route)
                self.offsets[TopicPartition(topic, record.partition)].append(record.offset or 0)
        self.found.check(expected)

    def figures(self) -> Figures:
        """Return what the steady part was like, of all instances together.

        Raises RuntimeError if all was committed at once, so that there is no steady part.
        """
        counts = [sum(bisect_left(self.offsets[p], end) for p, end in sample.ends.items()) for sample in self.samples]
        last = counts.index(counts[-1])
        first = next((n for n in range(last) if counts[n]), last)
        records, begin, end = counts[last] - counts[first], self.samples[first], self.samples[last]
        seconds, cpu_seconds = end.seconds - begin.seconds, end.usage.cpu_seconds - begin.usage.cpu_seconds
        if not cpu_seconds:  # one sample, or two within a tick of the CPU clock, 10 ms
            raise RuntimeError("everything was committed at once: more records are needed to measure a rate")
        return {
            "records_per_second": records / seconds,
            "cpu_us_per_record": cpu_seconds / records * 1e6,
            "cores_busy": cpu_seconds / seconds,
            "mb_at_half": self.samples[(first + last) // 2].usage.memory_mb,
            "mb_at_end": end.usage.memory_mb,
            "peak_mb": self.peak_mb,
        }


def measure(candidates: list[Candidate], rounds: int, records: int, name: str) -> tuple[Row, list[Row]]:
    """Return the settings and a row for each candidate, which drains so many records of a stream from one partition."""
    expected: dict[bool, Sums] = {}

    def one(candidate: Candidate) -> Figures:
        kind = candidate.keeps_records
        if kind not in expected:
            expected[kind] = sums(full, candidate)
        pipeline = Pipeline(cluster.bootstrap_servers, transactions=full.transactions)
        with Drain(candidate, pipeline, seconds=max(900, records / 1000)) as drain:
            drain.complete(expected[kind])
            return drain.figures()

    with Cluster() as cluster:
        full = Pipeline(cluster.bootstrap_servers)
        fill(full, records, name)
        return {"records": records, "rounds": rounds}, in_turns(candidates, rounds, one)
