"""Which rate the generator delivers when another is asked for, by the timestamps of its records."""

import json
import re
import sys
import time

from bench.candidates import generator, running
from bench.measure import Meter
from bench.results import Row
from bench.topics import Pipeline, create, read
from embedded import Cluster

RATES = ["0.5", "10", "100", "1000", "5000", "15000", "unlimited"]
FAST_RATES = ["50000"]
"""What is asked of PyPy only."""


def measure(
    pypy: str | None, seconds: float, rates: list[str], fast_rates: list[str], warm_up: int
) -> tuple[Row, list[Row]]:
    """Return the settings and a row for each interpreter and rate, each measured for so many seconds after a warm-up.

    In its first seconds a generator makes up for what it took to find the topic and to compile its code.
    """
    rows = []
    with Cluster() as cluster:
        interpreters = [("CPython", sys.executable, rates)]
        if pypy:
            interpreters.append(("PyPy", pypy, sorted(rates + fast_rates, key=lambda rate: float(_number(rate)))))
        for name, python, asked in interpreters:
            for rate in asked:
                result = _run(cluster.bootstrap_servers, python, rate, seconds, warm_up)
                rows.append({"interpreter": name, "asked": rate, **result})
                print(
                    f"{name:8} asked for {rate:>9}/s, delivered {result['delivered_per_second']:,.2f}/s:"
                    f" {result['records']:,} records, {result['cpu_us_per_record']:,.1f} µs CPU each",
                    flush=True,
                )
    return {"seconds": seconds, "warm_up_seconds": warm_up}, rows


def _number(rate: str) -> str:
    return "inf" if rate == "unlimited" else rate


def _run(broker_url: str, python: str, rate: str, seconds: float, warm_up: int) -> Row:
    pipeline = Pipeline(broker_url, "")
    pipeline.transactions = f"{pipeline.name}.transactions"
    create(broker_url, pipeline.transactions)
    wait = warm_up + max(seconds, 4 / float(_number(rate)))  # three records at least after the warm-up
    with running(generator(python), pipeline.environ | {"TRANSACTIONS_PER_SECOND": rate}) as process:
        while "Starting with" not in process.text:
            process.check()
            time.sleep(0.05)
        meter = Meter(process.pid)
        before = meter.cpu()
        time.sleep(wait)
        cpu = meter.cpu() - before
        process.stop()
        log = process.text
    records = read(broker_url, pipeline.transactions)
    stopped = re.search(r"Stopped: delivered=(\d+) not_delivered=0", log)
    if not stopped or int(stopped[1]) != len(records):
        raise RuntimeError(f"{len(records)} records are in the topic, but the generator says:\n{log}")
    if len({record.value for record in records}) < len(records):
        raise RuntimeError("two transactions are the same")
    for record in records:
        if set(json.loads(record.value)) != {"source", "target", "amount", "currency"}:
            raise RuntimeError(f"this is no transaction: {record.value!r}")
    times = sorted(record.timestamp for record in records)
    steady = [time_ms for time_ms in times if time_ms >= times[0] + warm_up * 1000]
    return {
        "delivered_per_second": (len(steady) - 1) / (steady[-1] - steady[0]) * 1000,
        "records": len(times),
        "cpu_us_per_record": cpu / len(times) * 1e6,
    }
