"""What the peers share: their configuration, by the same variables as the detector's, and the tutorial's rule."""

import json
import os

BROKER_URL = os.environ["KAFKA_BROKER_URL"]
TRANSACTIONS_TOPIC = os.environ["TRANSACTIONS_TOPIC"]
LEGIT_TOPIC = os.environ["LEGIT_TOPIC"]
FRAUD_TOPIC = os.environ["FRAUD_TOPIC"]
DEAD_LETTER_TOPIC = os.environ["DEAD_LETTER_TOPIC"]
GROUP = os.environ["CONSUMER_GROUP"]

LOW_LATENCY = os.environ.get("TUNING") == "latency"
"""Whether to be tuned for latency, and not for throughput."""

BATCH_RECORDS = 20_000
"""A transaction's records at the most, as in the detector."""


def route(value: bytes | None) -> str:
    """Return the topic for a value. It looks at the amount only: less work than the detector's rule."""
    try:
        amount = json.loads(value or b"")["amount"]
        return FRAUD_TOPIC if amount >= 900 else LEGIT_TOPIC
    except (ValueError, TypeError, KeyError):
        return DEAD_LETTER_TOPIC
