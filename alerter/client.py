"""Connecting to Kafka, and waiting for the topics."""

import logging
from threading import Event

from kafka import KafkaConsumer, errors

from refusal import refusal
from settings import Settings

RETRY_SECONDS = 1

log = logging.getLogger("alerter")


def connect(settings: Settings, stopping: Event) -> KafkaConsumer | None:
    """Return a consumer once Kafka answers and has the topics, None if a signal comes first. Raises KafkaError."""
    addresses, consumer = settings.broker_url.split(","), None
    while not stopping.is_set():
        try:
            consumer = consumer or KafkaConsumer(
                bootstrap_servers=addresses,
                bootstrap_timeout_ms=3000,
                reconnect_backoff_max_ms=1000,  # notices within a second, not 30, that a broker is back
                group_id=settings.consumer_group,
                isolation_level="read_committed",
                auto_offset_reset="earliest",
                enable_auto_commit=False,
                session_timeout_ms=6000,  # a killed instance is noticed after this time; the default minimum of brokers
                heartbeat_interval_ms=2000,
                metrics_enabled=False,
                **settings.security,
            )
            if not (missing := settings.topics - consumer.topics()):
                return consumer
            log.warning("Kafka shows no topic %s yet: create it, or start what does", " and ".join(sorted(missing)))
        except (errors.KafkaConnectionError, errors.KafkaTimeoutError):
            if reason := refusal(addresses, settings.security):
                raise errors.KafkaError(reason) from None
            log.warning("No Kafka at %s (KAFKA_BROKER_URL) yet, trying again", settings.broker_url)
        stopping.wait(RETRY_SECONDS)
    return None
