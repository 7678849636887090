"""Metrics for Prometheus, if METRICS_PORT is set. docs/monitoring.md says what each means."""

import platform
import socketserver
import sys
import time
from collections import Counter as Tally
from collections.abc import Iterator
from threading import Thread
from typing import Any

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, Info
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import MetricsHandler

from portion import Transaction
from progress import Progress
from rule import ROUTES
from settings import ConfigurationError

VERSION = "0.2.0"

REQUEST_SECONDS = 1
"""A slower scraper is disconnected."""

PAUSE_SECONDS = 0.05
"""After each answer. A client that asks without pause costs a few percent of the interpreter's time at most."""

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600)
RECORDS = (1, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000)


class Metrics:
    """Counts per transaction, never per record, and answers scrapers in a thread of its own."""

    def __init__(self, port: int) -> None:
        """Listen. Raises ConfigurationError if the port is not available."""
        self.progress: Progress | None = None
        self.started_at = time.time()
        self.records = Counter("detector_records", "Records committed", ["route"])
        self.dead_letters = Counter("detector_dead_letters", "Dead letters committed", ["reason"])
        self.transactions = Counter("detector_transactions", "Transactions committed")
        self.seconds = Histogram("detector_transaction_seconds", "Duration of a transaction", buckets=SECONDS)
        self.batch = Histogram("detector_batch_records", "Records in a transaction", buckets=RECORDS)
        self.age = Histogram(
            "detector_record_age_seconds",
            "From a record's creation to its commit, of the first record of each batch",
            buckets=SECONDS,
        )
        self.last_commit = Gauge("detector_last_commit_timestamp_seconds", "Last commit")
        versions = {"version": VERSION, "interpreter": f"{sys.implementation.name} {platform.python_version()}"}
        Info("detector", "Version of the detector and its interpreter").info(versions)
        for route in ROUTES:
            self.records.labels(route)
        REGISTRY.register(self)
        serve(port)

    def observe(self, transaction: Transaction, seconds: float) -> None:
        """Count a committed transaction that took this many seconds."""
        now = time.time()
        self.last_commit.set(now)
        self.transactions.inc()
        self.seconds.observe(seconds)
        self.batch.observe(transaction.counts.total())
        for route, count in transaction.counts.items():
            self.records.labels(route).inc(count)
        for reason, count in Tally(reason.partition(":")[0] for reason in transaction.reasons).items():
            self.dead_letters.labels(reason).inc(count)
        for written in transaction.batches:
            self.age.observe(max(0.0, now - written.batch.base_timestamp / 1000))

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield what is looked up only when a scraper asks."""
        well_at = self.progress.well_at if self.progress else self.started_at
        yield GaugeMetricFamily("detector_last_progress_timestamp_seconds", "Last progress or nothing to do", well_at)
        lag = GaugeMetricFamily("detector_lag_records", "Offsets still to be read", labels=["partition"])
        for partition, offsets in self.progress.lags.copy().items() if self.progress else ():
            if offsets is not None:  # its leader has answered
                lag.add_metric([str(partition.partition)], offsets)
        yield lag


class Handler(MetricsHandler):
    """Answers one request."""

    timeout = REQUEST_SECONDS


class Server(socketserver.TCPServer):
    """Answers one scraper at a time."""

    allow_reuse_address = True

    def process_request(self, *request: Any) -> None:
        """Answer, and pause."""
        super().process_request(*request)
        time.sleep(PAUSE_SECONDS)

    def handle_error(self, *request: object) -> None:
        """Say nothing: a scraper that disconnects is not our problem."""


def serve(port: int) -> None:
    """Answer scrapers, as long as the process lives. Raises ConfigurationError if the port is not available."""
    try:
        server = Server(("", port), Handler)
    except OSError as error:
        raise ConfigurationError(f"METRICS_PORT is {port} ({error.strerror}): give it a free port") from None
    Thread(target=server.serve_forever, daemon=True).start()
