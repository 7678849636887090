"""Watches candidates drain a full topic, and checks every record before any speed counts.

The time base, the same for all: while the candidate runs, the ends of its outputs are asked for every POLL_SECONDS as a
reader of committed records sees them, each time together with the CPU time used so far. These ends count transaction
markers too, so they say only roughly how many records there are. What they stood for is counted afterwards, when the
outputs have been read back and the offset of each record is known. The steady rate is then taken from the first
sample that had records in it to the first that had all: the records committed in between, by the time in between. So
nobody's start-up counts, nor how large the first commit is, and both ends have the same error of POLL_SECONDS at the
most, which is 1 % of a drain of two seconds.
"""

import json
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field

from kafka import KafkaConsumer, TopicPartition

from bench.candidates import Candidate, Process, running
from bench.measure import Meter
from bench.topics import Pipeline, Record, read

POLL_SECONDS = 0.02
QUIET_SECONDS = 3.0
"""The outputs are complete when they have at least as many offsets as there are records and nothing has come for so
long, which is longer than anyone's commit interval."""


@dataclass(frozen=True)
class Sample:
    """How far a drain was."""

    time: float
    """Seconds, on a monotonic clock."""
    ends: dict[TopicPartition, int]
    """The offset after the last committed record or marker."""
    cpu: float
    """Seconds of CPU time used until then by all processes."""


@dataclass
class Drain:
    """What was seen of a drain."""

    started: float
    ready: float | None = None
    """When all instances had their share of the partitions."""
    samples: list[Sample] = field(default_factory=list)
    peak_mb: float = 0.0
    outputs: dict[str, list[Record]] = field(default_factory=dict)
    """The records of each output by its role."""


def drain(
    candidate: Candidate,
    pipeline: Pipeline,
    records: int,
    timeout: float,
    instances: int = 1,
    ready: Callable[[], bool] = lambda: True,
) -> Drain:
    """Run the candidate until it has committed so many records.

    `ready` says whether all instances have their share; what was committed before counts for no rate. Raises
    RuntimeError if a process ends or takes more than `timeout` seconds.
    """
    observer = KafkaConsumer(bootstrap_servers=pipeline.broker_url, isolation_level="read_committed")
    with closing(observer), ExitStack() as stack:
        seen = Drain(time.monotonic())
        processes = [
            stack.enter_context(
                running(candidate, pipeline.environ | {"TRANSACTIONAL_ID": f"{pipeline.name}-{number}"})
            )
            for number in range(instances)
        ]
        meters = [Meter(process.pid) for process in processes]
        while True:
            _wait_until_quiet(observer, pipeline, processes, meters, seen, ready, records, seen.started + timeout)
            seen.outputs = {role: read(pipeline.broker_url, topic) for role, topic in pipeline.outputs.items()}
            if sum(map(len, seen.outputs.values())) >= records:
                return seen


def _wait_until_quiet(
    observer: KafkaConsumer,
    pipeline: Pipeline,
    processes: list[Process],
    meters: list[Meter],
    seen: Drain,
    ready: Callable[[], bool],
    records: int,
    deadline: float,
) -> None:
    changed = time.monotonic()
    while True:
        if seen.ready is None and ready():
            seen.ready = time.monotonic()
        now = time.monotonic()
        ends = observer.end_offsets(pipeline.output_partitions)
        if not seen.samples or ends != seen.samples[-1].ends:
            seen.samples.append(Sample(now, ends, sum(meter.cpu() for meter in meters)))
            changed = now
        total = sum(ends.values())
        if now - changed > QUIET_SECONDS and total >= records:
            seen.peak_mb = sum(meter.peak() for meter in meters)
            return
        if now > deadline:
            raise RuntimeError(f"not done in time: the outputs have {total} offsets for {records} records")
        for process in processes:
            process.check()
        time.sleep(POLL_SECONDS)


@dataclass(frozen=True)
class Steady:
    """What lies between the first commit and the last."""

    records: int
    seconds: float
    cpu: float
    """Seconds of CPU time."""
    startup: float
    """Seconds from the start of the process to the first commit."""
    markers: int
    """The transaction markers in the outputs, over the whole drain: one for each output that a transaction wrote to."""


def steady(pipeline: Pipeline, seen: Drain) -> Steady:
    """Return the steady part of a drain. Raises RuntimeError if all was committed at once, so that there is none."""
    offsets: dict[TopicPartition, list[int]] = {partition: [] for partition in pipeline.output_partitions}
    for role, topic in pipeline.outputs.items():
        for record in seen.outputs[role]:
            offsets[TopicPartition(topic, record.partition)].append(record.offset)

    def committed(sample: Sample) -> int:
        return sum(bisect_left(offsets[partition], end) for partition, end in sample.ends.items())

    counts = [committed(sample) for sample in seen.samples]
    commits = [number for number, count in enumerate(counts) if count]
    last = counts.index(counts[-1])
    ready = seen.samples[last].time if seen.ready is None else seen.ready
    first = next((number for number in commits if seen.samples[number].time >= ready), last)
    if first >= last:
        raise RuntimeError("everything was committed at once: more records are needed to measure a rate")
    begin, end = seen.samples[first], seen.samples[last]
    markers = sum(end.ends.values()) - counts[last]
    startup = seen.samples[commits[0]].time - seen.started
    return Steady(counts[last] - counts[first], end.time - begin.time, end.cpu - begin.cpu, startup, markers)


def mistakes(source: list[Record], outputs: dict[str, list[Record]], same_bytes: bool) -> str:
    """Return what is wrong with the outputs, or "" where each record is there once, unchanged and in its topic.

    `source` holds valid transactions only.
    """

    def identity(value: bytes) -> bytes:
        return value if same_bytes else json.dumps(json.loads(value), sort_keys=True).encode()

    expected: dict[str, Counter[bytes]] = {role: Counter() for role in outputs}
    for record in source:
        role = "fraud" if json.loads(record.value)["amount"] >= 900 else "legit"
        expected[role][identity(record.value)] += 1
    found = {role: Counter(identity(record.value) for record in records) for role, records in outputs.items()}
    wrong = [
        f"{count} {problem} in {role}"
        for role in outputs
        for problem, count in (
            ("missing", (expected[role] - found[role]).total()),
            ("too many", (found[role] - expected[role]).total()),
        )
        if count
    ]
    return ", ".join(wrong)
