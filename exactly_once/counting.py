"""A job's metrics for Prometheus. docs/monitoring.md says what each means."""

import time
from collections import Counter as Tally
from collections.abc import Iterator

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily

from exactly_once.job import Job, Out
from exactly_once.progress import Progress
from service.metrics import serve

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600)
RECORDS = (1, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000)


class Metrics:
    """Counts per commit, never per record, and answers scrapers in a thread of its own."""

    def __init__(self, port: int, name: str, job: Job) -> None:
        """Listen. Raises ConfigurationError if the port is not available."""
        self.name = name
        self.started_at = time.time()
        self.records = Counter(f"{name}_records", "Records committed", ["route"])
        self.dead_letters = Counter(f"{name}_dead_letters", "Dead letters committed", ["reason"])
        self.transactions = Counter(f"{name}_transactions", "Kafka transactions committed")
        self.seconds = Histogram(f"{name}_transaction_seconds", "Duration of a Kafka transaction", buckets=SECONDS)
        self.batch = Histogram(f"{name}_batch_records", "Records in a Kafka transaction", buckets=RECORDS)
        self.age = Histogram(
            f"{name}_record_age_seconds",
            "From a record's creation to its commit, of the first record of each batch",
            buckets=SECONDS,
        )
        self.last_commit = Gauge(f"{name}_last_commit_timestamp_seconds", "Last commit")
        for route in job.counted:
            self.records.labels(route)
        self.progress: Progress | None = None
        REGISTRY.register(self)
        serve(port, name)

    def observe(self, out: Out, seconds: float) -> None:
        """Count what has been committed, which took this many seconds."""
        now = time.time()
        self.last_commit.set(now)
        self.transactions.inc()
        self.seconds.observe(seconds)
        self.batch.observe(out.counts.total())
        for route, count in out.counts.items():
            self.records.labels(route).inc(count)
        for reason, count in Tally(reason.partition(":")[0] for reason in out.reasons).items():
            self.dead_letters.labels(reason).inc(count)
        for written in out.batches:
            self.age.observe(max(0.0, now - written.batch.base_timestamp / 1000))

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield what is looked up only when a scraper asks."""
        name, progress = self.name, self.progress
        well_at = progress.well_at if progress else self.started_at
        yield GaugeMetricFamily(f"{name}_last_progress_timestamp_seconds", "Last progress or nothing to do", well_at)
        lag = GaugeMetricFamily(f"{name}_lag_records", "Offsets still to be committed", labels=["topic", "partition"])
        for partition, offsets in progress.lags.copy().items() if progress else ():
            if offsets is not None:  # its leader has answered
                lag.add_metric([partition.topic, str(partition.partition)], offsets)
        yield lag
