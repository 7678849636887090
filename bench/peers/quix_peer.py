"""Quix Streams with processing_guarantee="exactly-once": its commits are Kafka transactions."""

import os

import common
import orjson
from common import BATCH_RECORDS, LOW_LATENCY
from quixstreams import Application
from quixstreams.models import Topic

app = Application(
    broker_address=common.BROKER_URL,
    consumer_group=common.GROUP,
    auto_offset_reset="earliest",
    processing_guarantee="exactly-once",
    commit_every=BATCH_RECORDS,
    commit_interval=0.02 if LOW_LATENCY else 1.0,  # seconds; a commit comes by whichever is first
    consumer_poll_timeout=0.02 if LOW_LATENCY else 0.1,  # it looks at the commit's time once in that, if idle
    producer_extra_config={
        "transactional.id": common.GROUP,
        "linger.ms": 0 if LOW_LATENCY else 50,
        "retry.backoff.ms": 5,  # each transaction waits for the markers of the one before; the default is 100
    },
    state_dir=os.environ["STATE_FOLDER"],
    loglevel="WARNING",
)
# Bytes, and not its JSON topics: those would write the value anew, and the records are to come out as they came.
source, legit, fraud, dead_letter = (
    app.topic(name, value_deserializer="bytes", value_serializer="bytes")
    for name in (common.TRANSACTIONS_TOPIC, common.LEGIT_TOPIC, common.FRAUD_TOPIC, common.DEAD_LETTER_TOPIC)
)


def route(value: bytes, key: object, timestamp: int, headers: object) -> Topic:
    """Return the topic, as common.route() does, but with the decoder that its JSON topics use."""
    try:
        return fraud if orjson.loads(value)["amount"] >= 900 else legit
    except (ValueError, TypeError, KeyError):
        return dead_letter


app.dataframe(source).to_topic(route)
app.run()
