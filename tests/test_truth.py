"""What the detector says of gaps in the input, and of offsets that others commit: no more and no less than is true."""

import os
import re
import signal
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition

from embedded import Cluster
from embedded.pipeline import Pipeline
from embedded.records import Record
from embedded.service import Restarted, wait_until
from harness import transaction, wait_for_a_beat, wait_for_shares

pytestmark = pytest.mark.guarantee

PER_PARTITION = 15_000
FOREIGN = "was committed by another program, or reset by hand"


@pytest.fixture
def four(cluster: Cluster) -> Pipeline:
    """A pipeline with four partitions."""
    pipeline = Pipeline(cluster.bootstrap_servers, 4)
    pipeline.create(pipeline.transactions)
    return pipeline


def places(pipeline: Pipeline) -> list[TopicPartition]:
    """Return the partitions of the input."""
    return [TopicPartition(pipeline.transactions, number) for number in range(pipeline.partitions)]


def fill(pipeline: Pipeline, name: str, count: int) -> None:
    """Write so many valid transactions to each partition."""
    numbers = range(pipeline.partitions)
    pipeline.write([Record(transaction(**{name: n}), partition=number) for n in range(count) for number in numbers])


def abort(pipeline: Pipeline, count: int) -> None:
    """Write so many transactions to each partition, and abort them."""
    with closing(
        KafkaProducer(bootstrap_servers=pipeline.broker_url, transactional_id=f"{pipeline.name}-foreign")
    ) as writer:
        writer.init_transactions()
        writer.begin_transaction()
        for number in range(pipeline.partitions):
            for _ in range(count):
                writer.send(pipeline.transactions, transaction(aborted=1), partition=number)
        writer.flush()
        writer.abort_transaction()


def lost(log: str, pipeline: Pipeline) -> Counter[int]:
    """Return how many offsets of each partition are lost, by the log; no offset is in two of its lines."""
    offsets: dict[int, set[int]] = {}
    for number, count, first in re.findall(
        rf" ERROR {pipeline.transactions}\[(\d)\]: (\d+) offsets are lost, from (\d+) on: Kafka deleted them unread",
        log,
    ):
        gap = set(range(int(first), int(first) + int(count)))
        assert not gap & offsets.setdefault(int(number), set()), log
        offsets[int(number)] |= gap
    return Counter({number: len(found) for number, found in offsets.items()})


def missing(pipeline: Pipeline, values: Iterable[tuple[int, bytes]]) -> Counter[int]:
    """Return how many of these records, each a partition and a value, are not in the outputs; none is there twice."""
    found = Counter((record.partition, record.value) for record in pipeline.read(pipeline.legit))
    assert set(found.values()) <= {1}
    return Counter(number for number, value in values if (number, value) not in found)


@pytest.mark.parametrize("how", [pytest.param("frozen", marks=pytest.mark.long), "off"])
def test_the_retention_overtakes_a_backlog(four: Pipeline, how: str) -> None:
    """In four partitions at once: the lines name exactly what does not come out, markers and aborted records apart."""
    with four.restarted("detector") as detector:
        fill(four, "first", 5)
        four.drain()
        if how == "off":
            assert detector.end() == 0
        else:
            os.kill(detector.pid, signal.SIGSTOP)
        fill(four, "backlog", PER_PARTITION)
        abort(four, 100)
        fill(four, "last", 100)
        with four.admin() as admin:
            admin.delete_records({place: PER_PARTITION - 1000 * place.partition for place in places(four)})
        if how == "frozen":
            os.kill(detector.pid, signal.SIGCONT)
            four.drain()
            detector.check()
        log = detector.log
    if how == "off":
        with four.restarted("detector") as detector:
            four.drain()
            log = detector.log
    written = [
        (number, transaction(**{name: n}))
        for name, count in (("first", 5), ("backlog", PER_PARTITION), ("last", 100))
        for n in range(count)
        for number in range(4)
    ]
    assert lost(log, four) == missing(four, written), log
    assert set(lost(log, four)) == {0, 1, 2, 3}


@pytest.mark.long
@pytest.mark.parametrize("how", ["running", "off"])
def test_the_retention_takes_all(four: Pipeline, tmp_path: Path, how: str) -> None:
    """Nothing is left to read: the lag is 0, the heartbeat goes on, and the loss is told once, restarts or not."""
    heartbeat = tmp_path / "heartbeat"
    with four.restarted("detector") as detector:
        fill(four, "first", 5)
        four.drain()
        if how == "off":
            assert detector.end() == 0
        else:
            os.kill(detector.pid, signal.SIGSTOP)
        fill(four, "fetched", 1)
        fill(four, "gone", 1000)
        with four.admin() as admin:
            admin.delete_records(dict.fromkeys(places(four), -1))  # up to the end
        if how == "running":
            os.kill(detector.pid, signal.SIGCONT)
            wait_until(lambda: len(lost(detector.log, four)) == 4, 120, lambda: detector.log)
            four.drain()
            detector.check()
        before = detector.log
    with four.restarted("detector", HEARTBEAT_FILE=str(heartbeat)) as detector:
        wait_until(heartbeat.exists, 120)  # it is touched at the start
        wait_for_a_beat(heartbeat, detector)
        assert re.findall(r"lag=(\w+)", detector.log)[-1] == "0"
        four.drain()
        first = detector.log
    with four.restarted("detector") as detector:
        detector.wait_for("rate=")
        log = before + first + detector.log
    written = [
        (number, transaction(**{name: n}))
        for name, count in (("first", 5), ("fetched", 1), ("gone", 1000))
        for n in range(count)
        for number in range(4)
    ]
    assert lost(log, four) == missing(four, written), log
    assert set(lost(log, four)) == {0, 1, 2, 3}


