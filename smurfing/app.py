"""Smurfing detector: writes an alert for each ring, many accounts that send one receiver the same amount.

What may be part of a ring goes to the candidates topic, keyed by receiver, and is counted when it is read from there.
The log is the state: after a rebalance candidates are read from the beginning; alerts start at the committed offset.
A single fraud of ALERT_AMOUNT or more gets an alert as well.
"""

import json
import time
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from kafka import TopicPartition

from detector.rule import FRAUD_AMOUNT, InvalidTransaction, parse
from exactly_once import Input, Job, Out, Output, Portion, Record, run
from service.log import log
from service.settings import ConfigurationError, Environment
from smurfing.candidates import Transfer, candidate_of, name_of, transfer_of
from smurfing.rings import GRACE_MS, HOUR_MS, Receivers, Ring

AMOUNT = r"[1-9][0-9]{0,11}"
TOO_LATE = (
    "%s[%d]: Kafka has deleted what was before offset %d, and what is left begins within a window that is counted now:"
    " a ring that began earlier may not be found (retention.ms, retention.bytes, kafka-delete-records)"
)


class Smurfing(Job):
    """Writes candidates, and counts those of its own partitions."""

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
        remedy = "a number above 0, such as 10000, or leave it out"
        self.alert_amount = environment.number("ALERT_AMOUNT", remedy, "inf", "inf")
        self.frauds = environment.topic("FRAUD_TOPIC", "streaming.transactions.fraud")
        candidates, alerts = "streaming.smurfing.candidates", "streaming.alerts"
        self.candidates = environment.topic("CANDIDATES_TOPIC", candidates, candidates)
        self.alerts = environment.topic("ALERTS_TOPIC", alerts, alerts)
        self.inputs = [Input(self.frauds, is_created=False), Input(self.candidates, is_replayed=True, is_created=False)]
        configs = {
            "retention.ms": str(self.window_ms + GRACE_MS),
            "retention.bytes": "-1",
            "segment.ms": str(6 * HOUR_MS),  # Kafka deletes whole segments
            **{"cleanup.policy": "delete", "message.timestamp.type": "CreateTime"},
        }
        self.outputs = [Output(self.candidates, configs), Output(self.alerts)]

    def assigned(self, committed: Mapping[TopicPartition, int]) -> None:
        """Start afresh: partitions come and go, and what this instance knows about one may be outdated."""
        self.committed = committed
        own = [partition for partition in committed if partition.topic == self.candidates]
        self.receivers = {partition: Receivers(self.sources, self.window_ms) for partition in own}
        self.beginnings: dict[TopicPartition, tuple[int, int]] = {}  # the first candidates' offsets and times
        log.info("The candidates of %d partitions are counted again, up to the committed offsets", len(own))

    def process(self, portion: Portion, out: Out) -> None:
        """Look for what is large or may be part of a ring among frauds, and count candidates."""
        for source, record in portion.records():
            if source.topic == self.frauds:
                self.look_at(source, record, out)
            elif transfer := transfer_of(record, self.amount):
                self.count(source, record, transfer, out)

    def look_at(self, source: TopicPartition, record: Record, out: Out) -> None:
        """Write what follows from a fraud: a candidate, an alert, both or nothing."""
        out.counts["frauds"] += 1
        if record.problem:
            log.warning("%s[%d]: passed over offset %d: %s", *source, record.offset, record.problem)
        try:
            fraud = parse(record.value)
        except InvalidTransaction:
            return
        if fraud["amount"] == self.amount:
            key, value = candidate_of(fraud)
            if refusal := out.write(self.candidates, source, record, key=key, value=value):
                log.warning("%s[%d]: offset %d is not counted, %s", *source, record.offset, refusal)
        if fraud["amount"] >= self.alert_amount:
            names = {name: name_of(fraud[name]) for name in ("source", "target")}
            alert = {
                "id": f"fraud-{source.partition}-{record.offset}",
                "rule": "amount",
                **{name: text.decode("utf-8", "surrogatepass") for name, text in names.items()},
                "amount": fraud["amount"],
                "currency": fraud["currency"],
                "time": record.timestamp,
            }
            self.write(alert, names["target"], source, record, out)

    def count(self, source: TopicPartition, record: Record, transfer: Transfer, out: Out) -> None:
        """Count a candidate, and write the alerts that follow if it has not been counted before."""
        rings = self.receivers[source].add(transfer, record.timestamp)
        offset, timestamp = self.beginnings.setdefault(source, (record.offset, record.timestamp))
        if record.offset < self.committed[source]:
            return
        out.counts["candidates"] += 1
        if offset > 0 and timestamp > record.timestamp - self.window_ms:
            log.warning(TOO_LATE, *source, offset)
            self.beginnings[source] = (0, 0)  # once is enough
        for ring in rings:
            self.write(self.alert(transfer, ring), transfer.target, source, record, out)

    def write(self, alert: dict[str, Any], target: bytes, source: TopicPartition, record: Record, out: Out) -> None:
        """Write an alert, dated now: it is news."""
        value, now = json.dumps(alert).encode(), int(time.time() * 1000)
        out.write(self.alerts, source, record, key=target, value=value, timestamp=now)
        out.counts["alerts"] += 1

    def alert(self, transfer: Transfer, ring: Ring) -> dict[str, Any]:
        """Return the alert about a ring. The id is the ring's, the same whenever it is written."""
        identity = f"{self.amount}/{transfer.currency}/{ring.last}/".encode() + transfer.target
        return {
            "id": sha256(identity).hexdigest()[:32],
            "rule": "smurfing",
            "target": transfer.target.decode("utf-8", "surrogatepass"),
            "sources": ring.sources,
            "sum": ring.transfers * self.amount,
            "first": ring.first,
            "last": ring.last,
            "currency": transfer.currency,
        }


if __name__ == "__main__":
    run("smurfing", Smurfing, group="smurfing-detector")
