"""The last of these tests: `stop`, the targets of make that start and stop everything, and `make clean`."""

import re
import socket

import pytest
from kafka import KafkaConsumer

from compositions.engine import CLUSTER, KAFKA, NETWORK, SERVICES, check_installed, containers, inspect, run, service
from compositions.stack import EVERYTHING, Stack
from compositions.test_hardening import DATA_PATHS
from embedded.pipeline import Pipeline
from embedded.service import wait_until

ENGINE_TARGETS = [
    "network",
    "kafka",
    "up",
    "down",
    "logs",
    "ps",
    "topics",
    "consume",
    "scale",
    "watch",
    "clean",
    "network-rm",
]


def test_stop_ends_all_in_order(stack: Stack, pipeline: Pipeline) -> None:
    """On `stop` the services end with exit code 0 and the two JVMs by themselves, before they would be killed."""
    before = pipeline.count(pipeline.fraud)
    wait_until(lambda: pipeline.count(pipeline.fraud) > before, 120)  # both are at work
    stack.quiet("stop")
    stack.quiet(f"{KAFKA} stop")
    states = {service(container): container["State"] for container in containers()}
    assert {state["Status"] for state in states.values()} == {"exited"}
    assert [states[name]["ExitCode"] for name in SERVICES] == [0, 0]
    for name in CLUSTER:
        assert states[name]["ExitCode"] in (0, 143)  # Java's own answer to SIGTERM; one killed has 137


def test_make_runs_the_pipeline(stack: Stack) -> None:
    """`make up` starts all, `topics` shows the topics, `scale` adds a detector, and `down` keeps the records.

    The host's port can be any, even the one that the containers use among themselves.
    """
    stack.make("down")
    assert containers() == []
    said = stack.make("KAFKA_HOST_PORT=9092 up")
    assert "make consume TOPIC=streaming.transactions.fraud N=5" in said
    assert sorted(map(service, containers())) == EVERYTHING
    pipeline = Pipeline.of_compose("localhost:9092")
    consumer = KafkaConsumer(pipeline.fraud, bootstrap_servers=pipeline.broker_url, auto_offset_reset="earliest")
    assert next(consumer).value
    consumer.close()
    topics = stack.make("topics")
    for topic in (pipeline.transactions, *pipeline.outputs):
        assert re.search(rf"^Topic: {re.escape(topic)}\s.*PartitionCount: 4\s", topics, re.M), topics
    assert len(re.findall(rf"^{pipeline.name}\s+{re.escape(pipeline.transactions)}\s", topics, re.M)) == 4, topics
    said = stack.make("scale N=5")
    assert "Detectors: 5, partitions of queueing.transactions: 4." in said
    assert "So 1 of them idle" in said
    assert "partitions of queueing.transactions: 4." in stack.make("scale N=2").splitlines()[-1]
    stack.make("KAFKA_HOST_PORT=9092 up")
    assert sorted(map(service, containers())) == sorted([*EVERYTHING, "detector"])
    stack.make("down")
    assert containers() == []
    assert {volume["Name"] for volume in inspect("volume", DATA_PATHS)} == set(DATA_PATHS)


def test_make_up_says_what_does_not_run(stack: Stack) -> None:
    """A service with a wrong variable is named, with its line; so is the variable of a port that is taken."""
    said = run(f"make COMPOSE='{stack.command}' up TRANSACTIONS_PER_SECOND=abc", code=2)
    assert re.search(r"^The generator does not run, .*TRANSACTIONS_PER_SECOND is 'abc': give it a number", said, re.M)
    stack.make("down")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = run(f"make COMPOSE='{stack.command}' kafka KAFKA_HOST_PORT={port}", code=2)
    assert f"Port {port} of this machine is taken: end what has it, or give another port, such as make KAFKA_" in said
    stack.make("down")


def test_make_refuses_a_network_with_another_broker(stack: Stack) -> None:
    """While a container of others is called `broker` there, as the services would find both by that name."""
    stack.make("network")
    stranger = f"--name stranger --network {NETWORK} --network-alias broker --entrypoint sleep python:3.13-slim 600"
    run(f"docker run --detach --rm {stranger}")
    try:
        said = run(f"make COMPOSE='{stack.command}' kafka", code=2)
        assert "Another project has a broker on kafka-network: stranger." in said
        assert containers() == []
    finally:
        run("docker rm --force stranger")


def test_make_clean_leaves_nothing(stack: Stack) -> None:
    """`make clean` removes all that these tests have brought up; it and `make network-rm` can be repeated."""
    stack.note()
    for _ in range(2):
        said = stack.make("clean", quiet=False)  # either Compose warns of what is gone already
        assert "What is left: the images that were pulled" in said
    for _ in range(2):
        stack.make("network-rm")
    kinds = ("container", "volume", "image", "network")
    assert {kind: stack.leftovers(kind) for kind in kinds} == {kind: [] for kind in kinds}


@pytest.mark.parametrize("target", ENGINE_TARGETS)
def test_make_says_in_one_line_that_no_engine_answers(target: str) -> None:
    """Without an engine each target that needs one says so, before anything else, and fails."""
    check_installed("make")
    said, by_make = run(f"DOCKER_HOST=unix:///nonexistent make {target}", code=2).splitlines()
    assert said.startswith("No Docker engine answers: start Docker")
    assert by_make.startswith("make: ***")
