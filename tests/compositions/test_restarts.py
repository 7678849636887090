"""Down and up, killed and frozen: everything comes back by itself, and no record is lost or there twice."""

import os
import signal
import time
from pathlib import Path

import pytest
from kafka import KafkaConsumer, TopicPartition

from compositions.engine import CLUSTER, KAFKA, SERVICES, containers, passes_its_check
from compositions.stack import Stack, only_v2
from embedded.pipeline import Pipeline
from embedded.service import wait_until

pytestmark = only_v2

LONG = pytest.mark.skipif(not os.environ.get("ROUNDS"), reason="for the long mode: make test-faults")
QUICK_PROBES = "services: {%s: {healthcheck: {interval: 2s}}}"
"""Not every 15 seconds: what the engine finds is what counts here, not how long it takes."""


def ends(pipeline: Pipeline) -> dict[TopicPartition, int]:
    """Return the end of every partition on the cluster, those of Kafka's own topics included."""
    consumer = KafkaConsumer(bootstrap_servers=pipeline.broker_url)
    with pipeline.admin() as admin:
        topics = admin.list_topics()
    partitions = [TopicPartition(t, p) for t in topics for p in consumer.partitions_for_topic(t) or ()]
    found = dict(consumer.end_offsets(partitions))
    consumer.close()
    return found


def cluster_id(pipeline: Pipeline) -> str:
    """Return the id that the cluster gave itself at its first start."""
    with pipeline.admin() as admin:
        return str(admin.describe_cluster()["cluster_id"])


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


def test_down_and_up_lose_nothing(stack: Stack, pipeline: Pipeline) -> None:
    """After `down` and `up` of both files cluster, topics and group are as before, and the detector goes on."""
    stack.quiet("stop detector")
    wait_until(lambda: pipeline.lag() > 500, 120)  # work for afterwards
    stack.quiet("down")
    before = cluster_id(pipeline), ends(pipeline), pipeline.lag()
    assert {partition.topic for partition in before[1]} > {pipeline.transactions, *pipeline.outputs}
    stack.quiet(f"{KAFKA} down")
    assert containers() == []
    stack.quiet(f"{KAFKA} up -d")
    stack.make("kafka")  # waits for the broker
    # A broker that answers may not yet have heard from ZooKeeper which topics there are.
    wait_until(lambda: ends(pipeline).keys() == before[1].keys(), 120)
    assert (cluster_id(pipeline), ends(pipeline), pipeline.lag()) == before
    assert "InconsistentClusterId" not in stack.compose(f"{KAFKA} logs")
    stack.quiet("up -d")
    stack.wait_for("generator", "delivered=[1-9]")
    stack.assert_each_in_one_output(pipeline)
    stack.quiet("up -d")


def test_services_that_are_there_before_the_cluster_wait_for_it(stack: Stack, pipeline: Pipeline) -> None:
    """They say whom they look for, and work as soon as the cluster is up."""
    stack.quiet("down")
    stack.quiet(f"{KAFKA} down")
    stack.quiet("up -d")
    for name in SERVICES:
        stack.wait_for(name, "No Kafka at broker:9092")
    stack.quiet(f"{KAFKA} up -d")
    stack.wait_at_work()
    stack.assert_each_in_one_output(pipeline)
    assert [container["RestartCount"] for container in containers(*SERVICES)] == [0, 0]
    stack.quiet("up -d")


@pytest.mark.parametrize(
    "name", ["detector", "broker", pytest.param("zookeeper", marks=LONG), pytest.param("generator", marks=LONG)]
)
def test_a_killed_process_comes_back(stack: Stack, pipeline: Pipeline, name: str) -> None:
    """SIGKILL to the main process: its container starts again and is healthy, and no record is lost or doubled."""
    (before,) = containers(name)
    os.kill(main_process(name), signal.SIGKILL)
    wait_until(lambda: containers(name)[0]["RestartCount"] == before["RestartCount"] + 1, 120)
    stack.make("kafka")  # waits for the broker
    written = pipeline.count(pipeline.transactions)
    wait_until(lambda: pipeline.count(pipeline.transactions) > written, 120)
    stack.assert_each_in_one_output(pipeline)
    stack.compose("start generator")
    wait_until(lambda: all(map(passes_its_check, containers())), 120)


@pytest.mark.parametrize("name", ["detector", pytest.param("generator", marks=LONG)])
def test_a_frozen_service_is_unhealthy(stack: Stack, pipeline: Pipeline, name: str) -> None:
    """SIGSTOP: the heartbeat stops, and the health check fails; going on, it is healthy, and nothing is wrong."""
    stack.quiet(f"-f docker-compose.yml -f - up -d {name}", before=f"echo '{QUICK_PROBES % name}' |")
    stack.wait_healthy(name)
    pid = main_process(name)
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: health(name) == "unhealthy", 120)
    finally:
        os.kill(pid, signal.SIGCONT)
    stack.wait_healthy(name)
    stack.assert_each_in_one_output(pipeline)
    stack.compose("up -d")


@LONG
def test_a_detector_without_records_is_healthy(stack: Stack, pipeline: Pipeline) -> None:
    """Waiting for records is no failure: with the generator stopped the detector stays healthy."""
    stack.wait_healthy(*CLUSTER, *SERVICES)
    stack.compose("stop generator")
    pipeline.drain()
    (before,) = containers("detector")
    time.sleep(60)  # more than the health check's patience
    assert health("detector") == "healthy"
    assert containers("detector")[0]["RestartCount"] == before["RestartCount"]
    stack.compose("start generator")
