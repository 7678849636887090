"""One bring-up for each version of Compose, which the tests of this folder share and use in their order.

They have a Compose project of their own, but the network's name and the host's port are fixed: where somebody uses
these, the tests are skipped. So they are where there is no Docker engine or no such Compose; with REQUIRE_DOCKER=1 in
the environment they fail instead.
"""

import faulthandler
import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key

from compositions.engine import (
    HOST_PORT,
    KAFKA,
    PROJECT,
    V1,
    V2,
    check_engine,
    check_unused,
    containers,
    run,
    service,
    unable,
)
from compositions.stack import EVERYTHING, Stack, running
from embedded.pipeline import Pipeline
from embedded.service import wait_until


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Give each of these tests half an hour: the first one waits for the engine, and builds the images."""
    if item.config.getini("faulthandler_timeout") != "0":
        stderr = item.config.stash[fault_handler_stderr_fd_key]
        faulthandler.dump_traceback_later(1800, file=stderr, exit=True)


UP = ExitStack()
"""Removes what is up now: after the last test that uses it, not after all others that the same process goes on with."""


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """Remove a bring-up that the next test does not use: it would take the processor's time from it."""
    if nextitem is None or "stack" not in nextitem.fixturenames:  # type: ignore[attr-defined]
        UP.close()


@pytest.fixture(scope="session")
def turn() -> Iterator[None]:
    """No two runs of these tests at a time, as the second would take the first one's containers for leftovers.

    An engine that has been promised may still be set up: whoever does that has the turn meanwhile.
    """
    with (Path(tempfile.gettempdir()) / f"{PROJECT}.lock").open("w") as lock:

        def is_ours() -> bool:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        try:
            wait_until(is_ours, 1200 if os.environ.get("REQUIRE_DOCKER") == "1" else 0)
        except TimeoutError:
            unable("another run of these tests is under way: wait for its end")
        yield


def limit_broker(cpu_quota: int) -> None:
    """Let the broker have so many of each 100,000 microseconds of a core; -1 stands for no limit."""
    (broker,) = containers("broker")
    run(f"docker update --cpu-quota {cpu_quota} {broker['Id']}")


@pytest.fixture(scope="session", params=[V2, V1], ids=["v2", "v1"])
def stack(turn: None, request: pytest.FixtureRequest) -> Iterator[Stack]:
    """Everything started out of nothing, in the tutorial's order; it is all removed at the end.

    With v1 the broker has a third of a core meanwhile, as with six busy processes on two cores: what is slow then has
    to be waited for.
    A pair of a Compose command and make's variables stands for what `make up` starts with them.
    """
    command, variables = (request.param, "") if isinstance(request.param, str) else request.param
    check_engine(command)
    fresh = Stack(command, variables)
    fresh.remove_everything()
    check_unused()
    # A network that is there and that nobody uses is put back at the end.
    was_there = fresh.leftovers("network")
    with UP:
        UP.callback(run, "make network" if was_there else "make network-rm")
        UP.callback(fresh.remove_everything)
        run("make network-rm")
        if variables:
            fresh.make("up")
        else:
            run("make network")
            for arguments in (f"{KAFKA} config -q", f"{KAFKA} up -d", "config -q", "up -d --build"):
                fresh.output += f"$ {fresh.command} {arguments}\n{fresh.compose(arguments)}"
                if command == V1 and arguments == f"{KAFKA} up -d":
                    limit_broker(cpu_quota=33_000)
        fresh.wait_at_work(300)
        limit_broker(cpu_quota=-1)
        fresh.restarts = {service(container): container["RestartCount"] for container in containers()}
        yield fresh


@pytest.fixture
def pipeline(stack: Stack) -> Pipeline:
    """The compositions' topics, as seen from the host; all is up, even if a test before it has failed in between."""
    if running() != EVERYTHING:
        stack.make("kafka")
        stack.compose("up -d")
    return Pipeline.of_compose(f"localhost:{HOST_PORT}")
