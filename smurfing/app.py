"""Smurfing detector: finds receivers to whom many accounts send the same amount, and writes an alert for each ring.

What may be part of a ring goes to the candidates topic, keyed by receiver, and is counted when it is read from there.
The log is the state: after a rebalance candidates are read from the beginning; alerts start at the committed offset.
"""

import json
import time
from collections.abc import Mapping
from hashlib import sha256

from kafka import TopicPartition

from detector.rule import FRAUD_AMOUNT
from exactly_once import Input, Job, Out, Output, Portion, Record, run
from service.log import log
from service.settings import ConfigurationError, Environment
from smurfing.rings import GRACE_MS, HOUR_MS, Receivers, Ring, Transfer, parse_transfer

AMOUNT = r"[1-9][0-9]{0,11}"


class Smurfing(Job):
    """Forwards candidates, and counts those of its own partitions."""

    counted = ("frauds", "candidates", "alerts")

    def __init__(self, environment: Environment) -> None:
        """Read the settings. Raises ConfigurationError at the first variable that is missing or malformed."""
        read = environment.text
        remedy = f"a whole number from {FRAUD_AMOUNT} on"  # smaller ones are not in the fraud topic
        self.amount = int(read("SMURFING_AMOUNT", AMOUNT, remedy, "1000"))
        if self.amount < FRAUD_AMOUNT:
            raise ConfigurationError(f"SMURFING_AMOUNT is {self.amount}: give it {remedy}")
        self.sources = int(read("SMURFING_SOURCES", r"[2-9]|[1-9][0-9]{1,3}", "a whole number from 2 to 9999", "50"))
        hours = read("SMURFING_HOURS", r"[1-9][0-9]{0,3}", "a whole number from 1 to 9999", "24")
        self.window_ms = int(hours) * HOUR_MS
        self.frauds = environment.topic("FRAUD_TOPIC", "streaming.transactions.fraud")
        candidates, alerts = "streaming.smurfing.candidates", "streaming.alerts"
        self.candidates = environment.topic("CANDIDATES_TOPIC", candidates, candidates)
        self.alerts = environment.topic("ALERTS_TOPIC", alerts, alerts)
        self.inputs = [Input(self.frauds, is_created=False), Input(self.candidates, is_replayed=True, is_created=False)]
        configs = {
            "retention.ms": str(self.window_ms + GRACE_MS),
            "segment.ms": str(6 * HOUR_MS),  # Kafka deletes whole segments
            **{"cleanup.policy": "delete", "message.timestamp.type": "CreateTime"},
        }
        self.outputs = [Output(self.candidates, configs), Output(self.alerts)]

    def assigned(self, committed: Mapping[TopicPartition, int]) -> None:
        """Start afresh: partitions come and go, and what this instance knows about one may be outdated."""
        self.committed = committed
        own = [partition for partition in committed if partition.topic == self.candidates]
        self.receivers = {partition: Receivers(self.sources, self.window_ms) for partition in own}
        log.info("The candidates of %d partitions are counted again, up to the committed offsets", len(own))

    def process(self, portion: Portion, out: Out) -> None:
        """Forward the candidates among frauds, and count candidates: nothing follows while they are counted again."""
        for source, record in portion.records():
            out.counts["frauds" if source.topic == self.frauds else "candidates"] += 1
            if transfer := parse_transfer(record.value, self.amount):
                if source.topic == self.frauds:
                    if refusal := out.forward(self.candidates, source, record, transfer.target):
                        log.warning("%s[%d]: offset %d is not counted, %s", *source, record.offset, refusal)
                else:
                    self.count(source, record, transfer, out)

    def count(self, source: TopicPartition, record: Record, transfer: Transfer, out: Out) -> None:
        """Count a candidate, and write the alerts that follow if it has not been counted before."""
        rings = self.receivers[source].add(transfer, record.timestamp)
        for ring in rings if record.offset >= self.committed[source] else ():
            value, now = self.alert(transfer, ring), int(time.time() * 1000)
            out.write(self.alerts, source, record, key=transfer.target, value=value, timestamp=now)
            out.counts["alerts"] += 1

    def alert(self, transfer: Transfer, ring: Ring) -> bytes:
        """Return an alert's value. The id is the ring's, the same whenever it is written."""
        identity = f"{self.amount}/{transfer.currency}/{ring.last}/".encode() + transfer.target
        value = {
            "id": sha256(identity).hexdigest()[:32],
            "rule": "smurfing",
            "target": transfer.target.decode("utf-8", "surrogatepass"),
            "sources": ring.sources,
            "sum": ring.transfers * self.amount,
            "first": ring.first,
            "last": ring.last,
            "currency": transfer.currency,
        }
        return json.dumps(value).encode()


if __name__ == "__main__":
    run("smurfing", Smurfing, group="smurfing-detector")
