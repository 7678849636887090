"""The detector's configuration, read from the environment."""

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

from rule import ROUTES
from security import Security, security_from_env

TOPIC = r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}"
PORT = r"([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"  # 1 to 65535
ADDRESS = rf"([^\s,:/\[\]]+|\[[0-9A-Fa-f:.]+\]):{PORT}"


class ConfigurationError(ValueError):
    """The environment or the topics are not as the detector needs them; the message says what to change."""


@dataclass(frozen=True)
class Settings:
    """The values from the environment, checked."""

    broker_url: str
    """host:port, or several separated by commas; an IPv6 address is in brackets."""
    security: Security
    """Further settings of every Kafka client, to authenticate and encrypt."""
    transactions_topic: str
    outputs: Mapping[str, str]
    """The output topic of each route."""
    consumer_group: str
    transactional_id: str
    """Unique per instance, stable across restarts, so that Kafka aborts what this instance left open."""
    heartbeat_file: str
    """Touched every few seconds for the container's health check; empty for none."""
    metrics_port: int
    """The port that Prometheus scrapes; 0 for no metrics."""

    @classmethod
    def from_env(
        cls,
        environ: Mapping[str, str],
        source: tuple[str, str] = ("TRANSACTIONS_TOPIC", "queueing.transactions"),
        outputs: Mapping[str, tuple[str, str]] = ROUTES,
        group: str = "fraud-detector",
        **more: Any,
    ) -> Self:
        """Read the settings. Raises ConfigurationError at the first variable that is missing or malformed."""
        read = partial(read_variable, environ)
        try:
            security = security_from_env(environ)
        except ValueError as error:
            raise ConfigurationError(error) from None

        def topic(name: str, example: str) -> str:
            return read(name, TOPIC, f"the name of a topic (letters, digits, '.', '_', '-'), such as {example}")

        group = read("CONSUMER_GROUP", r"\S+", "a name without spaces", group)
        settings = cls(
            broker_url=read(
                "KAFKA_BROKER_URL",
                f"{ADDRESS}(,{ADDRESS})*",
                "host:port with a port from 1 to 65535, such as broker:9092",
            ),
            security=security,
            transactions_topic=topic(*source),
            outputs={route: topic(name, example) for route, (name, example) in outputs.items()},
            consumer_group=group,
            transactional_id=read(
                "TRANSACTIONAL_ID", r"\S+", "a name without spaces", f"{group}-{socket.gethostname()}"
            ),
            heartbeat_file=writable_file(environ, "HEARTBEAT_FILE"),
            metrics_port=int(read("METRICS_PORT", f"0|{PORT}", "a port from 1 to 65535, or leave it out", "0")),
            **more,
        )
        topics = [settings.transactions_topic, *settings.outputs.values()]
        if len(set(topics)) < len(topics):
            raise ConfigurationError(f"a topic is named twice ({', '.join(topics)}): give each its own")
        return settings


def read_variable(environ: Mapping[str, str], name: str, pattern: str, remedy: str, default: str = "") -> str:
    """Return the variable, or the default if it is missing or empty. Raises ConfigurationError if it does not match."""
    value = environ.get(name) or default
    if not re.fullmatch(pattern, value):
        raise ConfigurationError(f"{name} is {repr(value) if value else 'not set'}: give it {remedy}")
    return value


def writable_file(environ: Mapping[str, str], name: str) -> str:
    """Return the path in the variable, or "" if there is none. Raises ConfigurationError if it cannot be written."""
    path = environ.get(name, "")
    try:
        if path:
            open(path, "a").close()
            os.utime(path, (0, 0))  # old, so that it does not count as a sign of life yet
    except OSError as error:
        remedy = "give it a file in a folder that exists and can be written, or leave it out"
        raise ConfigurationError(f"{name} is {path!r} ({error.strerror}): {remedy}") from None
    return path
