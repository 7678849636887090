"""What the tutorial's first commands start: it comes up, even with a slow broker, and nothing complains."""

import re
import time
from datetime import datetime

from compositions.engine import CLUSTER, KAFKA, PROJECT, SERVICES, V1, complaints, containers, run
from compositions.stack import EVERYTHING, Stack


def test_nothing_had_to_be_restarted(stack: Stack) -> None:
    """The four come up at their first attempt, with v1 though the broker is slow."""
    assert stack.restarts == dict.fromkeys(EVERYTHING, 0)


def test_compose_complains_of_nothing(stack: Stack) -> None:
    """Neither `config` nor `up` of either file prints a warning or an error, nor a notice of orphans."""
    assert len(re.findall(r"^\$ ", stack.output, re.M)) == 4
    assert complaints(stack.output) == []


def test_make_network_can_be_repeated(stack: Stack) -> None:
    """The first `make network` has created the network, a second one changes and says nothing."""
    before = stack.leftovers("network")
    assert stack.make("network") == ""
    assert stack.leftovers("network") == before


def test_the_log_says_that_the_broker_has_started(stack: Stack) -> None:
    """The tutorial's `logs broker | grep started` finds the broker's line."""
    assert "started (kafka.server.KafkaServer)" in stack.compose(f"{KAFKA} logs broker | grep started")


def test_everything_becomes_healthy(stack: Stack) -> None:
    """All four containers report health, and `ps` says so."""
    stack.wait_healthy(*CLUSTER, *SERVICES)
    for arguments, names in ((f"{KAFKA} ps", CLUSTER), ("ps", SERVICES)):
        output = stack.quiet(arguments)
        for name in names:
            assert re.search(rf"^{PROJECT}[-_]{name}[-_]1 .*\(healthy\)", output, re.M), output


def test_make_ps_lists_each_container_once(stack: Stack) -> None:
    """`make ps` has one line for each container of the pipeline."""
    names = sorted(line.split()[0] for line in stack.make("ps").splitlines() if line.startswith(PROJECT))
    assert names == sorted(container["Name"].removeprefix("/") for container in containers())
    assert len(names) == 4


def test_only_a_bare_v1_sees_orphans(stack: Stack) -> None:
    """A bare docker-compose takes the cluster for orphans, and says just that; with the variable it says nothing."""
    output = complaints(stack.compose("up -d", ignore_orphans=False))
    assert ["Found orphan containers" in line for line in output] == ([True] if stack.command == V1 else [])
    assert "orphan" not in stack.quiet("up -d")


def test_the_health_checks_do_not_fill_the_log(stack: Stack) -> None:
    """Each container is probed every 15 to 30 seconds, for ZooKeeper logs each probe; more often only at its start."""
    for container in containers():
        assert 15 <= container["Config"]["Healthcheck"]["Interval"] / 1e9 <= 30
    (zookeeper,) = containers("zookeeper")
    probes = len(re.findall("Processing srvr command", run(f"docker logs {zookeeper['Id']}")))
    age = time.time() - datetime.fromisoformat(zookeeper["State"]["StartedAt"]).timestamp()
    assert 0 < probes <= age / 15 + 15
