"""The four programs of docs/steps, killed while records flow: each keeps what it promises, and no more than that."""

import os
import signal

import pytest

from embedded import Cluster
from embedded.pipeline import Pipeline
from embedded.service import wait_until
from faults.steps import command
from faults.trial import Trial

pytestmark = pytest.mark.long


def test_the_tutorials_loop_loses_records(cluster: Cluster, seed: int) -> None:
    """Killed, it goes on at the end of the topic, and a value that is no JSON ends it."""
    pipeline = Pipeline(cluster.bootstrap_servers, partitions=3)
    pipeline.create(*pipeline.outputs)
    with Trial("step 1", pipeline, seed, command(1)) as trial:
        detector = trial.start()
        wait_for_records(trial, 1000)
        detector.service.process.kill()  # if it still runs: a value that is no JSON ends it, too
        wait_for_records(trial, 1000)
        assert trial.finish(seconds=1).lost > 0


def wait_for_records(trial: Trial, count: int) -> None:
    """Wait until so many more records are in the input."""
    before = trial.pipeline.count(trial.pipeline.transactions)
    wait_until(lambda: trial.pipeline.count(trial.pipeline.transactions) >= before + count, 120)


def test_commits_double_records(cluster: Cluster, seed: int) -> None:
    """What was written and not committed yet is written again; nothing is lost."""
    pipeline = Pipeline(cluster.bootstrap_servers, partitions=3)
    pipeline.create(*pipeline.outputs)
    with Trial("step 2", pipeline, seed, command(2)) as trial:
        program = trial.start()
        trial.settle()
        with trial.fault():
            trial.kill_before_commit(program)
        verdict = trial.finish()
        assert verdict.doubled > 0, program.log
        assert verdict.lost == verdict.misrouted == verdict.hanging == 0, program.log


@pytest.mark.parametrize("step", [3, 4])
def test_transactions_do_neither(cluster: Cluster, seed: int, step: int) -> None:
    """Written by hand, or by the engine."""
    pipeline = Pipeline(cluster.bootstrap_servers, partitions=3)
    pipeline.create(*pipeline.outputs)
    with Trial(f"step {step}", pipeline, seed, command(step)) as trial:
        program = trial.start()
        for _ in range(4):
            trial.settle()
            with trial.fault():
                os.kill(program.pid, signal.SIGKILL)
        verdict = trial.finish()
        assert verdict.wrong == 0, f"{verdict}\n{program.log}"
        assert verdict.checked > 0
