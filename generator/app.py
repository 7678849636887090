"""Transaction generator: writes random transactions to a topic, at the rate asked for."""

import json
import logging
import os
import re
import signal
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from kafka import KafkaProducer
from kafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError
from kafka.future import Future

from pacing import Pacer
from transactions import create_random_transaction

MAX_IN_FLIGHT = 10_000
"""Records that wait for their acknowledgement: the client itself would buffer without end."""

FLUSH_SECONDS = 5
REPORT_SECONDS = 5

log = logging.getLogger("generator")


class ConfigurationError(ValueError):
    """A variable is missing or malformed; the message says what to change."""


@dataclass(frozen=True)
class Settings:
    """What the environment says, checked."""

    broker_url: str
    """host:port, or several with commas between them."""
    transactions_topic: str
    transactions_per_second: float
    """float("inf") for unlimited."""
    transactions_limit: float
    """How many to deliver in all; float("inf") for no end."""
    heartbeat_file: str
    """Touched every few seconds for the container's health check; empty for none."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "Settings":
        """Read the settings. Raises ConfigurationError at the first variable that is missing or malformed."""

        def read(name: str, pattern: str, remedy: str, default: str = "") -> str:
            value = environ.get(name) or default
            if not re.fullmatch(pattern, value):
                raise ConfigurationError(f"{name} is {repr(value) if value else 'not set'}: give it {remedy}")
            return value

        number = r"(?=.*[1-9])(\d+\.?\d*|\.\d+)"  # above 0
        rate = read("TRANSACTIONS_PER_SECOND", f"{number}|unlimited", "a number above 0, such as 1000, or unlimited")
        return cls(
            broker_url=read(
                "KAFKA_BROKER_URL", r"[^\s,:/]+:\d{1,5}(,[^\s,:/]+:\d{1,5})*", "host:port, such as broker:9092"
            ),
            transactions_topic=read(
                "TRANSACTIONS_TOPIC",
                r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}",
                "the name of a topic (letters, digits, '.', '_', '-'), such as queueing.transactions",
            ),
            transactions_per_second=float("inf" if rate == "unlimited" else rate),
            transactions_limit=float(
                read("TRANSACTIONS_LIMIT", r"inf|0*[1-9]\d*", "a whole number above 0, or leave it out", "inf")
            ),
            heartbeat_file=environ.get("HEARTBEAT_FILE", ""),
        )


class Signals:
    """SIGTERM and SIGINT set a flag that the loop looks at."""

    def __init__(self) -> None:
        self.stopping = False
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        self.stopping = True


class Deliveries:
    """The records in flight, oldest first, and how those before them ended."""

    def __init__(self) -> None:
        self.in_flight: deque[Future] = deque()
        self.delivered = 0
        self.failed = 0

    def settle(self) -> None:
        """Count the records whose outcome is known."""
        failures = []
        while self.in_flight and self.in_flight[0].is_done:
            future = self.in_flight.popleft()
            if future.succeeded():
                self.delivered += 1
            else:
                failures.append(future.exception)
        if failures:
            self.failed += len(failures)
            log.error("%d transactions could not be delivered, the first because of %r", len(failures), failures[0])


class Report:
    """A line of counters every few seconds, and with it the heartbeat for the container's health check."""

    def __init__(self, heartbeat_file: str) -> None:
        self.heartbeat_file = heartbeat_file
        self.time, self.delivered = time.monotonic(), 0

    def tick(self, deliveries: Deliveries) -> None:
        """Write the line if it is time for it."""
        elapsed = time.monotonic() - self.time
        if elapsed < REPORT_SECONDS:
            return
        log.info(
            "rate=%.1f/s delivered=%d failed=%d in_flight=%d",
            (deliveries.delivered - self.delivered) / elapsed,
            deliveries.delivered,
            deliveries.failed,
            len(deliveries.in_flight),
        )
        self.time, self.delivered = time.monotonic(), deliveries.delivered
        if self.heartbeat_file:
            Path(self.heartbeat_file).touch()


def generate(settings: Settings, producer: KafkaProducer, deliveries: Deliveries, signals: Signals) -> None:
    """Write transactions until the limit is delivered or a signal says stop. Raises KafkaError."""
    report = Report(settings.heartbeat_file)
    pacer = Pacer(settings.transactions_per_second)
    while not signals.stopping and deliveries.delivered < settings.transactions_limit:
        deliveries.settle()
        report.tick(deliveries)
        most = min(MAX_IN_FLIGHT, settings.transactions_limit - deliveries.delivered)
        for _ in range(pacer.due(int(most) - len(deliveries.in_flight))):
            transaction = json.dumps(create_random_transaction())
            deliveries.in_flight.append(producer.send(settings.transactions_topic, transaction.encode()))
        time.sleep(min(pacer.pause(), 0.1))


def connect(settings: Settings, signals: Signals) -> KafkaProducer:
    """Return a producer once Kafka answers. A signal to stop ends the process meanwhile."""
    while not signals.stopping:
        try:
            return KafkaProducer(
                bootstrap_servers=settings.broker_url.split(","),
                bootstrap_timeout_ms=3000,
                reconnect_backoff_max_ms=1000,  # a broker that is back is found again within a second, not within 30
                # Idempotent, as by default: a retry is not written twice.
                batch_size=256 * 1024,
                linger_ms=5,
                max_block_ms=10_000,  # how long the first send waits for the topic; a signal waits as long
            )
        except (KafkaConnectionError, KafkaTimeoutError):
            log.warning("No Kafka at %s (KAFKA_BROKER_URL) yet, trying again", settings.broker_url)
    sys.exit(0)


def run(settings: Settings, signals: Signals) -> int:
    """Connect, generate, wait for what is in flight, and return the exit code: 1 where not all was delivered."""
    producer, deliveries, exit_code = connect(settings, signals), Deliveries(), 0
    try:
        generate(settings, producer, deliveries, signals)
        producer.flush(timeout=FLUSH_SECONDS)
    except KafkaError as error:
        log.error("Kafka failed, ending: %s", error)
        exit_code = 1
    deliveries.settle()
    lost = deliveries.failed + len(deliveries.in_flight)
    log.info("Stopped: delivered=%d not_delivered=%d", deliveries.delivered, lost)
    producer.close(timeout=0)
    return 1 if lost else exit_code


def main() -> int:
    """Return the exit code: 0 at the limit or after a signal, 1 where Kafka failed, 2 for bad configuration."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # a dozen lines for each attempt to connect otherwise
    signals = Signals()
    try:
        settings = Settings.from_env(os.environ)
        log.info("Starting with %s", settings)
        return run(settings, signals)
    except ConfigurationError as error:
        log.error("%s", error)
        return 2


if __name__ == "__main__":
    sys.exit(main())
