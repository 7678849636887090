"""The service of docs/your-own-service.md at work: its counts add up, whatever it reads and whenever it is killed."""

import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter

import pytest

from embedded import Cluster, records
from embedded.pipeline import Pipeline
from embedded.records import Record
from embedded.service import Restarted, Service, wait_until
from harness import transaction

pytestmark = pytest.mark.long

COMMAND = [sys.executable, "-m", "docs.examples.frauds_per_minute.app"]
MINUTE = 60_000
KILLS, SEED = 4, int(os.environ.get("SEED") or random.randrange(10**6))


def environ(pipeline: Pipeline) -> dict[str, str]:
    """Return the environment of the service, for which the pipeline's input holds frauds."""
    return {
        "KAFKA_BROKER_URL": pipeline.broker_url,
        "FRAUD_TOPIC": pipeline.transactions,
        "COUNTS_TOPIC": f"{pipeline.name}.counts",
        "CONSUMER_GROUP": pipeline.name,
        "TRANSACTIONAL_ID": pipeline.name,
    }


def counted(pipeline: Pipeline) -> Counter[tuple[int, str]]:
    """Return what a reader of committed records finds, added up."""
    sums: Counter[tuple[int, str]] = Counter()
    for record in pipeline.read(f"{pipeline.name}.counts"):
        count = json.loads(record.value or b"")
        assert record.key == f"{count['minute']} {count['currency']}".encode()
        assert (record.timestamp or 0) // MINUTE * MINUTE == count["minute"]
        sums[count["minute"], count["currency"]] += count["frauds"]
    return sums


def test_frauds_are_counted_and_nothing_stops_it(pipeline: Pipeline) -> None:
    """By the minute of their timestamps and their currency in capitals; what is no transaction is passed over."""
    now = 30_000_000 * MINUTE
    frauds = [
        Record(transaction(900, currency=currency), timestamp=timestamp)
        for currency, timestamp in (
            ("EUR", now),
            ("eur", now + MINUTE - 1),
            ("USD", now),
            ("EUR", now + MINUTE),
            ("EUR", 0),
            ("EUR", 2**63 - 1),
        )
    ]
    others = [
        Record(value, timestamp=now)
        for value in (None, b"", b"\xff", b"not JSON", b"[" * 100_000, transaction(900, currency="\u20ac"), b"1" * 5000)
    ]
    with Service("frauds_per_minute", environ(pipeline), COMMAND) as service:
        pipeline.write([*others, *frauds, *others])
        service.wait_for(f"frauds={len(frauds)} others={2 * len(others)} lag=0")
        assert service.stop() == 0
    assert counted(pipeline) == {
        (now, "EUR"): 2,
        (now, "USD"): 1,
        (now + MINUTE, "EUR"): 1,
        (0, "EUR"): 1,
        ((2**63 - 1) // MINUTE * MINUTE, "EUR"): 1,
    }


def test_the_counts_add_up_although_it_is_killed(cluster: Cluster) -> None:
    """The service is killed at random moments while frauds arrive: none is missing, none counts twice."""
    pipeline = Pipeline(cluster.bootstrap_servers, partitions=2)
    pipeline.create(pipeline.transactions)
    counts = f"{pipeline.name}.counts"
    draw, sent, is_over = random.Random(SEED), Counter[tuple[int, str]](), threading.Event()

    def send() -> None:
        own = random.Random(SEED + 1)
        while not is_over.is_set():
            frauds = [(own.randrange(5) * MINUTE, own.choice(["EUR", "USD"])) for _ in range(100)]
            pipeline.write(
                Record(transaction(900, currency=currency), timestamp=minute, partition=own.randrange(2))
                for minute, currency in frauds
            )
            sent.update(frauds)

    writer = threading.Thread(target=send)
    with Restarted(lambda: Service("frauds_per_minute", environ(pipeline), COMMAND)) as service:
        writer.start()
        try:
            for _ in range(KILLS):
                before = pipeline.count(counts)
                wait_until(lambda: pipeline.count(counts) > before, 120, lambda: service.log)  # noqa: B023
                time.sleep(draw.uniform(0, 1))
                os.kill(service.pid, signal.SIGKILL)
        finally:
            is_over.set()
            writer.join()
        pipeline.drain(240)
        assert service.end() == 0
    assert service.exit_codes.count(-signal.SIGKILL) == KILLS
    assert counted(pipeline) == sent, f"SEED={SEED}"
    assert sent.total() == len(records.read(pipeline.broker_url, pipeline.transactions))
