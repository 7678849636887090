"""Output topics that do not take what the input takes: what is said, what mends it, and that nothing is lost."""

import re
import shlex
import time
from collections.abc import Mapping

import pytest
from kafka.admin import ConfigResource, ConfigResourceType

from embedded import Cluster
from embedded.pipeline import Pipeline
from embedded.records import Record
from exactly_once.topics import MAX_MESSAGE_BYTES
from harness import transaction, wait_until_at_work

pytestmark = [pytest.mark.guarantee, pytest.mark.long]

UNLIMITED = "9223372036854775807"
DAY_MS = 24 * 3600 * 1000
BEFORE, AFTER = "message.timestamp.before.max.ms", "message.timestamp.after.max.ms"
NO_OFFSET = "has no offset, though"


def configure(pipeline: Pipeline, topic: str, **configs: str) -> None:
    """Set a topic's configuration; in the names, _ stands for a dot."""
    named = {name.replace("_", "."): value for name, value in configs.items()}
    with pipeline.admin() as admin:
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, named)])


def test_an_output_that_it_creates_takes_any_time(pipeline: Pipeline) -> None:
    """Records of 1970 and of the far future go through, as the topics' settings say."""
    times = (0, 1, 4_000_000_000_000, 9_000_000_000_000_000_000)
    pipeline.write([Record(transaction(n=n), timestamp=time) for n, time in enumerate(times)])
    with pipeline.restarted("detector") as detector, pipeline.admin() as admin:
        pipeline.drain()
        assert detector.exit_codes == []
        resources = [ConfigResource(ConfigResourceType.TOPIC, topic) for topic in pipeline.outputs]
        found = admin.describe_configs(resources, config_filter="all")["topic"]
        assert {configs[name]["value"] for configs in found.values() for name in (BEFORE, AFTER)} == {UNLIMITED}
    assert tuple(record.timestamp for record in pipeline.read(pipeline.legit)) == times


