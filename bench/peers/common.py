"""What the peers share: their configuration, by the same variables as the detector's, and the tutorial's rule."""

import json
from os import environ

BROKER_URL, GROUP = environ["KAFKA_BROKER_URL"], environ["CONSUMER_GROUP"]
TRANSACTIONS_TOPIC, LEGIT_TOPIC = environ["TRANSACTIONS_TOPIC"], environ["LEGIT_TOPIC"]
FRAUD_TOPIC, DEAD_LETTER_TOPIC = environ["FRAUD_TOPIC"], environ["DEAD_LETTER_TOPIC"]
LOW_LATENCY = environ.get("TUNING") == "latency"  # else they are tuned for throughput
BATCH_RECORDS = 20_000


def route(value: bytes | None) -> str:
    """Return the topic for a value. It looks at the amount only: less work than the detector's rule."""
    try:
        return FRAUD_TOPIC if json.loads(value or b"")["amount"] >= 900 else LEGIT_TOPIC
    except (ValueError, TypeError, KeyError):
        return DEAD_LETTER_TOPIC


def errors(message: str, topic: str, partition: int, offset: int) -> list[tuple[str, bytes]]:
    """Return the headers that our detector adds to a dead letter."""
    found = {"exception": "InvalidTransaction", "message": message, "topic": topic}
    found |= {"partition": str(partition), "offset": str(offset)}
    return [(f"__streams.errors.{name}", value.encode()) for name, value in found.items()]
