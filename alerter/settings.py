"""The alerter's configuration, read from the environment."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from security import Security, security_from_env

NUMBER = r"(?=.*[1-9])([0-9]+\.?[0-9]*|\.[0-9]+)"  # above 0
TOPIC = r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}"
PORT = r"([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"  # 1 to 65535
ADDRESS = rf"([^\s,:/\[\]]+|\[[0-9A-Fa-f:.]+\]):{PORT}"


class ConfigurationError(ValueError):
    """A variable is missing or malformed; the message says what to change, and shows no secret."""


@dataclass(frozen=True)
class Settings:
    """The values from the environment, checked."""

    broker_url: str
    """host:port, or several separated by commas; an IPv6 address is in brackets."""
    security: Security
    alerts_topic: str
    fraud_topic: str
    """Empty if only alerts are read."""
    alert_amount: float
    """Frauds of this amount or more are reported as well, in any currency."""
    consumer_group: str
    urls: tuple[str, ...] = field(repr=False)
    """The receivers' addresses, for Apprise. They contain passwords and tokens."""
    alerts_per_minute: int
    heartbeat_file: str
    """Touched every few seconds for the container's health check; empty for none."""

    @property
    def topics(self) -> set[str]:
        """The topics to read."""
        return {self.alerts_topic, self.fraud_topic} - {""}

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "Settings":
        """Read the settings. Raises ConfigurationError at the first variable that is missing or malformed."""
        read = partial(read_variable, environ)
        topic = "the name of a topic (letters, digits, '.', '_', '-'), such as streaming.alerts"
        amount = read("ALERT_AMOUNT", rf"inf|{NUMBER}", "a number above 0, such as 1000, or leave it out", "inf")
        try:
            security = security_from_env(environ)
        except ValueError as error:
            raise ConfigurationError(str(error)) from None
        return cls(
            broker_url=read(
                "KAFKA_BROKER_URL",
                f"{ADDRESS}(,{ADDRESS})*",
                "host:port with a port from 1 to 65535, such as broker:9092",
            ),
            security=security,
            alerts_topic=read("ALERTS_TOPIC", TOPIC, topic),
            fraud_topic="" if amount == "inf" else read("FRAUD_TOPIC", TOPIC, f"{topic}, or leave out ALERT_AMOUNT"),
            alert_amount=float(amount),
            consumer_group=read("CONSUMER_GROUP", r"\S+", "a name without spaces", "alerter"),
            urls=tuple(re.split(r"\s+|,(?=\w+://)", urls)) if (urls := read_secret(environ, "ALERT_URLS")) else (),
            alerts_per_minute=int(read("ALERTS_PER_MINUTE", "0*[1-9][0-9]{0,5}", "a whole number above 0", "10")),
            heartbeat_file=writable_file(environ, "HEARTBEAT_FILE"),
        )


def read_variable(environ: Mapping[str, str], name: str, pattern: str, remedy: str, default: str = "") -> str:
    """Return the variable, or the default if it is missing or empty. Raises ConfigurationError if it does not match."""
    value = environ.get(name) or default
    if not re.fullmatch(pattern, value):
        raise ConfigurationError(f"{name} is {repr(value) if value else 'not set'}: give it {remedy}")
    return value


def read_secret(environ: Mapping[str, str], name: str) -> str:
    """Return the variable, or what is in the file that name_FILE names. Raises ConfigurationError for a bad file."""
    value, path = environ.get(name, ""), environ.get(f"{name}_FILE", "")
    if value and path:
        raise ConfigurationError(f"{name} and {name}_FILE are both set: leave one out")
    try:
        return (Path(path).read_text("utf-8") if path else value).strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigurationError(f"{name}_FILE is {path!r} ({reason}): give it a file that can be read") from None


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
