"""Counts frauds per minute and currency: for each portion of the input its counts go to a topic, exactly once."""

import json
from collections import defaultdict

from kafka import TopicPartition

from detector.rule import InvalidTransaction, parse
from exactly_once import Input, Job, Out, Output, Portion, Record, run
from service.settings import Environment


class FraudsPerMinute(Job):
    """Writes how many frauds of each minute and currency are in a portion. Whoever reads the topic adds them up."""

    counted = ("frauds", "others")

    def __init__(self, environment: Environment) -> None:
        """Read the settings. Raises ConfigurationError if one is missing or malformed."""
        self.inputs = [Input(environment.topic("FRAUD_TOPIC", "streaming.transactions.fraud"), is_created=False)]
        self.outputs = [Output(environment.topic("COUNTS_TOPIC", "streaming.frauds-per-minute"))]

    def process(self, portion: Portion, out: Out) -> None:
        """Count the frauds of a portion, and write the counts."""
        found: defaultdict[tuple[int, str], list[tuple[TopicPartition, Record]]] = defaultdict(list)
        for source, record in portion.records():
            try:
                currency = parse(record.value)["currency"].upper()
                found[record.timestamp // 60_000 * 60_000, currency].append((source, record))
            except InvalidTransaction:
                out.counts["others"] += 1
        for (minute, currency), frauds in found.items():
            value = json.dumps({"minute": minute, "currency": currency, "frauds": len(frauds)}).encode()
            out.write(self.outputs[0].topic, *frauds[-1], key=f"{minute} {currency}".encode(), value=value)
            out.counts["frauds"] += len(frauds)


if __name__ == "__main__":
    run("frauds_per_minute", FraudsPerMinute, group="frauds-per-minute")
