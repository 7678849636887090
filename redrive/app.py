"""Redrive: writes dead letters back to the input, exactly once. Without WRITE=1 it only says what it would do."""

import os
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from hashlib import sha256

from kafka import TopicPartition
from kafka.errors import KafkaError, KafkaTimeoutError

from exactly_once import Input, Job, Out, Output, Portion, run
from exactly_once.unpacking import records_of
from redrive.letters import ANSWER_SECONDS, UNSELECTED, Letters
from service.log import log, set_up_logging
from service.settings import ConfigurationError, Environment

MOST_BYTES, MOST_SECONDS = 4 * 1024 * 1024, 20
"""After so much of a portion it commits: what dead letters refer to can be a thousand times as large."""
MOST_KINDS = 1000


class Redrive(Job):
    """Writes what is selected, up to where the dead letters ended at the start."""

    counted = ("redriven", "staying", "unselected")

    def __init__(self, environment: Environment) -> None:
        """Read the settings. Raises ConfigurationError."""
        self.letters = Letters(environment)
        topic = environment.topic("DEAD_LETTER_TOPIC", "streaming.transactions.dead-letter")
        self.inputs, self.outputs = [Input(topic, is_created=False)], [Output(self.letters.input, is_origin=True)]
        self.ends: dict[TopicPartition, int] | None = None

    def assigned(self, committed: Mapping[TopicPartition, int]) -> None:
        """Take the ends, once: the dead letters that follow from what is redriven are left to another time."""
        own = [p for p in committed if self.letters.partition in (-1, p.partition)]
        before = self.ends or {}
        ends = self.letters.input_reader.end_offsets([p for p in own if p not in before]) | before
        self.ends = {p: max(min(ends[p], self.letters.offsets.stop), committed[p]) for p in own}

    def is_done(self, committed: Mapping[TopicPartition, int]) -> bool:
        """Return whether all is committed up to the ends."""
        return self.ends is not None and all(committed.get(p, 0) >= end for p, end in self.ends.items())

    def process(self, portion: Portion, out: Out) -> None:
        """Write what goes, and log what stays."""
        until, size, left, ends = time.monotonic() + MOST_SECONDS, 0, dict[TopicPartition, int](), self.ends or {}
        staying = defaultdict[tuple[TopicPartition, str], list[int]](list)
        for source, record in portion.records():
            if record.offset >= ends.get(source, 0):
                continue
            if left or size >= MOST_BYTES or time.monotonic() > until:
                left.setdefault(source, record.offset)
                continue
            _, stays, timestamp, content = self.letters.judge(source, record)
            stays = stays or out.write_content(self.letters.input, source, record.offset, timestamp, content)
            out.counts[{"": "redriven", UNSELECTED: "unselected"}.get(stays, "staying")] += 1
            size += len(content)
            if stays and stays != UNSELECTED:
                staying[source, stays.partition(":")[0]].append(record.offset)
        for partition, offset in list(out.offsets.items()):
            del out.offsets[partition]  # unless it is selected
            if end := ends.get(partition):
                out.offsets[partition] = min(offset, end, left.get(partition, end))
        out.is_cut = bool(left)
        for (source, stays), offsets in staying.items():
            log.warning("%s[%d]: %d dead letters stay, from offset %d on: %s", *source, len(offsets), offsets[0], stays)


def print_what_would_go(job: Redrive, group: str) -> None:
    """Print how many dead letters there are of each kind, and what would become of them. Raises KafkaError."""
    reader, found = job.letters.reader(group), Counter[tuple[str, str]]()
    topic = job.inputs[0].topic
    partitions = [TopicPartition(topic, number) for number in reader.partitions_for_topic(topic)]
    committed = {partition: reader.committed(partition) or 0 for partition in partitions}
    job.assigned(committed)
    reader.assign(partitions)
    for partition, beginning in reader.beginning_offsets(partitions).items():
        reader.seek(partition, max(beginning, committed[partition]))
    until, ends = time.monotonic() + ANSWER_SECONDS, job.ends or {}
    while any(reader.position(partition) < end for partition, end in ends.items()):
        for source, record in records_of(reader.poll(500)):
            until = time.monotonic() + ANSWER_SECONDS
            if record.offset < ends.get(source, 0):
                kind, stays, _, _ = job.letters.judge(source, record)
                is_kept = (kind, stays) in found or len(found) < MOST_KINDS
                found[(kind, stays) if is_kept else ("others", stays.partition(":")[0])] += 1
        if time.monotonic() > until:
            raise KafkaTimeoutError(f"{topic} does not answer")
    for (kind, stays), count in sorted(found.items()):
        print(f"{count:>9,}  {ascii(kind)[1:-1][:80]}: {stays or f'would go to {job.letters.input}'}")
    print("Nothing is written without WRITE=1.")


def main() -> None:
    """Redrive, or say what would be. Exit code 2 for bad configuration, 1 if Kafka failed."""
    set_up_logging("redrive")
    environment = Environment(os.environ)
    # With FROM it goes through the topic once more, by offsets of its own for each selection.
    again = [os.environ.get(n, "") for n in ("FROM", "TO", "PARTITION", "SINCE", "UNTIL", "REASON", "ATTEMPTS")]
    group = "fraud-redrive" + (f"-{sha256(repr(again).encode()).hexdigest()[:8]}" if again[0] else "")
    try:
        if environment.text("WRITE", "1?", "1, or leave it out"):
            run("redrive", Redrive, group)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        print_what_would_go(Redrive(environment), environment.name("CONSUMER_GROUP", group))
    except ConfigurationError as error:
        log.error("%s", error)
        sys.exit(2)
    except KafkaError as error:
        log.error("Kafka failed: %s", error)
        sys.exit(1)


if __name__ == "__main__":
    main()
