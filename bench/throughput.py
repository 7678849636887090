"""How fast a topic that is full already is drained, by the detector and by its peers."""

import uuid

from bench.candidates import Candidate
from bench.drain import drain, mistakes, steady
from bench.results import Row, interleaved
from bench.topics import Pipeline, fill, read
from embedded import Cluster

TIMEOUT = 900.0
"""Seconds for one drain at the most."""


def measure(candidates: list[Candidate], runs: int, records: int) -> tuple[Row, list[Row]]:
    """Return the settings and a row for each candidate."""
    with Cluster() as cluster:
        transactions = f"{uuid.uuid4().hex[:8]}.transactions"
        print(f"Our generator writes {records:,} transactions to a topic with one partition ...", flush=True)
        fill(cluster.bootstrap_servers, transactions, records)
        source = read(cluster.bootstrap_servers, transactions)
        size = sum(len(record.value) for record in source) / len(source)

        def run(candidate: Candidate) -> Row:
            with Pipeline(cluster.bootstrap_servers, transactions).created() as pipeline:
                seen = drain(candidate, pipeline, len(source), TIMEOUT)
                wrong = mistakes(source, seen.outputs, candidate.same_bytes)
                if wrong:
                    raise RuntimeError(f"the outputs are wrong: {wrong}")
                part = steady(pipeline, seen)
            return {
                "records_per_second": part.records / part.seconds,
                "cpu_us_per_record": part.cpu / part.records * 1e6,
                "peak_mb": seen.peak_mb,
                "steady_seconds": part.seconds,
                "steady_records": part.records,
                "first_commit_seconds": part.startup,
                "transaction_markers": part.markers,
            }

        def line(result: Row) -> str:
            return (
                f"{result['records_per_second']:>9,.0f} records/s {result['cpu_us_per_record']:>7.1f} µs CPU/record"
                f" {result['peak_mb']:>5.0f} MB, over {result['steady_seconds']:.1f} s; every record is right"
            )

        rows = interleaved(candidates, runs, run, line)
    return {"records": len(source), "record_bytes": round(size), "runs": runs}, rows
