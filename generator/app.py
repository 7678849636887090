"""Transaction generator: writes random transactions to a topic, at a fixed rate."""

import json
import logging
import os
import sys
import time

from kafka import KafkaProducer
from kafka.errors import KafkaError
from kafka.partitioner import StickyPartitioner

from client import connect, knows_topic
from pacing import Pacer
from report import Report
from settings import ConfigurationError, Settings
from signals import Signals
from transactions import create_random_transaction

MAX_IN_FLIGHT = 10_000
"""How many transactions may wait for their acknowledgement. The client itself has no limit."""

FLUSH_SECONDS = 5

log = logging.getLogger("generator")


def generate(settings: Settings, signals: Signals, producer: KafkaProducer, report: Report) -> None:
    """Write transactions until the limit is delivered or a signal comes. Raises KafkaError."""
    topic, pacer = settings.transactions_topic, Pacer(settings.transactions_per_second)
    while not signals.stopping and report.delivered < settings.transactions_limit:
        if knows_topic(producer, settings):
            wanted = min(MAX_IN_FLIGHT, settings.transactions_limit - report.delivered)
            for _ in range(pacer.due(int(wanted) - len(report.in_flight))):
                transaction = json.dumps(create_random_transaction())
                report.in_flight.append(producer.send(topic, transaction.encode()))
        else:
            report.is_stuck = True
        time.sleep(min(pacer.pause(), 0.1))  # wakes often enough for a signal and the report
        report.count()
        report.tick()


def main() -> int:
    """Return the exit code: 0 at the limit or after a signal, 1 if something was not delivered, 2 if misconfigured."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # otherwise a dozen lines per connection attempt
    signals = Signals()
    try:
        settings = Settings.from_env(os.environ)
        log.info("Starting with %s", settings)
        report, exit_code = Report(settings), 0
        if settings.metrics_port:
            from metrics import Metrics  # imported only if wanted: it costs memory, and opens a port

            Metrics(settings.metrics_port, report)
    except ConfigurationError as error:
        log.error("%s", error)
        return 2
    try:
        producer = connect(
            KafkaProducer,
            settings,
            signals,
            partitioner=StickyPartitioner(),  # puts a burst in one batch, not in one per partition
            batch_size=256 * 1024,
            max_block_ms=2000,  # how long it looks for the topic, ignoring signals
            metrics_enabled=False,
        )
        generate(settings, signals, producer, report)
        report.wait(FLUSH_SECONDS)
    except Exception as error:  # the client can raise anything, and a traceback helps nobody
        log.error("Kafka failed, ending: %s", error if isinstance(error, KafkaError) else repr(error))
        exit_code = 1
    not_delivered = report.failed + len(report.in_flight)
    log.info("Stopped: delivered=%d not_delivered=%d", report.delivered, not_delivered)
    # No return: the client would wait for Kafka once more, and print a traceback if it does not answer.
    os._exit(1 if not_delivered else exit_code)


if __name__ == "__main__":
    sys.exit(main())
