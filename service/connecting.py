"""Connecting to Kafka: one loop for every class of client."""

import logging
import sys
from collections.abc import Callable
from typing import Any

from kafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError

from service.refusal import refusal
from service.settings import Cluster
from service.stopping import Stopping

log = logging.getLogger("service")


def connect(client: Callable[..., Any], cluster: Cluster, stopping: Stopping, **config: object) -> Any:
    """Return a client of this class once Kafka answers. Ends the process, with exit code 0, if a signal comes first.

    Blocks as long as Kafka is away. Raises KafkaError if Kafka turns this client away.
    """
    while not stopping.is_set:
        try:
            return client(bootstrap_servers=cluster.addresses, bootstrap_timeout_ms=3000, **cluster.access, **config)
        except (KafkaConnectionError, KafkaTimeoutError):
            if reason := refusal(cluster.addresses, cluster.access):
                raise KafkaError(reason) from None
            log.warning("No Kafka at %s (KAFKA_BROKER_URL) yet, trying again", cluster.broker_url)
            stopping.rearm()  # that may last
    sys.exit(0)
