"""`python -m demo.attack`: sends a ring of 50 accounts through the running pipeline, and one of 49.

Each account sends 1,000 EUR to the receiver of its ring. The ring of 50 must raise an alert, the ring of 49 must not.
"""

import argparse
import json
import logging
import os
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import closing

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from demo.observer import ALERTER_GROUP, SMURFING_GROUP
from demo.observer import ALERTS_TOPIC as ALERTS
from embedded.pipeline import Pipeline
from embedded.records import Record, partitions_of
from embedded.service import wait_until
from exactly_once.unpacking import records_of
from exactly_once.varints import VARINT
from exactly_once.whole_batches import read_whole_batches
from service.settings import ConfigurationError, Environment

CANDIDATES = "streaming.smurfing.candidates"
FETCH_BYTES = 1024 * 1024
SECONDS = 180
"""How long the alert may take."""
BROKER_HELP = "(default: KAFKA_BROKER_URL, or localhost:29092)"


def running_pipeline(broker: str | None) -> Pipeline:
    """Return the pipeline at this address, or at that of the environment, which also has the names and how to get in.

    Raises ConfigurationError.
    """
    address = broker or os.environ.get("KAFKA_BROKER_URL") or "localhost:29092"
    return Pipeline.from_env(Environment({**os.environ, "KAFKA_BROKER_URL": address}))


def is_ready(pipeline: Pipeline) -> bool:
    """Return whether the smurfing detector has created its topics. Raises KafkaError."""
    with pipeline.admin() as admin:
        return {pipeline.transactions, CANDIDATES, ALERTS} <= set(admin.list_topics())


def send(pipeline: Pipeline) -> tuple[str, str]:
    """Send both rings, and return their receivers, the ring of 49's first. Raises KafkaError."""
    with pipeline.admin() as admin:
        partitions = len(admin.describe_topics([pipeline.transactions])[0]["partitions"])
    small, large = (f"{name}-{uuid.uuid4().hex[:6]}" for name in ("harmless", "launderer"))
    print(f"49 accounts send 1,000 EUR each to {small}, and 50 to {large} ...", flush=True)
    # The small ring comes first in each partition: it is among the candidates when the large one is told.
    pipeline.write([*ring(small, 49, partitions), *ring(large, 50, partitions)])
    return small, large


def see(pipeline: Pipeline, small: str, large: str) -> None:
    """Print what has become of both rings. Raises LookupError if that is wrong, TimeoutError and KafkaError."""
    wait_until(lambda: about(pipeline, ALERTS, large) != [], SECONDS, lambda: f"no alert about {large}")
    (alert,) = about(pipeline, ALERTS, large)
    print(f"The alert is in {ALERTS}: {json.dumps(json.loads(alert.value or b''))}", flush=True)
    wait_for_group(pipeline, ALERTER_GROUP, ALERTS, alert)
    print("The alerter has passed it on.", flush=True)
    wait_for_group(pipeline, SMURFING_GROUP, CANDIDATES, about(pipeline, CANDIDATES, small)[48])
    if about(pipeline, ALERTS, small):
        raise LookupError(f"there is an alert about {small} as well, and only 49 accounts have sent it something")
    print(f"Nothing about {small}, as it should be.")


def ring(target: str, sources: int, partitions: int) -> Iterator[Record]:
    """Yield a transfer from each of this many accounts, over all partitions in turn."""
    for number in range(sources):
        transfer = {"source": f"smurf-{number}", "target": target, "amount": 1000.0, "currency": "EUR"}
        yield Record(json.dumps(transfer).encode(), partition=number % partitions)


def about(pipeline: Pipeline, topic: str, target: str) -> list[Record]:
    """Return the committed records about an account: their key is its name."""
    key, found = target.encode(), []
    start = VARINT[len(key)] + key
    config = {
        "isolation_level": "read_committed",
        "enable_auto_commit": False,
        "max_partition_fetch_bytes": FETCH_BYTES,
    }
    with closing(KafkaConsumer(bootstrap_servers=pipeline.broker_url, **config, **pipeline.access)) as consumer:
        read_whole_batches(consumer)
        consumer.assign(partitions_of(consumer, topic))
        consumer.seek_to_beginning()
        ends = consumer.end_offsets(list(consumer.assignment()))
        until = time.monotonic() + SECONDS
        while any(consumer.position(partition) < end for partition, end in ends.items()):
            if time.monotonic() > until:
                raise TimeoutError(f"Kafka does not hand out {topic} within {SECONDS} s")
            for source, record in records_of(consumer.poll(500)):
                if bytes(record.content[: len(start)]) == start:
                    value = bytes(record.value or b"")
                    found.append(Record(value, key, partition=source.partition, offset=record.offset))
    return sorted(found, key=lambda record: (record.partition, record.offset))


def wait_for_group(pipeline: Pipeline, group: str, topic: str, record: Record) -> None:
    """Wait until a consumer group has committed what comes after a record. Raises TimeoutError."""
    partition, offset = TopicPartition(topic, record.partition), record.offset or 0
    with closing(KafkaConsumer(bootstrap_servers=pipeline.broker_url, **pipeline.access, group_id=group)) as consumer:
        wait_until(
            lambda: (consumer.committed(partition) or 0) > offset,
            SECONDS,
            lambda: f"the group {group} has not come past offset {offset} of {topic}: does its service run?",
        )


def main() -> int:
    """Return the exit code: 0 if all went as it should, 1 if it did not, 2 for bad configuration."""
    parser = argparse.ArgumentParser(prog="python -m demo.attack", description=__doc__)
    parser.add_argument("--broker", help=f"where Kafka is {BROKER_HELP}")
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # whatever matters is raised
    broker = parser.parse_args().broker
    try:
        pipeline = running_pipeline(broker)
        if not is_ready(pipeline):
            raise LookupError(f"there is no smurfing detector at {pipeline.broker_url}: 'make up ALERTS=1' first")
        see(pipeline, *send(pipeline))
    except ConfigurationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (KafkaError, LookupError, TimeoutError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
