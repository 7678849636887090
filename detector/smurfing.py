"""Smurfing detector: finds receivers to whom many accounts send the same amount, and writes an alert for each ring.

What may be part of a ring goes to the candidates topic, keyed by receiver, and is counted when it is read from there.
The log is the state: after a rebalance candidates are read from the beginning; alerts start at the committed offset.
"""

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from hashlib import sha256

from kafka import KafkaAdminClient, TopicPartition
from kafka.partitioner.default import murmur2

from app import Detector, log, main
from batches import Columns, Record, decode, encode
from client import connect
from consumer import Consumer
from portion import Portion, Transaction, Written
from rings import GRACE_MS, HOUR_MS, Receivers, Ring, Transfer, parse_transfer
from settings import Settings, read_variable
from signals import Signals
from topics import (
    INPUT_PERMISSIONS,
    MAX_MESSAGE_BYTES,
    OUTPUT_CONFIGS,
    OUTPUT_PERMISSIONS,
    check_limits,
    create_missing,
    describe,
    find_configs,
)
from varints import VARINT, Bytes, read_varint

FRAUDS = ("FRAUD_TOPIC", "streaming.transactions.fraud")
OUTPUTS = {
    "candidates": ("CANDIDATES_TOPIC", "streaming.smurfing.candidates"),
    "alerts": ("ALERTS_TOPIC", "streaming.alerts"),
}
AMOUNT = r"9[0-9]{2}|[1-9][0-9]{3,11}"  # smaller ones are not in the fraud topic

Consequence = tuple[str, bytes, int, int, Bytes]
"""A record to be written: its topic, key, the offset of what it follows from, timestamp, and content after the key."""


@dataclass(frozen=True, kw_only=True)
class SmurfingSettings(Settings):
    """The values from the environment, checked. The transactions are those of the fraud topic."""

    amount: int
    sources: int
    window_ms: int

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> "SmurfingSettings":
        """Read the settings. Raises ConfigurationError at the first variable that is missing or malformed."""
        read = partial(read_variable, environ)
        return cls.from_env(
            {**dict(OUTPUTS.values()), **{name: value for name, value in environ.items() if value}},
            FRAUDS,
            OUTPUTS,
            "smurfing-detector",
            amount=int(read("SMURFING_AMOUNT", AMOUNT, "a whole number from 900 on", "1000")),
            sources=int(read("SMURFING_SOURCES", r"[2-9]|[1-9][0-9]{1,3}", "a whole number from 2 to 9999", "50")),
            window_ms=int(read("SMURFING_HOURS", r"[1-9][0-9]{0,3}", "a whole number from 1 to 9999", "24")) * HOUR_MS,
        )


