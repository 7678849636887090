"""Connecting to Kafka: one loop for every class of client."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError

from service.log import log
from service.refusal import cluster_ids, refusal
from service.settings import LOOPBACK, Cluster
from service.stopping import Stopping

CONTAINER_FILES = ("/.dockerenv", "/run/.containerenv")
"""Docker and Podman put one of these into a container."""


def connect(client: Callable[..., Any], cluster: Cluster, stopping: Stopping, **config: object) -> Any:
    """Return a client of this class once Kafka answers. Ends the process, with exit code 0, if a signal comes first.

    Blocks as long as Kafka is away. Raises KafkaError if Kafka turns this client away.
    """
    while not stopping.is_set:
        try:
            connected = client(bootstrap_timeout_ms=3000, **cluster.config, **config)
            compare(cluster)
            return connected
        except (KafkaConnectionError, KafkaTimeoutError):
            if reason := refusal(cluster.addresses, cluster.access):
                raise KafkaError(reason) from None
            log.warning("No Kafka at %s (KAFKA_BROKER_URL) yet, trying again%s", cluster.broker_url, remark(cluster))
            stopping.rearm()  # that may last
    sys.exit(0)


def compare(cluster: Cluster) -> None:
    """End the process if the addresses lead to more than one cluster. Asks each address once, at the start."""
    if not cluster.identity.is_compared:
        cluster.identity.is_compared = True
        for id, address in cluster_ids(cluster.addresses, cluster.access):
            cluster.identity.check(id, address)


def remark(cluster: Cluster) -> str:
    """Return what is likely to be wrong with the addresses where nobody answers, if anything."""
    is_container = "KUBERNETES_SERVICE_HOST" in os.environ or any(Path(file).exists() for file in CONTAINER_FILES)
    for address in cluster.addresses if is_container else ():
        if LOOPBACK.fullmatch(address):
            return f": {address} is this container itself, the broker's container has another name, such as broker:9092"
    return ""
