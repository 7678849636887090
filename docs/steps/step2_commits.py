"""Step 2: with a consumer group, whose offsets are committed once everything is written: at least once.

A failure ends the process. The next start goes on from the committed offsets, and writes again what was written since.
"""

import os
import signal
import sys
import threading
from typing import Any

from kafka import KafkaConsumer, KafkaProducer
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import KafkaError

from detector.rule import decide

KAFKA_BROKER_URL, TRANSACTIONS_TOPIC = os.environ["KAFKA_BROKER_URL"], os.environ["TRANSACTIONS_TOPIC"]
TOPICS = {route: os.environ[f"{route.upper()}_TOPIC"] for route in ("legit", "fraud", "dead_letter")}
CONSUMER_GROUP = os.environ["CONSUMER_GROUP"]


def outgoing(record: ConsumerRecord) -> tuple[Any, ...]:
    """Return what to send: the topic that the rule decides on, and the record as it came."""
    decision = decide(record.value)
    headers = [(name, value or b"") for name, value in record.headers]  # the client sends no header without a value
    if decision.reason:
        place = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
        errors = {"exception": "InvalidTransaction", "message": decision.reason, **place}
        headers += [(f"__streams.errors.{name}", str(error).encode()) for name, error in errors.items()]
    value = b"" if record.key is None and record.value is None else record.value  # nor a record without both
    return TOPICS[decision.route], value, record.key, headers, record.partition, record.timestamp


def run(stopping: threading.Event) -> None:
    """Hand on what is read, until it is time to stop. Raises KafkaError."""
    sys.setswitchinterval(0.05)  # seconds; the client's threads would take the interpreter from each other too often
    consumer = KafkaConsumer(
        TRANSACTIONS_TOPIC,
        bootstrap_servers=KAFKA_BROKER_URL,
        group_id=CONSUMER_GROUP,
        enable_auto_commit=False,  # a timer would also commit what is not written yet
        auto_offset_reset="earliest",  # of a group that has committed nothing so far
        session_timeout_ms=6000,  # after that time, the others of the group take over from one that was killed
        metadata_max_age_ms=10_000,  # how soon a topic is found that was not there at the start
        reconnect_backoff_max_ms=1000,
    )
    producer = KafkaProducer(
        bootstrap_servers=KAFKA_BROKER_URL,
        batch_size=256 * 1024,
        linger_ms=5,
        reconnect_backoff_max_ms=1000,
    )
    while not stopping.is_set():
        polled = consumer.poll(timeout_ms=500, max_records=10_000)
        sent = [producer.send(*outgoing(record)) for records in polled.values() for record in records]
        producer.flush()
        for future in sent:
            future.get(timeout=0)  # raises if this record was not written: the flush does not
        if sent:
            consumer.commit()
    consumer.close()
    producer.close()


if __name__ == "__main__":
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    print(f"Starting with the group {CONSUMER_GROUP}", flush=True)
    try:
        run(stopping)
    except KafkaError as error:
        sys.exit(f"Kafka failed, ending: {error!r}")