class SmurfingDetector(Detector):
    """Forwards candidates, and counts those of its own partitions."""

    counted = ("frauds", "candidates", "alerts")

    def __init__(self, settings: SmurfingSettings, signals: Signals) -> None:
        self.rule, self.frauds = settings, settings.transactions_topic
        self.candidates, self.alerts = settings.outputs.values()
        super().__init__(settings, signals)

    def subscribe(self) -> Consumer:
        """Return a consumer of both topics. Raises KafkaError."""
        topics = [self.frauds, self.candidates]
        return Consumer(self.settings, self.signals, topics, self.on_assignment, replayed=[self.candidates])

    def prepare_topics(self) -> None:
        """Create missing topics, except the detector's fraud topic, and look up the size limits of the others."""
        with closing(connect(KafkaAdminClient, self.settings, self.signals)) as admin:
            partitions = describe(admin, [self.frauds], INPUT_PERMISSIONS)[self.frauds]
            configs = {
                **OUTPUT_CONFIGS,
                "retention.ms": self.rule.window_ms + GRACE_MS,
                "segment.ms": 6 * HOUR_MS,  # Kafka deletes whole segments
                **{"cleanup.policy": "delete", "message.timestamp.type": "CreateTime"},
                "max.message.bytes": MAX_MESSAGE_BYTES + 1024,  # for the key
            }
            create_missing(admin, [self.candidates], {"num_partitions": partitions, "configs": configs})
            create_missing(admin, [self.alerts], {"num_partitions": partitions})
            self.partitions = describe(admin, [self.candidates, self.alerts], OUTPUT_PERMISSIONS)
            found = find_configs(admin, [self.candidates, self.alerts])
            check_limits(admin, self.frauds, {self.candidates: found[self.candidates]})
            self.limits = {topic: int(configs["max.message.bytes"]) for topic, configs in found.items()}

    def on_assignment(self, committed: Mapping[TopicPartition, int | None]) -> None:
        """Start afresh: partitions come and go, and what this instance knows about one may be outdated."""
        self.prepare_topics()
        self.committed = {partition: offset or 0 for partition, offset in committed.items()}
        own = [partition for partition in committed if partition.topic == self.candidates]
        self.receivers = {partition: Receivers(self.rule.sources, self.rule.window_ms) for partition in own}
        log.info("The candidates of %d partitions are counted again, up to the committed offsets", len(own))

    def process(self, portion: Portion) -> Transaction | None:
        """Return what follows from a portion: nothing while its records are only counted again."""
        transaction = Transaction(portion.next_offsets, portion.group)
        written: dict[tuple[TopicPartition, TopicPartition], list[tuple[int, int, Bytes]]] = defaultdict(list)
        for source, chunks in portion.chunks.items():
            is_fraud = source.topic == self.frauds
            records = [record for chunk in chunks for record in decode(chunk)]
            transaction.counts["frauds" if is_fraud else "candidates"] += len(records)
            for topic, key, offset, timestamp, rest in (
                self.forward(records) if is_fraud else self.count(source, records)
            ):
                partition = (murmur2(key) & 0x7FFFFFFF) % self.partitions[topic]  # as Kafka's own clients do
                content = b"".join((VARINT[len(key)], key, rest))
                written[TopicPartition(topic, partition), source].append((offset, timestamp, content))
                transaction.counts["alerts"] += topic == self.alerts
        for (target, source), contents in written.items():
            batches = encode(Columns.of(contents), self.limits[target.topic])
            transaction.batches += (Written(target, batch, source) for batch in batches)
        return transaction if portion.next_offsets else None

    def forward(self, records: Iterable[Record]) -> Iterator[Consequence]:
        """Yield the candidates among frauds."""
        for record in records:
            if transfer := parse_transfer(record.value, self.rule.amount):
                length, at = read_varint(record.content, 0)
                rest = record.content[at + max(length, 0) :]
                yield self.candidates, transfer.target, record.offset, record.timestamp, rest

    def count(self, source: TopicPartition, records: Iterable[Record]) -> Iterator[Consequence]:
        """Count candidates, and yield alerts for those that have not been counted before."""
        for record in records:
            if transfer := parse_transfer(record.value, self.rule.amount):
                rings = self.receivers[source].add(transfer, record.timestamp)
                for ring in rings if record.offset >= self.committed[source] else ():
                    now = int(time.time() * 1000)
                    yield self.alerts, transfer.target, record.offset, now, self.alert(transfer, ring)

    def alert(self, transfer: Transfer, ring: Ring) -> bytes:
        """Return an alert's content after the key. The id is the ring's, the same whenever it is written."""
        identity = f"{self.rule.amount}/{transfer.currency}/{ring.last}/".encode() + transfer.target
        value = {
            "id": sha256(identity).hexdigest()[:32],
            "rule": "smurfing",
            "target": transfer.target.decode("utf-8", "surrogatepass"),
            "sources": ring.sources,
            "sum": ring.transfers * self.rule.amount,
            "first": ring.first,
            "last": ring.last,
            "currency": transfer.currency,
        }
        data = json.dumps(value).encode()
        return VARINT[len(data)] + data + VARINT[0]


if __name__ == "__main__":
    os._exit(main(SmurfingDetector, SmurfingSettings.read))
