"""Quix Streams with processing_guarantee="exactly-once": its commits are Kafka transactions."""

import os

import orjson
from common import (
    BATCH_RECORDS,
    BROKER_URL,
    DEAD_LETTER_TOPIC,
    FRAUD_TOPIC,
    GROUP,
    LEGIT_TOPIC,
    LOW_LATENCY,
    TRANSACTIONS_TOPIC,
)
from quixstreams import Application
from quixstreams.models import Topic


def main() -> None:
    """Run until killed."""
    app = Application(
        broker_address=BROKER_URL,
        consumer_group=GROUP,
        auto_offset_reset="earliest",
        processing_guarantee="exactly-once",
        commit_every=BATCH_RECORDS,
        commit_interval=0.02 if LOW_LATENCY else 1.0,  # seconds; a commit comes by whichever is first
        consumer_poll_timeout=0.02 if LOW_LATENCY else 0.1,  # it looks at the commit's time once in that, if idle
        producer_extra_config={
            "transactional.id": GROUP,
            "linger.ms": 0 if LOW_LATENCY else 50,
            "retry.backoff.ms": 5,  # each transaction waits for the markers of the one before; the default is 100
        },
        state_dir=os.environ["STATE_FOLDER"],
        loglevel="WARNING",
    )

    # Bytes, and not its JSON topics: those would write the value anew, and the records are to come out as they came.
    def topic(name: str) -> Topic:
        return app.topic(name, value_deserializer="bytes", value_serializer="bytes")

    legit, fraud, dead_letter = topic(LEGIT_TOPIC), topic(FRAUD_TOPIC), topic(DEAD_LETTER_TOPIC)

    def route(value: bytes, key: object, timestamp: int, headers: object) -> Topic:
        try:
            # The decoder that its JSON topics use.
            return fraud if orjson.loads(value)["amount"] >= 900 else legit
        except (ValueError, TypeError, KeyError):
            return dead_letter

    app.dataframe(topic(TRANSACTIONS_TOPIC)).to_topic(route)
    app.run()


if __name__ == "__main__":
    main()
