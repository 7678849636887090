"""Connecting to Kafka, and finding the topic."""

import logging
import socket
import sys
from collections.abc import Callable
from typing import Any

from kafka import KafkaProducer
from kafka.cluster import ClusterMetadata
from kafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError, TopicAuthorizationFailedError

from refusal import refusal
from settings import Settings
from signals import Signals

log = logging.getLogger("generator")


def connect(client: Callable[..., Any], settings: Settings, signals: Signals, **config: object) -> Any:
    """Return a client of this class once Kafka answers. Ends the process, with exit code 0, if a signal comes first.

    Raises KafkaError if Kafka turns this client away.
    """
    addresses = settings.broker_url.split(",")
    while not signals.stopping:
        try:
            return client(
                bootstrap_servers=addresses,
                bootstrap_timeout_ms=3000,
                reconnect_backoff_max_ms=250,  # notices at once, not within 30 seconds, that a broker is back
                **settings.security,
                **config,
            )
        except (KafkaConnectionError, KafkaTimeoutError):
            if reason := refusal(addresses, settings.security):
                raise KafkaError(reason) from None
            log.warning("No Kafka at %s (KAFKA_BROKER_URL) yet, trying again", settings.broker_url)
    sys.exit(0)


def knows_topic(producer: KafkaProducer, settings: Settings) -> bool:
    """Return whether Kafka knows the topic, which it may create now; log the reason if it does not.

    Returns at once if the topic is known, else after max_block_ms or more. Raises KafkaError if this user may not see
    the topic, or Kafka turns this client away.
    """
    topic = settings.transactions_topic
    try:
        producer.partitions_for(topic)
        return True
    except TopicAuthorizationFailedError:
        missing = f"DESCRIBE on the topic {topic} (or CREATE, if it does not exist)"
        raise KafkaError(f"no permission for {missing}: allow it to this user") from None
    except KafkaTimeoutError:
        # Private: only this says which addresses the brokers advertise.
        cluster = producer._metadata
        if reason := refusal([f"{b.host}:{b.port}" for b in cluster.brokers()], settings.security):
            raise KafkaError(reason) from None
        reason = unreachable(cluster)
        log.warning(reason or f"Kafka does not know the topic {topic} yet: create it, if the broker does not do so")
        return False


def unreachable(cluster: ClusterMetadata) -> str:
    """Return what is wrong with the first broker that cannot be connected to; "" if there is none."""
    for broker in cluster.brokers():
        try:
            socket.create_connection((broker.host, broker.port), timeout=1).close()
        except OSError as error:
            return (
                f"Kafka answers, but not at {broker.host}:{broker.port}, where it sends its clients ({error}):"
                " check advertised.listeners of the broker"
            )
    return ""
