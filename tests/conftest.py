"""One real Kafka cluster of each line for all tests that need a broker, and which tests run in one process."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest
from xdist.scheduler.loadscope import LoadScopeScheduling

import timing
from embedded import KAFKA_3, KAFKA_4, Cluster, Line
from embedded.pipeline import ROOT, Pipeline
from faults import table


def pytest_configure(config: pytest.Config) -> None:
    """Print the fault suite's table in the end, and times; this is where it is known before the processes start."""
    config.pluginmanager.register(table)
    config.pluginmanager.register(timing)


class Scheduler(LoadScopeScheduling):
    """Decides which tests run in the same one of several processes (pytest -n 3), in their order."""

    def _split_scope(self, nodeid: str) -> str:
        """Return what those tests have in common: a file, or the Docker engine, where names and ports are fixed."""
        file = nodeid.partition("::")[0]
        if file.startswith("tests/faults/"):
            return nodeid  # each is long, and goes wherever there is time
        return "engine" if uses_engine(ROOT / file) else file


@cache
def uses_engine(file: Path) -> bool:
    """Return whether the tests of a file bring up containers."""
    return bool(re.search("^from compositions", file.read_text(), re.M))


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


@pytest.fixture(scope="session")
def line(request: pytest.FixtureRequest) -> Line:
    """The line of Kafka that a test runs on: Kafka 4 unless it is a guarantee."""
    return getattr(request, "param", KAFKA_4)


@pytest.fixture(scope="session")
def clusters() -> Iterator[Callable[[Line], Cluster]]:
    """A broker of each line that is asked for, for the whole run; each of several processes has its own."""
    with ExitStack() as stack:
        # Some records are of 1970: they are not to be gone before they are read.
        yield cache(lambda line: stack.enter_context(Cluster(config={"log.retention.ms": "-1"}, line=line)))


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