@pytest.mark.parametrize(
    ("has", "wanted"),
    [
        (
            {"cleanup.policy": "compact", "max.message.bytes": "16383", BEFORE: "86400000"},
            {"max.message.bytes": str(MAX_MESSAGE_BYTES), BEFORE: UNLIMITED, "cleanup.policy": "delete"},
        ),
        ({AFTER: "3600000"}, {AFTER: "7200000"}),
    ],
)
def test_an_output_that_takes_less(cluster: Cluster, has: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Exit code 2 at once, and a line says which, what it has, and the command; run as it stands, this mends it."""
    pipeline = Pipeline(cluster.bootstrap_servers)
    pipeline.create(pipeline.transactions, message_timestamp_after_max_ms="7200000")
    pipeline.create(pipeline.fraud, **has)
    pipeline.write([Record(transaction(900))])
    with pipeline.service("detector") as detector:
        assert detector.wait() == 2
        errors = [line for line in detector.log.splitlines() if " ERROR " in line]
    settings = [",".join(f"{name}={value}" for name, value in wanted.items())]
    now = ", ".join(f"{name}={has[name]}" for name in wanted)
    (line,) = errors
    assert f"{pipeline.fraud} does not take all that {pipeline.transactions} takes ({now}): kafka-configs --" in line
    assert line.endswith(f" --add-config {','.join(settings)}")
    done = cluster.tool("kafka-configs", *shlex.split(line.partition(": kafka-configs ")[2]))
    assert done.returncode == 0, done.stderr
    with pipeline.service("detector") as detector:
        pipeline.drain()
        detector.check()


def test_several_outputs_that_take_less(pipeline: Pipeline) -> None:
    """All are named at once, each with its command."""
    pipeline.create(pipeline.legit, pipeline.fraud, max_message_bytes="1000")
    with pipeline.service("detector") as detector:
        assert detector.wait() == 2
        (line,) = [line for line in detector.log.splitlines() if " ERROR " in line]
    for topic in (pipeline.legit, pipeline.fraud):
        assert f"{topic} does not take all that {pipeline.transactions} takes (max.message.bytes=1000)" in line
        assert f"kafka-configs --alter --topic {topic} --add-config max.message.bytes=" in line


@pytest.mark.zookeeper  # Kafka 4 has this setting no more
def test_an_output_with_a_limit_on_the_difference(cluster: Cluster) -> None:
    """The same: the setting that the two others have replaced is a limit as well."""
    name = "message.timestamp.difference.max.ms"
    test_an_output_that_takes_less(cluster, {name: "1000"}, {name: UNLIMITED})


@pytest.mark.parametrize("limit", ["3600000", "7200000"])
def test_an_output_that_takes_as_much(pipeline: Pipeline, limit: str) -> None:
    """The input's own limit on what is ahead of the clock will do, and any if the input has the broker's time."""
    kind = {"3600000": "LogAppendTime", "7200000": "CreateTime"}[limit]
    configure(pipeline, pipeline.transactions, message_timestamp_type=kind, message_timestamp_after_max_ms="7200000")
    pipeline.create(*pipeline.outputs, message_timestamp_after_max_ms=limit)
    with pipeline.service("detector") as detector:
        wait_until_at_work(pipeline)
        detector.check()


@pytest.mark.parametrize(("setting", "distance"), [(BEFORE, -DAY_MS), (AFTER, DAY_MS)])
def test_a_limit_on_times_that_is_set_while_it_runs(pipeline: Pipeline, setting: str, distance: int) -> None:
    """One of four records is outside: a line says which, by its place in the input; mended, all come out once."""
    now = time.time_ns() // 1_000_000
    times = [now, now, now + distance, now]
    with pipeline.service("detector") as detector:
        pipeline.write([Record(transaction(901)), Record(b"dead")])
        pipeline.drain()
        configure(pipeline, pipeline.legit, **{setting: "3600000"})
        pipeline.write([Record(transaction(1 + n), timestamp=times[n]) for n in range(4)], linger_ms=1000)
        assert detector.wait() == 1
        log = detector.log
    (line,) = [line for line in log.splitlines() if " ERROR " in line]
    assert f"{pipeline.legit}[0] does not take the record at offset 4 of {pipeline.transactions}[0]: Invalid" in line
    assert str(times[2]) in line
    assert f"{setting}" in line.partition(", see ")[2], line
    assert line.endswith(f" of {pipeline.legit}")
    with pipeline.service("detector") as detector:
        assert detector.wait() == 2
        log += detector.log
        assert f"({setting}=3600000): kafka-configs" in detector.log
    configure(pipeline, pipeline.legit, **{setting: UNLIMITED})
    with pipeline.restarted("detector") as detector:
        pipeline.drain()
        log += detector.log
    assert [(r.value, r.timestamp) for r in pipeline.read(pipeline.legit)] == [
        (transaction(1 + n), times[n]) for n in range(4)
    ]
    assert NO_OFFSET not in log


def test_a_size_that_is_lowered_while_it_runs(pipeline: Pipeline) -> None:
    """One exit; the next start passes the record on by reference, and the others as they are."""
    small, large = transaction(1), transaction(1, note="x" * 30_000)
    with pipeline.restarted("detector") as detector:
        wait_until_at_work(pipeline)
        configure(pipeline, pipeline.legit, max_message_bytes="20000")
        pipeline.write([Record(value) for value in [small] * 5 + [large] + [small] * 5], linger_ms=1000)
        pipeline.drain()
        assert detector.exit_codes == [1]
        (line,) = [line for line in detector.log.splitlines() if " ERROR " in line]
        assert re.search(rf"{pipeline.legit}\[0\] does not take the record at offset \d+ of ", line)
        assert line.endswith(f"see max.message.bytes of {pipeline.legit}")
        assert NO_OFFSET not in detector.log
    assert [record.value for record in pipeline.read(pipeline.legit)] == [small] * 10
    (letter,) = pipeline.read(pipeline.dead_letter)
    headers = {name.rpartition(".")[2]: value for name, value in letter.headers}
    assert (letter.value, headers["partition"], headers["offset"]) == (None, b"0", b"6")
    assert headers["topic"] == pipeline.transactions.encode()
    assert re.match(rb"too large: .* more than the 20,000 of max.message.bytes of ", headers["message"] or b"")
