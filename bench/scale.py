"""Several detectors that share the partitions of a topic; and what happens when one of them is stopped."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from kafka import KafkaAdminClient
from kafka.errors import CoordinatorNotAvailableError

from bench.candidates import Candidate
from bench.drain import Drain
from bench.inputs import AS_THE_GENERATOR, Sums, fill, sums
from bench.machine import Meter
from bench.rounds import Figures, Row, in_turns
from embedded import Cluster
from embedded.pipeline import Pipeline
from embedded.records import Record

RATE = 1000  # transactions a second while an instance is stopped


def measure(detector: Candidate, most: int, rounds: int, records: int) -> tuple[Row, list[Row]]:
    """Return the settings and a row for 1, 2, ... detectors, each with so many records, and one for the takeover."""
    groups = {f"{count} on {count}": count for count in range(1, most + 1)}

    def one(group: Candidate) -> Figures:
        pipeline = Pipeline(cluster.bootstrap_servers, partitions=groups.get(group.name, most))
        pipeline.create(pipeline.transactions)
        with pipeline.admin() as admin:
            if group.name in groups:
                return _share(pipeline, admin, detector, source[: pipeline.partitions * records])
            return _takeover(pipeline, admin, detector)

    with Cluster() as cluster:
        full = Pipeline(cluster.bootstrap_servers)
        fill(full, most * records)
        source = full.read(full.transactions)
        names = [*groups, f"{most} on {most}, one of them stopped"]
        rows = in_turns([replace(detector, name=name) for name in names], rounds, one)
    return {"records_per_partition": records, "rounds": rounds, "rate": RATE}, rows


def _share(pipeline: Pipeline, admin: KafkaAdminClient, detector: Candidate, records: list[Record]) -> Figures:
    # Measures as many detectors as partitions. The records are written in one transaction when each has its partition:
    # otherwise the first would have done most of the work before the last had joined.
    spread = [record._replace(partition=number % pipeline.partitions) for number, record in enumerate(records)]
    expected = Sums(detector)
    expected.add(spread)
    config = {"transactional_id": pipeline.name, "transaction_timeout_ms": 600_000, **AS_THE_GENERATOR}
    with Drain(detector, pipeline, pipeline.partitions) as drain, ThreadPoolExecutor(1) as thread:
        drain.wait_for(lambda: _is_shared(admin, pipeline))
        writing = thread.submit(pipeline.write, spread, **config)
        drain.wait_for(writing.done)
        writing.result()
        drain.complete(expected)
        return drain.figures()


def _takeover(pipeline: Pipeline, admin: KafkaAdminClient, detector: Candidate) -> Figures:
    # Stops one of as many detectors as partitions, and measures until the others commit records of every partition.
    def ends() -> list[int]:  # of each partition, in all outputs together
        offsets, numbers = drain.ends(), range(pipeline.partitions)
        return [sum(end for p, end in offsets.items() if p.partition == number) for number in numbers]

    with Drain(detector, pipeline, pipeline.partitions, seconds=180) as drain:
        drain.wait_for(lambda: _is_shared(admin, pipeline))
        with pipeline.service("generator", TRANSACTIONS_PER_SECOND=str(RATE)) as generator:
            drain.wait_for(lambda: min(ends()) > 0)
            begin = time.monotonic()
            drain.instances.pop().stop()
            drain.meter = Meter(*drain.instances)
            before = ends()
            drain.wait_for(lambda: all(end > earlier for end, earlier in zip(ends(), before, strict=True)))
            seconds = time.monotonic() - begin
            generator.stop()
        drain.complete(sums(pipeline, detector))
    return {"takeover_seconds": seconds}


def _is_shared(admin: KafkaAdminClient, pipeline: Pipeline) -> bool:
    # Returns whether the group is stable, and each of its members has one partition.
    try:
        group = admin.describe_groups([pipeline.name])[pipeline.name]
    except CoordinatorNotAvailableError:  # Kafka makes its topic for groups only when the first one comes
        return False
    assigned = [(member["member_assignment"] or {}).get("assigned_partitions", []) for member in group["members"]]
    shares = [sum(len(topic["partitions"]) for topic in topics) for topics in assigned]
    return bool(group["group_state"] == "Stable" and shares == [1] * pipeline.partitions)
