"""Connecting to Kafka: one loop for every class of client."""

import os
import socket
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from kafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError

from service.log import log
from service.refusal import CONNECT_SECONDS, cluster_ids, refusal
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
            if awaited := cluster.access.awaited:
                log.warning("OAUTHBEARER: no token yet, trying again: %s", awaited)
            elif reason := refusal(cluster.addresses, cluster.access):
                raise KafkaError(reason) from None
            else:
                log.warning(
                    "No Kafka at %s (KAFKA_BROKER_URL) yet, trying again%s", cluster.broker_url, remark(cluster)
                )
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


def unreachable(addresses: Iterable[str]) -> str:
    """Return what is wrong with the first address at which nobody can be reached; "" if there is none."""
    for address in addresses:
        try:
            host, _, port = address.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
        except (OSError, UnicodeError) as error:
            remedy = "check advertised.listeners of the broker"
            return f"Kafka sends its clients to {address}, which cannot be reached ({error}): {remedy}"
    return ""
