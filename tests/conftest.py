"""One real Kafka cluster for all tests that need a broker."""

from collections.abc import Iterator

import pytest

from embedded import Cluster
from harness import Pipeline


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A broker and its ZooKeeper, for the whole run."""
    # Some records are of 1970: they are not to be gone before they are read.
    with Cluster(config={"log.retention.ms": "-1"}) as running:
        yield running


@pytest.fixture
def pipeline(cluster: Cluster) -> Pipeline:
    """Topics of its own with one partition; the input exists, the outputs do not."""
    fresh = Pipeline(cluster.bootstrap_servers)
    fresh.create(fresh.transactions)
    return fresh
