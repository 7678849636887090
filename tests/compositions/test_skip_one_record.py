"""The runbook of docs/operations.md for a record that the detector cannot pass on, command by command."""

import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kafka import TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType

from compositions.engine import ROOT, containers, run
from compositions.stack import Stack, only_v2
from embedded.pipeline import Pipeline
from embedded.records import Record
from embedded.service import wait_until
from harness import transaction

PARTITION = 2


def documented_commands() -> list[str]:
    """Return the commands of the section, in their order."""
    text = (ROOT / "docs" / "operations.md").read_text()
    (section,) = re.findall(r"^## Skip one record\n(.*?)^## ", text, re.M | re.S)
    blocks = re.findall(r"^ *```console\n(.*?)^ *```", section, re.M | re.S)
    return [line.removeprefix("$ ") for block in blocks for line in textwrap.dedent(block).splitlines()]


@contextmanager
def limited(pipeline: Pipeline, topic: str, max_message_bytes: int) -> Iterator[None]:
    """As long as the block, let the topic take no larger batches than this."""

    def alter(limit: int) -> None:
        with pipeline.admin() as admin:
            admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {"max.message.bytes": str(limit)})])

    alter(max_message_bytes)
    try:
        yield
    finally:
        alter(64 * 1024 * 1024)


def stuck_at() -> int:
    """Return the offset that the detector's log names, or -1 if it names none."""
    (detector,) = containers("detector")
    found = re.findall(rf"\[{PARTITION}\]: the record at offset (\d+) ", run(f"docker logs {detector['Id']}"))
    return int(found[-1]) if found else -1


def committed(pipeline: Pipeline) -> int:
    """Return how far the group has come in the partition."""
    with pipeline.admin() as admin:
        offsets = admin.list_group_offsets([pipeline.name])[pipeline.name]
    return int(offsets[TopicPartition(pipeline.transactions, PARTITION)].offset)


@only_v2
def test_the_runbook_skips_one_record(stack: Stack, pipeline: Pipeline) -> None:
    """The detector ends at the record again and again; skipped, it is in no output, and those around it are."""
    before, after = transaction(1, target="before"), transaction(2, target="after")
    too_large = b"x" * 20_000
    with limited(pipeline, pipeline.dead_letter, 16_384):
        pipeline.write([Record(value, partition=PARTITION) for value in (before, too_large, after)])
        wait_until(lambda: stuck_at() >= 0, 120)
        wait_until(lambda: committed(pipeline) == stuck_at(), 120)
        values = {"PARTITION": PARTITION, "OFFSET": stuck_at()}
        for command in documented_commands():
            if not command.startswith("PARTITION="):
                assignments = " ".join(f"{name}={value};" for name, value in values.items())
                run(f"{assignments} {command.replace('docker-compose ', f'{stack.command} ', 1)}")
        pipeline.drain()
    assert Path("/tmp/skipped-record").read_bytes().rstrip().endswith(too_large)
    legit = [record.value for record in pipeline.read(pipeline.legit)]
    assert [legit.count(value) for value in (before, after)] == [1, 1]
    assert too_large not in [record.value for record in pipeline.read(pipeline.dead_letter)]
