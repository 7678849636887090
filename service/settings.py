"""Configuration from the environment. Whatever is missing or malformed ends a service with exit code 2 and one line."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from service.access import PORT, Access, access_from_env, read_secret
from service.access import ConfigurationError as ConfigurationError
from service.identity import Identity
from service.upstream import IDENTITY

TOPIC = r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}"
ADDRESS = rf"([^\s,:/@\[\]]+|\[[0-9A-Fa-f:.]+\]):{PORT}"
LOOPBACK = re.compile(r"(localhost|127(\.[0-9]+){3}|\[::1\]):[0-9]+")
BROKERS, LIKE_BROKERS = "KAFKA_BROKER_URL", "(KAFKA_)?(BOOTSTRAP_SERVERS?|BROKERS?(_LIST|_URLS)?)"
NUMBER = r"([0-9]+\.?[0-9]*|\.[0-9]+)([Ee][-+]?[0-9]+)?"


@dataclass(frozen=True)
class Cluster:
    """Where Kafka is, and how it lets us in."""

    broker_url: str
    """host:port, or several separated by commas; an IPv6 address is in brackets."""
    access: Access
    """Further settings of every Kafka client, to authenticate and encrypt."""
    identity: Identity = field(default_factory=Identity, repr=False, compare=False)
    """Which cluster it is, once that is known."""

    @property
    def config(self) -> dict[str, Any]:
        """The settings of every client of a service."""
        return {"bootstrap_servers": self.addresses, IDENTITY: self.identity, **self.access}

    @property
    def addresses(self) -> list[str]:
        """The addresses, each as host:port."""
        return self.broker_url.split(",")


class Environment:
    """The variables of a service. Each method reads one, and raises ConfigurationError if it does not fit."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ

    def text(self, name: str, pattern: str, remedy: str, default: str = "") -> str:
        """Return the variable, or the default if it is missing or empty. It has to match; the remedy says what does."""
        value = self.environ.get(name) or default
        if not re.fullmatch(pattern, value):
            raise ConfigurationError(f"{name} is {repr(value) if value else 'not set'}: give it {remedy}")
        return value

    def name(self, name: str, default: str = "") -> str:
        """Return a name without spaces, such as a group's."""
        return self.text(name, r"\S+", "a name without spaces", default)

    def topic(self, name: str, example: str, default: str = "") -> str:
        """Return the name of a topic."""
        remedy = f"the name of a topic (letters, digits, '.', '_', '-'), such as {example}"
        return self.text(name, TOPIC, remedy, default)

    def number(self, name: str, remedy: str, endless: str, default: str = "") -> float:
        """Return a finite number above 0, in the notation of JSON or C; infinity for the word that stands for it."""
        value = self.text(name, f"{endless}|{NUMBER}", remedy, default)
        if value == endless:
            return float("inf")
        if not 0 < float(value) < float("inf"):
            raise ConfigurationError(f"{name} is {value!r}: give it {remedy}")
        return float(value)

    def metrics_port(self) -> int:
        """Return the port that Prometheus scrapes; 0 for no metrics."""
        return int(self.text("METRICS_PORT", f"0|{PORT}", "a port from 1 to 65535, or leave it out", "0"))

    def cluster(self) -> Cluster:
        """Return where Kafka is."""
        remedy = "host:port with a port from 1 to 65535, such as broker:9092"
        if not (brokers := self.environ.get(BROKERS)):
            others = [name for name in self.environ if re.fullmatch(LIKE_BROKERS, name)]
            instead = f" ({others[0]} is of no use here)" if others else ""
            raise ConfigurationError(f"{BROKERS} is not set{instead}: give it {remedy}")
        addresses = [address.strip(" ") for address in brokers.split(",")]
        for number, address in enumerate(addresses, 1):
            if not re.fullmatch(ADDRESS, address):  # it may hold credentials
                what = f"{BROKERS}: address {number}, {len(address)} characters, is none"
                raise ConfigurationError(f"{what}: give it {remedy}, and no user or password")
        return Cluster(",".join(addresses), access_from_env(self.environ))

    def heartbeat_file(self) -> str:
        """Return the file that is touched every few seconds for the container's health check; "" for none."""
        path = self.environ.get("HEARTBEAT_FILE", "")
        try:
            if path:
                open(path, "a").close()
                os.utime(path, (0, 0))  # old, so that it does not count as a sign of life yet
        except OSError as error:
            remedy = "give it a file in a folder that exists and can be written, or leave it out"
            raise ConfigurationError(f"HEARTBEAT_FILE is {path!r} ({error.strerror}): {remedy}") from None
        return path

    def secret(self, name: str) -> str:
        """Return the variable, or what is in the file that name_FILE names."""
        return read_secret(self.environ, name).strip()
