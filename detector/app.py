"""Fraud detector: reads transactions and branches them into legit, fraud and dead letter, exactly once."""

import gc
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Any

from kafka import KafkaAdminClient, TopicPartition

from branching import branch
from client import connect
from consumer import PORTION_BYTES, Consumer
from portion import Portion, Transaction
from producer import Producer
from progress import Progress
from remedies import explain
from report import Report, set_up_logging
from rule import ROUTES
from settings import ConfigurationError, Settings
from signals import Signals
from topics import prepare_topics

TURN_SECONDS = 60
"""How long a turn of the loop may take: a rebalance asks for offsets, and for topics on all brokers."""
CLOSE_SECONDS = 3

OVERLAP_BYTES = range(PORTION_BYTES // 2, 4 * PORTION_BYTES)  # smaller: no backlog; larger: too much memory for two

log = logging.getLogger("detector")


class Detector:
    """Reads the input in portions, and writes each in a transaction to the topics where its records belong."""

    counted: Sequence[str] = tuple(ROUTES)
    """What the report shows."""

    def __init__(self, settings: Settings, signals: Signals) -> None:
        """Connect. Raises ConfigurationError (the topics) and KafkaError."""
        self.settings, self.signals, self.metrics = settings, signals, None
        if settings.metrics_port:
            from metrics import Metrics  # imported only if wanted: it costs memory, and opens a port

            self.metrics = Metrics(settings.metrics_port)
        self.prepare_topics()
        self.producer = Producer(settings, signals)
        self.consumer = self.subscribe()
        self.progress = Progress(self.consumer, settings)
        self.report = Report(settings.heartbeat_file, self.progress, self.counted)
        if self.metrics:
            self.metrics.progress = self.progress

    def subscribe(self) -> Consumer:
        """Return a consumer of the input. Raises KafkaError."""
        return Consumer(self.settings, self.signals, [self.settings.transactions_topic], self.on_assignment)

    def on_assignment(self, committed: Mapping[TopicPartition, int | None]) -> None:
        """Check the topics again, as partitions may have been added; warn about those without a committed offset."""
        self.prepare_topics()
        for partition, offset in committed.items():
            if offset is None:
                self.progress.warn_of_repetition(partition)

    def prepare_topics(self) -> None:
        """Create the topics that are missing, and check those that exist."""
        with closing(connect(KafkaAdminClient, self.settings, self.signals)) as admin:
            self.outputs = prepare_topics(admin, self.settings)

    def run(self) -> None:
        """Work until signalled. Raises ConfigurationError and KafkaError; what is not yet committed is read again.

        In a backlog, the next portion is processed while Kafka commits what follows from the previous one.
        """
        processor = ThreadPoolExecutor(max_workers=1)
        transaction: Transaction | None = None
        while not self.signals.stopping:
            self.signals.rearm(TURN_SECONDS)
            portion = self.consumer.read(wait=not transaction)
            if transaction and transaction.group == portion.group:
                processing = processor.submit(self.process, portion)
                self.commit(transaction)
                transaction = processing.result()
            else:  # none, or dropped in a rebalance: then its records are read again, by whoever owns them by then
                transaction = self.process(portion)
            if transaction and transaction.size not in OVERLAP_BYTES:
                self.commit(transaction)
                transaction = None
            self.report.tick()

    def commit(self, transaction: Transaction) -> None:
        """Write and commit a transaction, and count it. Raises KafkaError."""
        start = time.monotonic()
        self.producer.commit(transaction)
        self.consumer.committed |= transaction.next_offsets
        self.report.counts += transaction.counts
        if self.metrics:
            self.metrics.observe(transaction, time.monotonic() - start)

    def process(self, portion: Portion) -> Transaction | None:
        """Return what follows from a portion, if anything."""
        return branch(portion, self.outputs) if portion.next_offsets else None

    def close(self) -> None:
        """Leave the group. The producer ends with the process: closing it would retry what has just failed."""
        self.consumer.close()


def main(service: Callable[..., Any] = Detector, read_settings: Callable[..., Settings] = Settings.from_env) -> int:
    """Run a service. Return the exit code: 0 after a signal, 1 if Kafka failed, 2 for bad configuration."""
    set_up_logging()
    # The client has threads of its own. With less frequent switching, the threads wait less for each other.
    sys.setswitchinterval(0.05)
    # A portion makes about 100,000 short-lived objects; the cyclic collector took a tenth of the run time.
    gc.set_threshold(200_000)
    signals, detector = Signals(), None
    try:
        settings = read_settings(os.environ)
        log.info("Starting with %s", settings)
        with suppress(SystemExit):  # signalled while it was connecting
            detector = service(settings, signals)
            detector.run()
        if detector:
            detector.report.tick(is_last=True)
            log.info("Stopping: %s", dict(detector.report.counts))
        exit_code = 0
    except ConfigurationError as error:
        log.error("%s", error)
        exit_code = 2
    except Exception as error:  # the client can raise anything, and a traceback helps nobody
        signals.rearm(TURN_SECONDS)
        log.error("Kafka failed, ending; a restart continues from the committed offsets: %s", explain(error, settings))
        exit_code = 1
    signals.exit_code = exit_code
    if detector:  # last, as it may hang
        signals.rearm(CLOSE_SECONDS)
        with suppress(Exception):  # the cause is already logged
            detector.close()
    return exit_code


if __name__ == "__main__":
    os._exit(main())  # on a normal return the client waits for its threads, and they for Kafka
