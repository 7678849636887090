"""Transaction generator: writes random transactions to a topic, at a fixed rate."""

import json
import os
import sys
import time
from dataclasses import dataclass
from typing import NoReturn

from kafka import KafkaProducer
from kafka.errors import KafkaError
from kafka.partitioner import StickyPartitioner

from generator.delivery import Delivery, knows_topic
from generator.pacing import Pacer
from generator.transactions import create_random_transaction
from service.connecting import connect
from service.log import log, set_up_logging
from service.settings import Cluster, ConfigurationError, Environment
from service.stopping import Stopping

MAX_IN_FLIGHT = 10_000
"""How many transactions may wait for their acknowledgement. The client itself has no limit."""

FLUSH_SECONDS = 5


@dataclass(frozen=True)
class Settings:
    """The values from the environment, checked."""

    cluster: Cluster
    transactions_topic: str
    transactions_per_second: float
    """float("inf") for unlimited."""
    transactions_limit: float
    """How many to deliver in all; float("inf") for no limit."""
    heartbeat_file: str
    metrics_port: int

    @classmethod
    def from_env(cls, environment: Environment) -> "Settings":
        """Read the settings. Raises ConfigurationError at the first variable that is missing or malformed."""
        read = environment.text
        remedy = "a number above 0, such as 1000, or unlimited"
        limit = read("TRANSACTIONS_LIMIT", r"inf|0*[1-9][0-9]*", "a whole number above 0, or leave it out", "inf")
        return cls(
            environment.cluster(),
            environment.topic("TRANSACTIONS_TOPIC", "queueing.transactions"),
            environment.number("TRANSACTIONS_PER_SECOND", remedy, "unlimited"),
            float(limit),
            environment.heartbeat_file(),
            environment.metrics_port(),
        )


def generate(settings: Settings, stopping: Stopping, producer: KafkaProducer, delivery: Delivery) -> None:
    """Write transactions until the limit is delivered or a signal comes. Raises KafkaError."""
    topic, pacer = settings.transactions_topic, Pacer(settings.transactions_per_second)
    while not stopping.is_set and delivery.delivered < settings.transactions_limit:
        if knows_topic(producer, topic, settings.cluster):
            wanted = min(MAX_IN_FLIGHT, settings.transactions_limit - delivery.delivered)
            for _ in range(pacer.due(int(wanted) - len(delivery.in_flight))):
                transaction = json.dumps(create_random_transaction())
                delivery.in_flight.append(producer.send(topic, transaction.encode()))
        else:
            delivery.is_stuck = True
        time.sleep(min(pacer.pause(), 0.1))  # wakes often enough for a signal and the report
        delivery.count()
        delivery.report()


def main() -> NoReturn:
    """End with the exit code 0 at the limit or after a signal, 1 if something was not delivered, 2 if misconfigured."""
    set_up_logging("generator")
    stopping, exit_code = Stopping(), 0
    try:
        settings = Settings.from_env(Environment(os.environ))
        log.info("Starting with %s", settings)
        delivery = Delivery(settings.transactions_topic, settings.cluster, settings.heartbeat_file)
        if settings.metrics_port:
            from service.metrics import serve  # imported only if wanted: it costs memory, and opens a port

            serve(settings.metrics_port, "generator", lambda: delivery.figures(settings.transactions_per_second))
    except ConfigurationError as error:
        log.error("%s", error)
        sys.exit(2)
    try:
        producer = connect(
            KafkaProducer,
            settings.cluster,
            stopping,
            partitioner=StickyPartitioner(),  # puts a burst in one batch, not in one per partition
            batch_size=256 * 1024,
            max_block_ms=2000,  # how long it looks for the topic, ignoring signals
            reconnect_backoff_max_ms=250,  # notices at once, not within 30 seconds, that a broker is back
            metrics_enabled=False,
        )
        generate(settings, stopping, producer, delivery)
        delivery.wait(FLUSH_SECONDS)
    except Exception as error:  # the client can raise anything, and a traceback helps nobody
        log.error("Kafka failed, ending: %s", error if isinstance(error, KafkaError) else repr(error))
        exit_code = 1
    not_delivered = delivery.failed + len(delivery.in_flight)
    log.info("Stopped: delivered=%d not_delivered=%d", delivery.delivered, not_delivered)
    # No return: the client would wait for Kafka once more, and print a traceback if it does not answer.
    os._exit(1 if not_delivered else exit_code)


if __name__ == "__main__":
    main()
