"""Who a process is to Kafka: the settings that every job has."""

import socket
from dataclasses import dataclass
from typing import Self

from service.settings import Cluster, Environment


@dataclass(frozen=True)
class Member:
    """Who a process is to Kafka."""

    cluster: Cluster
    group: str
    """Instances of a group share the partitions."""
    transactional_id: str
    """Unique per instance, stable across restarts, so that Kafka aborts what this instance left open."""
    heartbeat_file: str
    """Touched every few seconds for the container's health check; empty for none."""
    metrics_port: int
    """The port that Prometheus scrapes; 0 for no metrics."""

    @classmethod
    def from_env(cls, environment: Environment, group: str) -> Self:
        """Read the variables that every job has. Raises ConfigurationError."""
        group = environment.name("CONSUMER_GROUP", group)
        return cls(
            environment.cluster(),
            group,
            environment.name("TRANSACTIONAL_ID", f"{group}-{socket.gethostname()}"),
            environment.heartbeat_file(),
            environment.metrics_port(),
        )
