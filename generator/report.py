"""What became of the transactions, and what the generator says about it."""

import logging
import time
from collections import deque
from pathlib import Path

from kafka.errors import AuthorizationError, KafkaError, KafkaTimeoutError
from kafka.future import Future

from refusal import refusal
from settings import Settings

REPORT_SECONDS = 5

log = logging.getLogger("generator")


class Report:
    """Counts deliveries, writes a line every few seconds, and touches the heartbeat file for the health check."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.in_flight: deque[Future] = deque()  # oldest first
        self.delivered = self.failed = 0
        self.is_stuck = False  # the last attempt to deliver something failed
        self.time, self.delivered_before = time.monotonic(), 0

    def count(self) -> None:
        """Count the transactions whose outcome is known.

        Raises KafkaError if this user may not write any, or if Kafka was away for longer than the client waits.
        """
        failures = []
        while self.in_flight and self.in_flight[0].is_done:
            error = self.in_flight.popleft().exception
            self.is_stuck = error is not None
            if error is None:
                self.delivered += 1
            else:
                failures.append(error)
        self.failed += len(failures)
        if failures and isinstance(failures[0], AuthorizationError):
            topic = self.settings.transactions_topic
            raise KafkaError(f"no permission for WRITE on the topic {topic}: allow it to this user ({failures[0]})")
        if failures and isinstance(failures[0], KafkaTimeoutError):
            # The client would hold back all that follows, even once Kafka is back.
            raise KafkaError(f"{len(failures)} transactions had no answer for two minutes: a restart begins anew")
        if failures:
            log.error("%d transactions could not be delivered, the first because of %r", len(failures), failures[0])

    def tick(self) -> None:
        """Write the line every REPORT_SECONDS, and the heartbeat unless something waits and nothing is delivered.

        Raises KafkaError if that is because Kafka turns this client away.
        """
        elapsed, news = time.monotonic() - self.time, self.delivered - self.delivered_before
        if elapsed < REPORT_SECONDS:
            return
        counts = self.delivered, self.failed, len(self.in_flight)
        log.info("rate=%.1f/s delivered=%d failed=%d in_flight=%d", news / elapsed, *counts)
        self.time, self.delivered_before = time.monotonic(), self.delivered
        if news or not (self.in_flight or self.is_stuck):
            touch(self.settings.heartbeat_file)
        elif reason := refusal(self.settings.broker_url.split(","), self.settings.security):
            raise KafkaError(reason)

    def wait(self, seconds: float) -> None:
        """Wait up to this many seconds for what is in flight. Raises KafkaError, as count does."""
        deadline = time.monotonic() + seconds
        while self.in_flight and time.monotonic() < deadline:
            time.sleep(0.01)
            self.count()


def touch(heartbeat_file: str) -> None:
    """Set the file's time to now. A failure is logged, but does not stop the service."""
    try:
        if heartbeat_file:
            Path(heartbeat_file).touch()
    except OSError as error:
        log.warning("HEARTBEAT_FILE %s cannot be written: %s", heartbeat_file, error.strerror)
