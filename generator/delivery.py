"""What became of the transactions, and what the generator says about it."""

import time
from collections import deque

from kafka import KafkaProducer
from kafka.errors import AuthorizationError, KafkaError, KafkaTimeoutError, TopicAuthorizationFailedError
from kafka.future import Future

from service.connecting import unreachable
from service.log import REPORT_SECONDS, log, touch
from service.refusal import refusal
from service.settings import Cluster


class Delivery:
    """Counts deliveries, writes a line every few seconds, and touches the heartbeat file for the health check."""

    def __init__(self, topic: str, cluster: Cluster, heartbeat_file: str) -> None:
        self.topic, self.cluster, self.heartbeat_file = topic, cluster, heartbeat_file
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
            self.is_stuck = bool(error)
            failures += [error] if error else []
            self.delivered += not error
        self.failed += len(failures)
        first = failures[0] if failures else None
        if isinstance(first, AuthorizationError):
            raise KafkaError(f"no permission for WRITE on the topic {self.topic}: allow it to this user ({first})")
        if isinstance(first, KafkaTimeoutError):  # the client would hold back all that follows, even if Kafka is back
            raise KafkaError(f"{len(failures)} transactions had no answer for two minutes: a restart begins anew")
        if first:
            log.error("%d transactions could not be delivered, the first because of %r", len(failures), first)

    def report(self) -> None:
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
            touch(self.heartbeat_file)
        elif reason := refusal(self.cluster.addresses, self.cluster.access):
            raise KafkaError(reason)

    def figures(self, target_rate: float) -> list[tuple[str, str, dict[str, float]]]:
        """Return the metrics: docs/monitoring.md says what each means."""
        return [
            ("delivered_total", "Transactions acknowledged", {"": self.delivered}),
            ("failed_total", "Transactions not delivered", {"": self.failed}),
            ("in_flight", "Transactions not acknowledged yet", {"": len(self.in_flight)}),
            ("target_rate", "Transactions per second asked for", {"": target_rate}),
        ]

    def wait(self, seconds: float) -> None:
        """Wait up to this many seconds for what is in flight. Raises KafkaError, as count does."""
        deadline = time.monotonic() + seconds
        while self.in_flight and time.monotonic() < deadline:
            time.sleep(0.01)
            self.count()


def knows_topic(producer: KafkaProducer, topic: str, cluster: Cluster) -> bool:
    """Return whether Kafka knows the topic, which it may create now; log the reason if it does not.

    Returns at once if the topic is known, else after max_block_ms or more. Raises KafkaError if this user may not see
    the topic, or Kafka turns this client away.
    """
    try:
        producer.partitions_for(topic)
        return True
    except TopicAuthorizationFailedError:
        missing = f"DESCRIBE on the topic {topic} (or CREATE, if it does not exist)"
        raise KafkaError(f"no permission for {missing}: allow it to this user") from None
    except KafkaTimeoutError:
        # Private: only this says which addresses the brokers advertise.
        addresses = [f"{broker.host}:{broker.port}" for broker in producer._metadata.brokers()]
        if reason := refusal(addresses, cluster.access):
            raise KafkaError(reason) from None
        log.warning(
            unreachable(addresses)
            or f"Kafka does not know the topic {topic} yet: create it, if the broker does not do so"
        )
        return False
