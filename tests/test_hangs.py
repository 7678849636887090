"""Whatever hangs: the process ends, a line says where, and the exit code is that of what came before."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from threading import Event, Thread

import pytest
from kafka import KafkaConsumer
from kafka.admin import ConfigResource, ConfigResourceType

from embedded import Cluster
from embedded.pipeline import ROOT, Pipeline
from embedded.records import Record
from embedded.service import Service, wait_until
from harness import shares, transaction, wait_for_shares, wait_until_at_work

pytestmark = pytest.mark.long

HANGING = (sys.executable, "tests/faults/hanging/app.py")


def start(pipeline: Pipeline, hang: str) -> Service:
    """Start the detector in which something hangs."""
    return Service("detector", pipeline.environ("detector", HANG=hang), HANGING)


def assert_it_says_where(detector: Service, *calls: str) -> None:
    """Look for the one line that names the calls, one within the other, and no others at its end."""
    (line,) = [line for line in detector.log.splitlines() if "It hung in" in line]
    assert re.search(rf"ERROR Kafka has not answered for too long, .* > {' > '.join(calls)}$", line), detector.log
    assert detector.log.splitlines()[-1] == line
    assert "Traceback" not in detector.log


@pytest.mark.parametrize(
    ("hang", "calls"),
    [
        ("start", ("run", "__init__", "__init__", "hang")),
        ("poll", ("run", "run", "read", "_poll", "hang")),
        ("rewind", ("run", "run", "read", "rewind", "hang")),
    ],
)
def test_a_hang_at_work(pipeline: Pipeline, hang: str, calls: tuple[str, ...]) -> None:
    """Exit code 1."""
    with start(pipeline, hang) as detector:
        assert detector.wait() == 1
        assert_it_says_where(detector, *calls)


def test_a_hang_in_the_log() -> None:
    """If nobody reads what it writes, it ends all the same."""
    program = (
        "from service.log import log, set_up_logging; from service.stopping import Stopping; set_up_logging('x');"
        " Stopping().rearm(1); [log.error('x' * 1000) for _ in iter(int, 1)]"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.PIPE) as hanging:
        assert hanging.wait(120) == 1


def test_a_client_that_reads_no_more(pipeline: Pipeline) -> None:
    """All answers, and there are records: exit code 1, and a line that says where."""
    with start(pipeline, "fetch") as detector:
        wait_until(lambda: "rate=" in detector.log, 120)
        pipeline.write([Record(transaction())])
        assert detector.wait() == 1
        assert f": {pipeline.transactions}[0]: records from offset 0 on are not read" in detector.log


def test_a_hang_at_the_end(pipeline: Pipeline) -> None:
    """After a signal, in close: exit code 0, and all that was written has come out."""
    with start(pipeline, "close") as detector:
        wait_until_at_work(pipeline)
        assert detector.stop() == 0
        assert_it_says_where(detector, "run", "hang")


def test_a_hang_after_an_error_of_configuration(pipeline: Pipeline) -> None:
    """In close: the exit code stays 2, also if a signal comes meanwhile, as a restart would not help."""
    with start(pipeline, "close") as detector, pipeline.admin() as admin:
        wait_until_at_work(pipeline)
        compact = {"cleanup.policy": "compact"}
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, pipeline.legit, compact)])
        admin.create_partitions({pipeline.transactions: 2})
        detector.wait_for("Hanging")
        assert detector.stop() == 2
        assert_it_says_where(detector, "run", "hang")
        assert f"ERROR {pipeline.legit} does not take all that {pipeline.transactions} takes" in detector.log


def test_a_hang_after_an_error_of_kafka(pipeline: Pipeline) -> None:
    """While it looks for the cause: exit code 1."""
    with start(pipeline, "explain") as detector, pipeline.admin() as admin:
        wait_until_at_work(pipeline)
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, pipeline.legit, {"max.message.bytes": "100"})])
        pipeline.write([Record(transaction(note="x" * 1000))])
        assert detector.wait() == 1
        assert_it_says_where(detector, "run", "hang")


@contextmanager
def slow_member(pipeline: Pipeline) -> Iterator[Event]:
    """Join another member, that does not look at the group until the event is set: a rebalance lasts as long."""
    may_go_on, has_ended = Event(), Event()

    def work() -> None:
        consumer = KafkaConsumer(
            bootstrap_servers=pipeline.broker_url, group_id=pipeline.name, enable_auto_commit=False
        )
        with closing(consumer):
            consumer.subscribe([pipeline.transactions])
            wait_until(lambda: bool(consumer.poll(100) or consumer.assignment()), 120)
            may_go_on.wait(240)
            while not has_ended.is_set():
                consumer.poll(100)

    thread = Thread(target=work)
    thread.start()
    try:
        yield may_go_on
    finally:
        may_go_on.set()
        has_ended.set()
        thread.join(60)


def stall(detector: Service, seconds: float) -> None:
    """Let it stand still, as a laptop that sleeps does, or a container that is paused."""
    os.kill(detector.process.pid, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(detector.process.pid, signal.SIGCONT)


def group_state(pipeline: Pipeline) -> str:
    """Return the state of the group."""
    with pipeline.admin() as admin:
        return str(admin.describe_groups([pipeline.name])[pipeline.name]["group_state"])


def test_a_process_that_stands_still_in_a_rebalance(cluster: Cluster) -> None:
    """Twice for longer than a rebalance may take: that is no reason to end, and it gets its partitions."""
    pipeline = Pipeline(cluster.bootstrap_servers, 2)
    pipeline.create(pipeline.transactions)
    with pipeline.service("detector") as detector:
        wait_for_shares(pipeline, 2)
        with slow_member(pipeline) as may_go_on:
            wait_for_shares(pipeline, 1, 1)
            stall(detector, 16)  # Kafka takes it for dead, and the other member does not notice
            wait_until(lambda: group_state(pipeline) == "PreparingRebalance", 120)
            time.sleep(2)  # it looks at the rebalance
            stall(detector, 16)
            may_go_on.set()
            wait_until(lambda: shares(pipeline) == [1, 1], 120, lambda: detector.log)
        wait_for_shares(pipeline, 2)
        pipeline.write([Record(transaction(n=n), partition=n) for n in range(2)])
        pipeline.drain()
        detector.check()
        assert "does not get into the group" not in detector.log
    assert len(pipeline.read(pipeline.legit)) == 2
