"""Processes of the running compositions are killed or frozen, as seen from the host: all comes back by itself."""

import os
import signal
import time
from pathlib import Path

import pytest
from test_compositions import CLUSTER, SERVICES, Stack, TutorialPipeline, containers, only_v2, pipeline, stack, turn

from harness import wait_until

__all__ = ["pipeline", "stack", "turn"]  # fixtures: pytest finds them by their names here

pytestmark = only_v2


def main_process(name: str) -> int:
    """Return the id, on the host, of a service's main process: what is below Docker's small init, if that is there."""
    (container,) = containers(name)
    pid = container["State"]["Pid"]
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if container["HostConfig"].get("Init") else pid


def health(name: str) -> str:
    """Return the health of a service's container."""
    (container,) = containers(name)
    return str(container["State"]["Health"]["Status"])


LONG = pytest.mark.skipif(not os.environ.get("ROUNDS"), reason="for the long mode: make test-faults")


@pytest.mark.parametrize(
    "name", ["detector", "broker", pytest.param("zookeeper", marks=LONG), pytest.param("generator", marks=LONG)]
)
def test_a_killed_process_comes_back(stack: Stack, pipeline: TutorialPipeline, name: str) -> None:
    """SIGKILL to the main process: its container starts again and is healthy, and no record is lost or doubled."""
    stack.wait_healthy(*CLUSTER, *SERVICES)
    (before,) = containers(name)
    os.kill(main_process(name), signal.SIGKILL)
    wait_until(lambda: containers(name)[0]["RestartCount"] == before["RestartCount"] + 1, 60)
    stack.wait_healthy(*CLUSTER, *SERVICES)
    written = pipeline.count(pipeline.transactions)
    wait_until(lambda: pipeline.count(pipeline.transactions) > written, 60)
    stack.assert_each_in_one_output(pipeline)
    stack.compose("start generator")


@pytest.mark.parametrize("name", ["detector", pytest.param("generator", marks=LONG)])
def test_a_frozen_service_is_unhealthy(stack: Stack, pipeline: TutorialPipeline, name: str) -> None:
    """SIGSTOP: the heartbeat stops, and the health check fails; going on, it is healthy, and nothing is wrong."""
    stack.wait_healthy(*CLUSTER, *SERVICES)
    pid = main_process(name)
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: health(name) == "unhealthy", 60)
    finally:
        os.kill(pid, signal.SIGCONT)
    stack.wait_healthy(*CLUSTER, *SERVICES)
    stack.assert_each_in_one_output(pipeline)
    stack.compose("start generator")


@LONG
def test_a_detector_without_records_is_healthy(stack: Stack, pipeline: TutorialPipeline) -> None:
    """Waiting for records is no failure: with the generator stopped the detector stays healthy."""
    stack.wait_healthy(*CLUSTER, *SERVICES)
    stack.compose("stop generator")
    pipeline.drain()
    time.sleep(45)  # more than the health check's patience
    assert health("detector") == "healthy"
    assert containers("detector")[0]["RestartCount"] <= 2  # of the tests before, not of this one
    stack.compose("start generator")
