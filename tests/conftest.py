"""One real Kafka cluster for all tests that need a broker, and which tests run in one process."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from xdist.scheduler.loadscope import LoadScopeScheduling

from embedded import Cluster
from embedded.pipeline import ROOT, Pipeline
from faults import table


def pytest_configure(config: pytest.Config) -> None:
    """Print the fault suite's table in the end; this is where it is known before the processes are started."""
    config.pluginmanager.register(table)


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


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A broker and its ZooKeeper, for the whole run; each of several processes has its own."""
    # Some records are of 1970: they are not to be gone before they are read.
    with Cluster(config={"log.retention.ms": "-1"}) as running:
        yield running


@pytest.fixture
def pipeline(cluster: Cluster) -> Pipeline:
    """Topics of its own with one partition; the input exists, the outputs do not."""
    fresh = Pipeline(cluster.bootstrap_servers)
    fresh.create(fresh.transactions)
    return fresh
