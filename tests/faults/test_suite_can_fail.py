"""The fault suite finds the loss and the doubles of detectors that are not careful enough."""

import os
import signal
import sys
import time

import pytest

from embedded import Cluster
from embedded.pipeline import Pipeline
from faults.test_faults import says
from faults.trial import Trial
from harness import wait_for_shares

pytestmark = pytest.mark.long

CARELESS = (sys.executable, "tests/faults/careless/app.py")
"""Our detector with functions replaced."""


@pytest.mark.skipif(not os.environ.get("ROUNDS"), reason="for the long mode: make test-faults")
def test_without_a_check_of_the_batches_records_are_lost(seed: int) -> None:
    """A batch that the client gives up fails neither the flush nor the commit: unchecked, it is lost unnoticed.

    Whether the commit still gets through in that round is a matter of milliseconds, so there are some rounds.
    """
    # The broker that is stopped must be none that the commit needs: with one partition each, the coordinators of the
    # transaction and of the group are on one or two of three brokers.
    config = {"transaction.state.log.num.partitions": "1", "offsets.topic.num.partitions": "1"}
    with Cluster(brokers=3, config=config) as cluster:
        pipeline = Pipeline(cluster.bootstrap_servers, partitions=3)
        with Trial("no check of the batches", pipeline, seed, CARELESS) as trial:
            pipeline.create(pipeline.fraud, min_insync_replicas="3")
            detector = trial.start(CARELESS="unchecked")
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
def test_without_fencing_a_zombie_doubles_records(cluster: Cluster, seed: int, fenced: bool) -> None:
    """A zombie that wakes up between poll and transaction commits once more what another has taken over.

    The pause after the poll makes that moment long enough to hit. With the fencing in place it does no harm.
    """
    with Trial("zombie", Pipeline(cluster.bootstrap_servers, partitions=3), seed, CARELESS) as trial:
        careless = "slow" if fenced else "slow unfenced"
        one, _ = trial.start(CARELESS=careless), trial.start(CARELESS=careless)
        for _ in range(2):
            wait_for_shares(trial.pipeline, 1, 2)
            trial.settle()
            says(one, "Between reading and writing", len(one.log))
            pid = one.pid
            os.kill(pid, signal.SIGSTOP)
            wait_for_shares(trial.pipeline, 3)
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
