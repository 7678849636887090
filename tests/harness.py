"""What the tests with a real broker share: topics of their own, the services as processes, writing and reading."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.serializer import Serializer

ROOT = Path(__file__).parent.parent
MAX_REQUEST = 100_000_000


class Record(NamedTuple):
    """A record as it is written or read; the order is that of comparison in tests."""

    value: bytes | None
    key: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    timestamp: int | None = None
    """Milliseconds since 1970."""
    partition: int = 0
    offset: int | None = None


class Service:
    """The generator or the detector as a process, started as in production."""

    def __init__(self, name: str, environ: dict[str, str], python: str = sys.executable) -> None:
        self._file = tempfile.TemporaryFile("w+")  # noqa: SIM115 (as long as the service)
        self.process = subprocess.Popen(
            [python, "app.py"],
            cwd=ROOT / name,
            env={**os.environ, **environ},
            stdout=self._file,
            stderr=subprocess.STDOUT,
        )

    @property
    def log(self) -> str:
        """What it has printed so far."""
        self._file.seek(0)
        return self._file.read()

    def wait_for(self, text: str, seconds: float = 30) -> None:
        """Wait until it has printed the text."""
        wait_until(lambda: text in self.log or self.process.poll() is not None, seconds, lambda: self.log)
        assert text in self.log, self.log

    def wait(self, seconds: float = 60) -> int:
        """Wait for its end, and return the exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds} s:\n{self.log}") from None

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = 20) -> int:
        """Send it a signal, and return the exit code."""
        self.process.send_signal(number)
        return self.wait(seconds)


@dataclass
class Pipeline:
    """Four topics and a group of its own on a cluster, and the services that use them."""

    broker_url: str
    partitions: int = 1
    name: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    def __post_init__(self) -> None:
        self.transactions = f"{self.name}.transactions"
        self.legit = f"{self.name}.legit"
        self.fraud = f"{self.name}.fraud"
        self.dead_letter = f"{self.name}.dead-letter"
        self.outputs = (self.legit, self.fraud, self.dead_letter)

    def environ(self, name: str, **more: str) -> dict[str, str]:
        """Return the environment of a service."""
        common = {"KAFKA_BROKER_URL": self.broker_url, "TRANSACTIONS_TOPIC": self.transactions}
        if name == "generator":
            return common | {"TRANSACTIONS_PER_SECOND": "1000"} | more
        topics = {"LEGIT_TOPIC": self.legit, "FRAUD_TOPIC": self.fraud, "DEAD_LETTER_TOPIC": self.dead_letter}
        return common | topics | {"CONSUMER_GROUP": self.name} | more

    @contextmanager
    def service(self, name: str, **more: str) -> Iterator[Service]:
        """Run a service as long as the block; it is killed at the end if it still runs."""
        service = Service(name, self.environ(name, **more))
        try:
            yield service
        finally:
            service.process.kill()
            service.process.wait()

    @contextmanager
    def admin(self) -> Iterator[KafkaAdminClient]:
        """Return a client for topics and groups."""
        client = KafkaAdminClient(bootstrap_servers=self.broker_url)
        try:
            yield client
        finally:
            client.close()

    def create(self, topic: str, partitions: int | None = None, **configs: str) -> None:
        """Create a topic; in the names of its configs, _ stands for a point."""
        options = {
            "num_partitions": partitions or self.partitions,
            "configs": {name.replace("_", "."): value for name, value in configs.items()},
        }
        with self.admin() as admin:
            admin.create_topics({topic: options}, wait_for_metadata=True)

    def write(self, records: Iterable[Record], **config: Any) -> None:
        """Write records to the transactions topic, and wait until all are acknowledged."""
        producer = KafkaProducer(
            bootstrap_servers=self.broker_url, value_serializer=_Raw(), max_request_size=MAX_REQUEST, **config
        )
        transactional = "transactional_id" in config
        if transactional:
            producer.init_transactions()
            producer.begin_transaction()
        futures = [
            producer.send(self.transactions, r, r.key, partition=r.partition, timestamp_ms=r.timestamp) for r in records
        ]
        producer.flush()
        for future in futures:
            future.get(10)
        if transactional:
            producer.commit_transaction()
        producer.close()

    def read(self, topic: str) -> list[Record]:
        """Return all committed records of a topic, by partition and offset."""
        consumer = KafkaConsumer(
            bootstrap_servers=self.broker_url,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            fetch_max_bytes=MAX_REQUEST,
        )
        partitions = [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic) or ())]
        if not partitions:  # the topic is not there yet
            consumer.close()
            return []
        consumer.assign(partitions)
        ends = consumer.end_offsets(partitions)  # the last stable offsets, for a reader of committed records
        consumer.seek_to_beginning(*partitions)
        records = []
        while any(consumer.position(partition) < end for partition, end in ends.items()):
            for batch in consumer.poll(500, max_records=100_000).values():
                records += [Record(r.value, r.key, tuple(r.headers), r.timestamp, r.partition, r.offset) for r in batch]
        consumer.close()
        return sorted(records, key=lambda record: (record.partition, record.offset))

    def count(self, *topics: str) -> int:
        """Return how many offsets the topics have up to their ends, transaction markers included."""
        consumer = KafkaConsumer(bootstrap_servers=self.broker_url, isolation_level="read_committed")
        partitions = [TopicPartition(t, p) for t in topics for p in consumer.partitions_for_topic(t) or ()]
        total = sum(consumer.end_offsets(partitions).values())
        consumer.close()
        return total

    def lag(self) -> int:
        """Return how many offsets of the transactions topic the group has not committed yet."""
        consumer = KafkaConsumer(bootstrap_servers=self.broker_url, group_id=self.name, enable_auto_commit=False)
        partitions = [TopicPartition(self.transactions, p) for p in consumer.partitions_for_topic(self.transactions)]
        assert partitions  # a broker that has just started may not know its topics yet
        ends = consumer.end_offsets(partitions)
        lag = sum(end - (consumer.committed(partition) or 0) for partition, end in ends.items())
        consumer.close()
        return lag

    def _topics(self) -> list[str]:
        with self.admin() as admin:
            return list(admin.list_topics())

    def drain(self, seconds: float = 60) -> None:
        """Wait until the detector has committed everything that was written."""
        wait_until(
            lambda: self.transactions in self._topics() and self.lag() == 0, seconds, lambda: f"lag is {self.lag()}"
        )


class _Raw(Serializer):
    """Writes a Record's value and headers, nulls included, which send() itself refuses."""

    def serialize(self, topic: str, headers: list[tuple[str, bytes | None]], data: Record) -> bytes | None:
        headers[:] = data.headers
        return data.value


def wait_until(condition: Callable[[], bool], seconds: float, describe: Callable[[], str] = str) -> None:
    """Wait until the condition holds; fail, with the description, if it does not within the time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {describe()}"
        time.sleep(0.1)


def transaction(amount: object = 10, **members: object) -> bytes:
    """Return the value of a valid transaction."""
    return json.dumps({"source": "alice", "target": "bob", "amount": amount, "currency": "EUR", **members}).encode()
