"""Step 3: what is written, and how far was read, are committed in one Kafka transaction: exactly once.

A failure ends the process. The next start aborts what was left open, and goes on from the committed offsets.
"""

import os
import signal
import socket
import sys
import threading
from typing import Any

from kafka import KafkaConsumer, KafkaProducer
from kafka.errors import KafkaError
from kafka.structs import MemberState, OffsetAndMetadata

from detector.rule import decide

KAFKA_BROKER_URL, TRANSACTIONS_TOPIC = os.environ["KAFKA_BROKER_URL"], os.environ["TRANSACTIONS_TOPIC"]
TOPICS = {route: os.environ[f"{route.upper()}_TOPIC"] for route in ("legit", "fraud", "dead_letter")}
CONSUMER_GROUP = os.environ["CONSUMER_GROUP"]
TRANSACTIONAL_ID = os.environ.get("TRANSACTIONAL_ID") or f"{CONSUMER_GROUP}-{socket.gethostname()}"


def outgoing(record: Any) -> tuple[Any, ...]:
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
        enable_auto_commit=False,  # the transaction commits
        isolation_level="read_committed",  # also of offsets: it waits for those of a transaction that is not decided
        auto_offset_reset="earliest",  # of a group that has committed nothing so far
        session_timeout_ms=6000,  # after that time, the others of the group take over from one that was killed
        metadata_max_age_ms=10_000,  # how soon a topic is found that was not there at the start
        reconnect_backoff_max_ms=1000,
    )
    producer = KafkaProducer(
        bootstrap_servers=KAFKA_BROKER_URL,
        transactional_id=TRANSACTIONAL_ID,
        transaction_timeout_ms=15_000,  # what one that was killed has left open ends then, if it does not come back
        retry_backoff_ms=20,  # each transaction waits for the end of the one before
        batch_size=256 * 1024,
        linger_ms=5,
        reconnect_backoff_max_ms=1000,
    )
    producer.init_transactions()  # aborts what an earlier process of this id has left open
    generation = -1
    while not stopping.is_set():
        signal.alarm(30)  # seconds; ends the process if a call does not return, as some do not without a broker
        polled = consumer.poll(timeout_ms=500, max_records=10_000)
        group = consumer.group_metadata()  # right after the poll, so that Kafka refuses the offsets after a rebalance
        if group.state != MemberState.STABLE or group.generation_id != generation:
            generation = -1 if group.state != MemberState.STABLE else group.generation_id
            for partition in consumer.assignment():  # others may have had it meanwhile, and the client does not know
                consumer.seek(partition, consumer.committed(partition) or 0)
        elif polled:
            producer.begin_transaction()
            sent = [producer.send(*outgoing(record)) for records in polled.values() for record in records]
            offsets = {partition: OffsetAndMetadata(records[-1].offset + 1) for partition, records in polled.items()}
            producer.send_offsets_to_transaction(offsets, group)
            producer.flush()
            for future in sent:
                future.get(timeout=0)  # raises if this record was not written: neither flush nor commit does
            producer.commit_transaction()
    consumer.close()


if __name__ == "__main__":
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    print(f"Starting with the group {CONSUMER_GROUP} as {TRANSACTIONAL_ID}", flush=True)
    try:
        run(stopping)
    except KafkaError as error:
        sys.exit(f"Kafka failed, ending: {error!r}")
