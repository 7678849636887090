"""The services survive a cluster that is not there yet."""

from contextlib import ExitStack

import pytest
from kafka import KafkaAdminClient

from detector.app import branching
from embedded import Cluster
from embedded.brokers import HOST
from embedded.cluster import free_ports
from embedded.pipeline import Pipeline
from embedded.service import wait_until
from exactly_once.topics import prepare_topics
from service.settings import Environment


@pytest.fixture
def absent() -> Pipeline:
    """Topics on a broker that is not there yet."""
    return Pipeline(f"{HOST}:{free_ports(1)[0]}")


def test_they_say_where_they_try_to_connect_and_start_when_it_comes(absent: Pipeline) -> None:
    """Both go on trying, end at once on SIGTERM meanwhile, and begin their work when Kafka is there."""
    with ExitStack() as stack:
        for name in ("generator", "detector"):
            with absent.service(name) as waiting:
                waiting.wait_for(f"No Kafka at {absent.broker_url} (KAFKA_BROKER_URL) yet, trying again")
                assert waiting.stop() == 0
        generator = stack.enter_context(absent.service("generator", TRANSACTIONS_LIMIT="1000"))
        detector = stack.enter_context(absent.restarted("detector"))
        generator.wait_for("No Kafka at")
        detector.wait_for("No Kafka at")
        stack.enter_context(Cluster(port=int(absent.broker_url.split(":")[1])))
        assert generator.wait() == 0
        wait_until(lambda: len(absent.read(absent.legit)) + len(absent.read(absent.fraud)) == 1000, 120)
        assert detector.end() == 0


def test_the_brokers_that_do_not_know_a_new_topic_yet_are_waited_for() -> None:
    """With several brokers, the one that is asked can be the last to hear of a topic that another has just created."""
    with Cluster(brokers=2) as cluster:
        for _ in range(20):  # without the wait, one in eight fails
            pipeline = Pipeline(cluster.bootstrap_servers)
            job = branching(Environment(pipeline.environ("detector")))
            admin = KafkaAdminClient(bootstrap_servers=cluster.bootstrap_servers)
            assert set(prepare_topics(admin, job.inputs, job.outputs)) == set(pipeline.outputs)
            admin.close()
