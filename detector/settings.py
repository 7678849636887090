"""The detector's configuration, read from the environment."""

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from rule import DEAD_LETTER, FRAUD, LEGIT


class ConfigurationError(ValueError):
    """The environment or the topics are not as the detector needs them; the message says what to change."""


@dataclass(frozen=True)
class Settings:
    """What the environment says, checked."""

    broker_url: str
    """host:port, or several with commas between them."""
    transactions_topic: str
    legit_topic: str
    fraud_topic: str
    dead_letter_topic: str
    consumer_group: str
    transactional_id: str
    """The same after a restart, so that Kafka ends what this instance left open; another for each instance."""
    heartbeat_file: str
    """Touched every few seconds for the container's health check; empty for none."""

    @property
    def routes(self) -> dict[str, str]:
        """The output topic for each of the rule's answers."""
        return {LEGIT: self.legit_topic, FRAUD: self.fraud_topic, DEAD_LETTER: self.dead_letter_topic}

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "Settings":
        """Read the settings. Raises ConfigurationError at the first variable that is missing or malformed."""

        def read(name: str, pattern: str, remedy: str, default: str = "") -> str:
            value = environ.get(name) or default
            if not re.fullmatch(pattern, value):
                raise ConfigurationError(f"{name} is {repr(value) if value else 'not set'}: give it {remedy}")
            return value

        def topic(name: str, example: str) -> str:
            remedy = f"the name of a topic (letters, digits, '.', '_', '-'), such as {example}"
            return read(name, r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}", remedy)

        group = read("CONSUMER_GROUP", r"\S+", "a name without spaces", "fraud-detector")
        settings = cls(
            broker_url=read(
                "KAFKA_BROKER_URL", r"[^\s,:/]+:\d{1,5}(,[^\s,:/]+:\d{1,5})*", "host:port, such as broker:9092"
            ),
            transactions_topic=topic("TRANSACTIONS_TOPIC", "queueing.transactions"),
            legit_topic=topic("LEGIT_TOPIC", "streaming.transactions.legit"),
            fraud_topic=topic("FRAUD_TOPIC", "streaming.transactions.fraud"),
            dead_letter_topic=topic("DEAD_LETTER_TOPIC", "streaming.transactions.dead-letter"),
            consumer_group=group,
            transactional_id=read(
                "TRANSACTIONAL_ID", r"\S+", "a name without spaces", f"{group}-{socket.gethostname()}"
            ),
            heartbeat_file=environ.get("HEARTBEAT_FILE", ""),
        )
        topics = [settings.transactions_topic, *settings.routes.values()]
        if len(set(topics)) < len(topics):
            raise ConfigurationError(f"a topic is named twice ({', '.join(topics)}): give each of the four its own")
        return settings
