"""The lag is true: where the broker that leads a partition does not answer, it is not known, and nobody is told 0."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedded import Cluster
from embedded.cluster import free_ports
from embedded.pipeline import Pipeline
from embedded.records import Record
from embedded.service import Restarted, wait_until
from harness import scrape, transaction, wait_for_a_beat

pytestmark = pytest.mark.long

INTERNAL = ("__consumer_offsets", "__transaction_state")


@pytest.fixture(scope="module")
def brokers() -> Iterator[Cluster]:
    """Three brokers, of which the first coordinates every group and transaction."""
    config = {"default.replication.factor": "1", "min.insync.replicas": "1"}
    config |= {"offsets.topic.num.partitions": "1", "transaction.state.log.num.partitions": "1"}
    config |= {"transaction.state.log.min.isr": "1"}
    with Cluster(brokers=3, config=config) as cluster:
        compact = {"cleanup.policy": "compact"}
        create(Pipeline(cluster.bootstrap_servers), {0: [0]}, *INTERNAL, **compact)
        yield cluster


def create(pipeline: Pipeline, assignments: dict[int, list[int]], *topics: str, **configs: str) -> None:
    """Create topics, with these brokers for each partition, of which the first leads."""
    with pipeline.admin() as admin:
        options = {"assignments": assignments, "configs": configs}
        admin.create_topics(dict.fromkeys(topics, options), wait_for_metadata=True)


def lags(log: str) -> list[str]:
    """Return what the report's lines say."""
    return re.findall(r"lag=(\w+)", log)


def write(pipeline: Pipeline, count: int, *partitions: int) -> None:
    """Write so many records to each of the partitions."""
    pipeline.write([Record(transaction(n=n), partition=number) for number in partitions for n in range(count)])


def says(detector: Restarted, lag: str, times: int, since: int) -> None:
    """Wait until the report has said so, so many times after so many characters."""
    wait_until(lambda: lags(detector.log[since:]).count(lag) >= times, 120, lambda: detector.log)


@pytest.mark.parametrize("how", ["frozen", "gone"])
def test_the_leader_of_a_partition_does_not_answer(brokers: Cluster, tmp_path: Path, how: str) -> None:
    """The lag is unknown, a warning names the partition, no heartbeat, no sample; the other partition's go on."""
    heartbeat, (port,), broker = tmp_path / "heartbeat", free_ports(1), brokers.brokers[1]
    split = Pipeline(brokers.bootstrap_servers, 2)
    create(split, {0: [0], 1: [1]}, split.transactions)
    create(split, {0: [0], 1: [0]}, *split.outputs)
    sample = f'detector_lag_records{{{{partition="{{}}",topic="{split.transactions}"}}}}'
    with split.restarted("detector", HEARTBEAT_FILE=str(heartbeat), METRICS_PORT=str(port)) as detector:
        write(split, 5, 0, 1)
        split.drain()
        wait_until(heartbeat.exists, 120)
        wait_for_a_beat(heartbeat, detector)
        wait_until(lambda: scrape(port).get(sample.format(1)) == 0, 120)
        before, exits = len(detector.log), list(detector.exit_codes)
        # The report asks for this as it likes: what it said just before is not counted.
        broker.pause() if how == "frozen" else broker.kill()
        says(detector, "unknown", 1, before)
        since = len(detector.log)
        os.utime(heartbeat, (0, 0))
        says(detector, "unknown", 3, since)
        log = detector.log[since:]
        assert set(lags(log)) == {"unknown"}, log
        assert f"WARNING {split.transactions}[1]: the broker that leads it does not answer" in log
        assert f"{split.transactions}[0]: the broker" not in log
        assert heartbeat.stat().st_mtime == 0
        samples = scrape(port)
        assert [sample.format(partition) in samples for partition in (0, 1)] == [True, False]
        Pipeline(f"127.0.0.1:{brokers.brokers[0].port}", 2, split.name).write([Record(transaction(alone=1))])
        wait_until(lambda: scrape(port).get('detector_records_total{route="legit"}') == 11, 120, lambda: detector.log)
        assert detector.exit_codes == exits
        since = len(detector.log)
        if how == "frozen":
            broker.resume()
        else:
            broker.start()
        broker.wait_ready()
        write(split, 5, 1)
        split.drain()
        says(detector, "0", 1, since)
        wait_for_a_beat(heartbeat, detector)
        wait_until(lambda: scrape(port).get(sample.format(1)) == 0, 120)
        assert detector.exit_codes == exits
    assert len(split.read(split.legit)) == 16


@pytest.mark.parametrize("written", [3, 10])
def test_a_leader_that_lacks_what_was_read(brokers: Cluster, written: int) -> None:
    """An election of one that was not in sync: an error says what is lost; what the new leader gets comes out once.

    Be it fewer records than are lost or more: then the new leader has the offset at which reading would go on.
    """
    pipeline = Pipeline(brokers.bootstrap_servers)
    create(pipeline, {0: [1, 2]}, pipeline.transactions, **{"unclean.leader.election.enable": "true"})
    create(pipeline, {0: [0]}, *pipeline.outputs)
    old, behind = brokers.brokers[1:]
    with pipeline.restarted("detector") as detector:
        pipeline.write([Record(transaction(both=n)) for n in range(10)])
        pipeline.drain()
        behind.kill()
        pipeline.write([Record(transaction(lost=n)) for n in range(5)], acks="all")
        pipeline.drain()
        old.kill()
        behind.start()
        behind.wait_ready()
        pipeline.write([Record(transaction(new=n)) for n in range(written)])
        wait_until(lambda: len(pipeline.read(pipeline.legit)) >= 15 + written, 120, lambda: detector.log)
        old.start()
        old.wait_ready()
        pipeline.drain()
        error = f"ERROR {pipeline.transactions}[0] ended before offset 15, which had been read"
        assert detector.log.count(error) == 1, detector.log
        assert "Reading again, from offset 10 on" in detector.log
        detector.check()
    values = [record.value for record in pipeline.read(pipeline.legit)]
    names = [("both", 10), ("lost", 5), ("new", written)]
    assert values == [transaction(**{name: n}) for name, count in names for n in range(count)]
