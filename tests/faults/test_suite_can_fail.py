"""The fault suite finds the loss and the doubles of detectors that are not careful enough."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from embedded import Cluster
from faults.test_faults import owns_all, says
from faults.trial import Trial
from harness import ROOT, Pipeline, wait_until


def broken(folder: Path, **replacements: str) -> Path:
    """Return a copy of the detector in which the text of each key in CHECKS is replaced."""
    shutil.copytree(ROOT / "detector", folder, dirs_exist_ok=True)
    app = folder / "app.py"
    source = app.read_text()
    for name, replacement in replacements.items():
        assert source.count(CHECKS[name]) == 1, CHECKS[name]
        source = source.replace(CHECKS[name], replacement)
    app.write_text(source)
    return folder


CHECKS = {
    "futures": "if not future.succeeded():",
    "metadata": "producer.send_offsets_to_transaction(offsets, group)",
    "generation": "if group.state != MemberState.STABLE or group.generation_id < 0:",
    "rewind": "if member != (group.generation_id, group.member_id):",
    "window": "        group = consumer.group_metadata()\n",
}


def test_the_tutorials_detector_loses_records(cluster: Cluster, seed: int) -> None:
    """Killed, it goes on at the end of the topic, and a value that is no JSON stops it for good."""
    pipeline = Pipeline(cluster.bootstrap_servers, partitions=3)
    with Trial("tutorial", pipeline, seed, ROOT / "tests/faults/tutorial") as trial:
        for topic in pipeline.outputs:
            pipeline.create(topic)
        detector = trial.start()
        time.sleep(3)
        detector.service.process.kill()  # if it still runs: a value that is no JSON ends it, too
        time.sleep(3)
        assert trial.finish(seconds=1).lost > 0


@pytest.mark.skipif(not os.environ.get("ROUNDS"), reason="for the long mode: make test-faults")
def test_without_a_look_at_the_futures_records_are_lost(tmp_path: Path, seed: int) -> None:
    """A batch that is given up fails neither the flush nor the commit: without the look it is gone, unnoticed.

    Whether the commit still gets through in that round is a matter of milliseconds, so there are some rounds.
    """
    folder = broken(tmp_path, futures="if False:")
    # The broker that is stopped must be none that the commit needs: with one partition each, the coordinators of the
    # transaction and of the group are on one or two of three brokers.
    config = {"transaction.state.log.num.partitions": "1", "offsets.topic.num.partitions": "1"}
    with Cluster(brokers=3, config=config) as cluster:
        pipeline = Pipeline(cluster.bootstrap_servers, partitions=3)
        with Trial("no look at the futures", pipeline, seed, folder) as trial:
            pipeline.create(pipeline.fraud, min_insync_replicas="3")
            detector = trial.start()
            trial.settle()
            with pipeline.admin() as admin:
                coordinators = admin.describe_topics(["__transaction_state", "__consumer_offsets"])
            needed = {topic["partitions"][0]["leader_id"] for topic in coordinators}
            other = next(broker for broker in cluster.brokers if broker.id not in needed)
            for _ in range(5):
                trial.settle()
                since = len(detector.log)
                other.stop()
                says(detector, "eplicas", since)
                time.sleep(8)
                other.start()
                other.wait_ready()
            assert trial.finish().lost > 0


@pytest.mark.parametrize("fenced", [True, False])
def test_without_fencing_a_zombie_doubles_records(cluster: Cluster, tmp_path: Path, seed: int, fenced: bool) -> None:
    """A zombie that wakes up between poll and transaction commits once more what another has taken over.

    The pause after the poll makes that moment long enough to hit. With the fencing in place it does no harm.
    """
    pause = f"{CHECKS['window']}        time.sleep(1.5)\n"
    without = {
        "metadata": CHECKS["metadata"].replace("group)", "group.group_id)"),
        "generation": "if False:",
        "rewind": "if False:",
    }
    folder = broken(tmp_path, window=pause, **({} if fenced else without))
    with Trial("zombie", Pipeline(cluster.bootstrap_servers, partitions=3), seed, folder) as trial:
        one, _ = trial.start(), trial.start()
        for _ in range(2 if fenced else 4):  # that it is hit in the pause is likely, and not certain
            wait_until(lambda: owns_all(trial, 2), 60)
            trial.settle()
            pid = one.pid
            os.kill(pid, signal.SIGSTOP)
            wait_until(lambda: owns_all(trial, 1), 60)
            trial.wait_for_progress()
            time.sleep(2)
            os.kill(pid, signal.SIGCONT)
            trial.wait_for_progress()
        verdict = trial.finish()
        logs = "\n".join(instance.log for instance in trial.instances)
        if fenced:
            assert verdict.wrong == 0, f"{verdict}\n{logs}"
        else:
            assert verdict.doubled > 0, f"{verdict}\n{logs}"
