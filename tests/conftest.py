"""One real Kafka cluster of each line for all tests that need a broker, and which tests run in one process."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from xdist.scheduler.loadscope import LoadScopeScheduling
from xdist.workermanage import WorkerController

import timing
from embedded import KAFKA_3, KAFKA_4, Cluster, Line
from embedded.pipeline import ROOT, Pipeline
from embedded.service import Service
from faults import table
from harness import STARTED, as_text


def pytest_configure(config: pytest.Config) -> None:
    """Print the fault suite's table in the end, and times; this is where it is known before the processes start."""
    config.pluginmanager.register(table)
    config.pluginmanager.register(timing)
    # For JVMs that live for minutes and do little: compiling more thoroughly would cost more than it saves.
    os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1")


class Scheduler(LoadScopeScheduling):
    """Decides which tests run in the same one of several processes (pytest -n 3), in their order."""

    def _split_scope(self, nodeid: str) -> str:
        """Return what those tests share: a file's brokers of one line, or the Docker engine's names and ports."""
        file = nodeid.partition("::")[0]
        if file.startswith("tests/faults/"):
            return nodeid  # each is long, and goes wherever there is time
        return "engine" if uses_engine(ROOT / file) else f"{file} {'[zookeeper' in nodeid}"

    def remove_node(self, node: WorkerController) -> str | None:
        """Take a process that has crashed out, and return the test that it ran.

        xdist would give this one to the next process, to crash that as well, and with it what is done already.
        """
        work = self.assigned_work[node]
        crashed = next((test for unit in work.values() for test, is_done in unit.items() if not is_done), None)
        if crashed:
            work[self._split_scope(crashed)][crashed] = True
        for scope in [scope for scope, unit in work.items() if all(unit.values())]:
            del work[scope]
        super().remove_node(node)
        return crashed

    def _reschedule(self, node: WorkerController) -> None:
        """Give a process more work, unless it is a new one that has yet to say which tests it has found."""
        if node in self.registered_collections:
            super()._reschedule(node)


@cache
def uses_engine(file: Path) -> bool:
    """Return whether the tests of a file bring up containers."""
    return bool(re.search("^from compositions", file.read_text(), re.M))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a Docker engine or a browser, before `-m` selects."""
    for item in items:
        if uses_engine(item.path):
            item.add_marker("docker")
        elif "browser" in item.fixturenames:  # type: ignore[attr-defined]
            item.add_marker("browser")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Scheduler:
    """Tell pytest-xdist of it."""
    return Scheduler(config, log)


LINES = [pytest.param(KAFKA_4, id="kafka4"), pytest.param(KAFKA_3, id="zookeeper", marks=pytest.mark.zookeeper)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what is marked as a guarantee on both lines of Kafka, and what is marked for ZooKeeper on the old one."""
    marked = {mark.name for mark in metafunc.definition.iter_markers()}
    if "line" in metafunc.fixturenames and marked & {"guarantee", "zookeeper"}:
        lines = LINES[1:] if "zookeeper" in marked else LINES
        metafunc.parametrize("line", lines, indirect=True, scope="session")


@pytest.fixture(autouse=True)
def nothing_goes_on() -> Iterator[None]:
    """Kill what a test has started and not ended."""
    yield
    for process in STARTED:
        with suppress(psutil.NoSuchProcess):
            for one in [*process.children(recursive=True), process]:
                one.kill()
    STARTED.clear()


@pytest.fixture(scope="session")
def line(request: pytest.FixtureRequest) -> Line:
    """The line of Kafka that a test runs on: Kafka 4 unless it is a guarantee."""
    return getattr(request, "param", KAFKA_4)


@pytest.fixture(scope="session", autouse=True)
def every_log_is_read() -> Iterator[None]:
    """Have every service that a test starts log objects, and read each line; a test sees the text."""
    start, printed = Service.__init__, Service.log

    def start_with_objects(self: Service, name: str, environ: Mapping[str, str], *command: Any, **named: Any) -> None:
        is_ours = not any(command[:1]) or ("-m" in command[0] and "docs.steps" not in command[0][-1])  # and no script
        start(self, name, {"LOG_FORMAT": "json" if is_ours else "text", **environ}, *command, **named)
        self.read = partial(as_text, name) if is_ours else str  # type: ignore[attr-defined]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Service, "__init__", start_with_objects)
        patch.setattr(Service, "log", property(lambda self: self.read(printed.__get__(self))))
        yield


@pytest.fixture(scope="session")
def clusters() -> Iterator[Callable[[Line], Cluster]]:
    """A broker of each line that is asked for, for the whole run; each of several processes has its own."""
    with ExitStack() as stack:
        # Some records are of 1970, and are not to be gone before they are read; some are of the far future, which
        # Kafka 4 refuses by default.
        config = {"log.retention.ms": "-1", "log.message.timestamp.after.max.ms": str(2**63 - 1)}
        yield cache(lambda line: stack.enter_context(Cluster(config=config, line=line)))


@pytest.fixture
def cluster(clusters: Callable[[Line], Cluster], line: Line) -> Cluster:
    """The broker that the tests share."""
    return clusters(line)


@pytest.fixture
def pipeline(cluster: Cluster) -> Pipeline:
    """Topics of its own with one partition; the input exists, the outputs do not."""
    fresh = Pipeline(cluster.bootstrap_servers)
    fresh.create(fresh.transactions)
    return fresh