def foreign_commits(log: str) -> list[tuple[int, int, int, int]]:
    """Return partition and offset of each warning, and how many offsets it says were passed, and from where on."""
    pattern = rf" WARNING \S+\[(\d)\]: the offset (\d+) of the group \S+ {FOREIGN}: going on from there(.*)\. A program"
    found = []
    for number, offset, gap in re.findall(pattern, log):
        count, first = map(int, re.findall(r"\d+", gap) or (0, offset))
        found.append((int(number), int(offset), count, first))
    return found


def test_another_program_in_the_group(four: Pipeline) -> None:
    """It gets partitions and commits: one warning for each says what it has passed, and a restart says no more."""
    written: list[tuple[int, bytes]] = []

    def write(name: str) -> None:
        fill(four, name, 50)
        written.extend((number, transaction(**{name: n})) for n in range(50) for number in range(4))

    with four.restarted("detector") as detector:
        write("before")
        four.drain()
        with closing(
            KafkaConsumer(
                four.transactions,
                bootstrap_servers=four.broker_url,
                group_id=four.name,
                enable_auto_commit=True,
                auto_commit_interval_ms=100,
            )
        ) as foreign:
            wait_until(lambda: foreign.poll(100) == {} and bool(foreign.assignment()), 120)
            taken = {place.partition for place in foreign.assignment()}
            write("meanwhile")
            count = 0

            def has_read() -> bool:
                nonlocal count
                count += sum(map(len, foreign.poll(200).values()))
                return count == 50 * len(taken)

            wait_until(has_read, 120, lambda: detector.log)
        wait_until(lambda: len(foreign_commits(detector.log)) >= len(taken), 120, lambda: detector.log)
        four.drain()
        wait_for_shares(four, 4)
        write("after")
        four.drain()
        log = detector.log
        assert detector.end() == 0
        detector.check()
    found = foreign_commits(log)
    assert 0 < len(taken) < 4
    assert sorted(number for number, *_ in found) == sorted(taken), log
    assert all(count == 50 and offset == first + 50 for _, offset, count, first in found), log
    assert missing(four, written) == Counter(dict.fromkeys(taken, 50))
    with four.restarted("detector") as detector:
        detector.wait_for("rate=")
        assert FOREIGN not in detector.log


@pytest.mark.parametrize("offset", [7, pytest.param(2, marks=pytest.mark.long)])
def test_offsets_that_are_reset_by_hand(four: Pipeline, offset: int) -> None:
    """Forward or back, while it is off: one warning, it goes on from there, and the next start says nothing."""
    fill(four, "first", 5)
    with four.restarted("detector") as detector:
        four.drain()
        assert detector.end() == 0
    fill(four, "more", 5)
    place = TopicPartition(four.transactions, 1)
    with closing(KafkaConsumer(bootstrap_servers=four.broker_url, group_id=four.name)) as consumer:
        consumer.assign([place])
        consumer.commit({place: OffsetAndMetadata(offset)})
    with four.restarted("detector") as detector:
        four.drain()
        assert detector.end() == 0
        assert foreign_commits(detector.log) == [(1, offset, 0, offset)], detector.log
    assert sum(record.partition == 1 for record in four.read(four.legit)) == 5 + 10 - offset
    with four.restarted("detector") as detector:
        detector.wait_for("rate=")
        assert FOREIGN not in detector.log


@pytest.mark.long
def test_a_reset_is_told_once_though_nothing_follows(four: Pipeline) -> None:
    """To the end of the partition, where there is nothing to commit: the next start does not repeat the warning."""
    fill(four, "first", 5)
    with closing(KafkaConsumer(bootstrap_servers=four.broker_url, group_id=four.name)) as consumer:
        consumer.assign(places(four))
        consumer.commit({place: OffsetAndMetadata(5) for place in places(four)})
    for warnings in (4, 0):
        with four.restarted("detector") as detector:
            detector.wait_for("rate=")
            assert detector.end() == 0
            assert len(foreign_commits(detector.log)) == warnings, detector.log


def told(*detectors: Restarted) -> list[str]:
    """Return what they have said of gaps and foreign offsets."""
    words = (FOREIGN, "offsets are lost", "has no offset, though", "ended before")
    return [line for detector in detectors for line in detector.log.splitlines() if any(map(line.__contains__, words))]


def test_detectors_do_not_take_each_other_for_foreign(four: Pipeline) -> None:
    """Neither when one joins, nor when one is killed, nor when it leaves, with records or without."""
    with four.restarted("detector", TRANSACTIONAL_ID=f"{four.name}-1") as one:
        wait_for_shares(four, 4)
        with four.restarted("detector", TRANSACTIONAL_ID=f"{four.name}-2") as two:
            for n in range(3):
                wait_for_shares(four, 2, 2)
                fill(four, f"round{n}", 20)
                four.drain()
                os.kill((one, two)[n % 2].pid, signal.SIGKILL)
            wait_for_shares(four, 2, 2)
            assert two.end() == 0
            wait_for_shares(four, 4)
            fill(four, "last", 20)
            four.drain()
            assert told(one, two) == []
    assert len(four.read(four.legit)) == 4 * 20 * 4
