"""The generator's configuration, read from the environment."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from security import Security, security_from_env

NUMBER = r"(?=.*[1-9])([0-9]+\.?[0-9]*|\.[0-9]+)"  # above 0
TOPIC = r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}"
PORT = r"([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"  # 1 to 65535
ADDRESS = rf"([^\s,:/\[\]]+|\[[0-9A-Fa-f:.]+\]):{PORT}"


class ConfigurationError(ValueError):
    """A variable is missing or malformed; the message says what to change."""


@dataclass(frozen=True)
class Settings:
    """The values from the environment, checked."""

    broker_url: str
    """host:port, or several separated by commas; an IPv6 address is in brackets."""
    security: Security
    """Further settings of every Kafka client, to authenticate and encrypt."""
    transactions_topic: str
    transactions_per_second: float
    """float("inf") for unlimited."""
    transactions_limit: float
    """How many to deliver in all; float("inf") for no limit."""
    heartbeat_file: str
    """Touched every few seconds for the container's health check; empty for none."""
    metrics_port: int
    """The port that Prometheus scrapes; 0 for no metrics."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "Settings":
        """Read the settings. Raises ConfigurationError at the first variable that is missing or malformed."""
        read = partial(read_variable, environ)
        try:
            security = security_from_env(environ)
        except ValueError as error:
            raise ConfigurationError(error) from None
        rate = read("TRANSACTIONS_PER_SECOND", f"{NUMBER}|unlimited", "a number above 0, such as 1000, or unlimited")
        limit = read("TRANSACTIONS_LIMIT", r"inf|0*[1-9][0-9]*", "a whole number above 0, or leave it out", "inf")
        return cls(
            broker_url=read(
                "KAFKA_BROKER_URL",
                f"{ADDRESS}(,{ADDRESS})*",
                "host:port with a port from 1 to 65535, such as broker:9092",
            ),
            security=security,
            transactions_topic=read(
                "TRANSACTIONS_TOPIC",
                TOPIC,
                "the name of a topic (letters, digits, '.', '_', '-'), such as queueing.transactions",
            ),
            transactions_per_second=float("inf" if rate == "unlimited" else rate),
            transactions_limit=float(limit),
            heartbeat_file=writable_file(environ, "HEARTBEAT_FILE"),
            metrics_port=int(read("METRICS_PORT", f"0|{PORT}", "a port from 1 to 65535, or leave it out", "0")),
        )


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
