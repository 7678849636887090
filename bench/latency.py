"""How long a record takes: from its timestamp at the generator to a reader of committed records on the outputs.

The generator, the candidate, the broker and the reader share one machine and so one clock. A record of the output is
found in the input by its value, because not every candidate keeps the timestamp.
"""

import json
import time
from contextlib import closing

from kafka import KafkaConsumer, KafkaProducer

from bench.candidates import Candidate, Process, generator, running
from bench.drain import mistakes
from bench.results import Row, interleaved
from bench.topics import Pipeline, Record, create, read
from embedded import Cluster

WARM_UP_SECONDS = 5
"""What comes in the first seconds counts for correctness, but not for latency: compilers at run time warm up."""

TIMEOUT = 90.0
"""Seconds for the first record, and again for what is under way when the generator ends."""

PROBE = json.dumps({"source": "alice", "target": "bob", "amount": 10.5, "currency": "EUR"}).encode()


def measure(
    candidates: list[Candidate], runs: int, seconds: int, rate: int, warm_up: int = WARM_UP_SECONDS
) -> tuple[Row, list[Row]]:
    """Return the settings and a row for each candidate, at `rate` records a second for so many seconds."""
    with Cluster() as cluster:

        def run(candidate: Candidate) -> Row:
            return _run(candidate, cluster.bootstrap_servers, seconds, rate, warm_up)

        rows = interleaved(candidates, runs, run, line)
    return {"seconds": seconds, "rate": rate, "warm_up_seconds": warm_up, "runs": runs}, rows


def line(result: Row) -> str:
    """Return a result as text."""
    return (
        f"p50 {result['p50_ms']:.0f} ms, p90 {result['p90_ms']:.0f} ms, p99 {result['p99_ms']:.0f} ms,"
        f" max {result['max_ms']:.0f} ms; first record after {result['startup_seconds']:.1f} s; every record is right"
    )


def _run(candidate: Candidate, broker_url: str, seconds: int, rate: int, warm_up: int) -> Row:
    pipeline = Pipeline(broker_url, "")
    pipeline.transactions = f"{pipeline.name}.transactions"
    create(broker_url, pipeline.transactions)
    with closing(KafkaProducer(bootstrap_servers=broker_url)) as producer:
        producer.send(pipeline.transactions, PROBE).get(10)
    total = rate * (warm_up + seconds)
    limits = {"TRANSACTIONS_PER_SECOND": str(rate), "TRANSACTIONS_LIMIT": str(total)}
    with pipeline.created(), closing(_reader(pipeline)) as reader:
        started = time.monotonic()
        with running(candidate, pipeline.environ | {"TUNING": "latency"}) as process:
            arrived: dict[str, list[tuple[float, Record]]] = {role: [] for role in pipeline.outputs}
            _receive(reader, pipeline, process, arrived, 1, TIMEOUT)
            startup = time.monotonic() - started
            with running(generator(), pipeline.environ | limits):
                _receive(reader, pipeline, process, arrived, 1 + total, warm_up + seconds + TIMEOUT)
    source = read(broker_url, pipeline.transactions)
    outputs = {role: [record for _, record in pairs] for role, pairs in arrived.items()}
    wrong = mistakes(source, outputs, candidate.same_bytes)
    if wrong:
        raise RuntimeError(f"the outputs are wrong: {wrong}")
    created = {_identity(record.value): record.timestamp for record in source}
    counts_from = source[1].timestamp + warm_up * 1000
    latencies = sorted(
        time_read * 1000 - created[_identity(record.value)]
        for pairs in arrived.values()
        for time_read, record in pairs
        if created[_identity(record.value)] >= counts_from
    )
    percentiles = {f"p{percent}_ms": latencies[len(latencies) * percent // 100] for percent in (50, 90, 99)}
    return {**percentiles, "max_ms": latencies[-1], "startup_seconds": startup, "records": len(latencies)}


def _identity(value: bytes) -> str:
    return json.dumps(json.loads(value), sort_keys=True)


def _reader(pipeline: Pipeline) -> KafkaConsumer:
    consumer = KafkaConsumer(
        bootstrap_servers=pipeline.broker_url,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_poll_records=10_000,
    )
    consumer.assign(pipeline.output_partitions)
    return consumer


def _receive(
    reader: KafkaConsumer,
    pipeline: Pipeline,
    process: Process,
    arrived: dict[str, list[tuple[float, Record]]],
    records: int,
    timeout: float,
) -> None:
    """Read until so many records have arrived in all. Raises RuntimeError if the candidate ends, or at the timeout."""
    roles = {topic: role for role, topic in pipeline.outputs.items()}
    deadline = time.monotonic() + timeout
    while sum(map(len, arrived.values())) < records:
        batches = reader.poll(100)
        now = time.time()
        for partition, batch in batches.items():
            pairs = arrived[roles[partition.topic]]
            pairs += [(now, Record(r.partition, r.offset, r.timestamp, r.value)) for r in batch]
        process.check()
        if time.monotonic() > deadline:
            raise RuntimeError(f"only {sum(map(len, arrived.values()))} of {records} records came")
