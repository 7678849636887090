"""The topics of a run: created, filled by our generator, read back whole, and deleted."""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition

ROOT = Path(__file__).parent.parent
ROLES = ("legit", "fraud", "dead-letter")


class Record(NamedTuple):
    """A record as it is read back."""

    partition: int
    offset: int
    timestamp: int
    """Milliseconds since 1970."""
    value: bytes


@dataclass
class Pipeline:
    """An input topic, and three output topics and a group of its own for whoever drains it."""

    broker_url: str
    transactions: str
    partitions: int = 1
    name: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    @property
    def outputs(self) -> dict[str, str]:
        """The output topics by their roles."""
        return {role: f"{self.name}.{role}" for role in ROLES}

    @property
    def output_partitions(self) -> list[TopicPartition]:
        """The partitions of all outputs."""
        return [TopicPartition(topic, p) for topic in self.outputs.values() for p in range(self.partitions)]

    @property
    def environ(self) -> dict[str, str]:
        """The variables by which our detector and its peers are told all this."""
        return {
            "KAFKA_BROKER_URL": self.broker_url,
            "TRANSACTIONS_TOPIC": self.transactions,
            "CONSUMER_GROUP": self.name,
            **{f"{role.upper().replace('-', '_')}_TOPIC": topic for role, topic in self.outputs.items()},
        }

    @contextmanager
    def created(self) -> Iterator["Pipeline"]:
        """Create the output topics, so that nobody's time has that in it, and delete them after the block."""
        create(self.broker_url, *self.outputs.values(), partitions=self.partitions)
        yield self
        with closing(KafkaAdminClient(bootstrap_servers=self.broker_url)) as admin:
            admin.delete_topics(list(self.outputs.values()))


def create(broker_url: str, *topics: str, partitions: int = 1) -> None:
    """Create topics."""
    with closing(KafkaAdminClient(bootstrap_servers=broker_url)) as admin:
        admin.create_topics({topic: {"num_partitions": partitions} for topic in topics}, wait_for_metadata=True)


def fill(broker_url: str, topic: str, records: int, partitions: int = 1) -> None:
    """Create a topic and have our generator write so many transactions to it, as fast as it can."""
    create(broker_url, topic, partitions=partitions)
    environ = {
        "KAFKA_BROKER_URL": broker_url,
        "TRANSACTIONS_TOPIC": topic,
        "TRANSACTIONS_PER_SECOND": "unlimited",
        "TRANSACTIONS_LIMIT": str(records),
    }
    done = subprocess.run(
        [sys.executable, "app.py"],
        cwd=ROOT / "generator",
        env={**os.environ, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"the generator has failed:\n{done.stdout}")


def read(broker_url: str, topic: str) -> list[Record]:
    """Return all committed records of a topic, by partition and offset."""
    consumer = KafkaConsumer(
        bootstrap_servers=broker_url,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    with closing(consumer):
        partitions = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic) or ()]
        consumer.assign(partitions)
        ends = consumer.end_offsets(partitions)
        consumer.seek_to_beginning(*partitions)
        records: list[Record] = []
        while any(consumer.position(partition) < end for partition, end in ends.items()):
            for batch in consumer.poll(500, max_records=10_000).values():
                records += [Record(r.partition, r.offset, r.timestamp, r.value) for r in batch]
    return sorted(records)
