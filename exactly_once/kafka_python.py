"""Below kafka-python's public interface: requests of our own, by the client's connections; also connecting.

The client's interface decodes and encodes each record, which takes ten times as long as all other work.
Below it whole batches are moved. The private names used for this are marked "private", and occur in this file,
in whole_batches.py, in service/upstream.py, and one in service/refusal.py; tests/test_kafka_python.py has a test for
each. Because of them, the client's version is pinned.
"""

import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.errors import KafkaError, LeaderNotAvailableError
from kafka.protocol.consumer import ListOffsetsRequest

from service.connecting import connect as connect_client
from service.settings import Cluster
from service.stopping import Stopping

# --- asking ---


def ask_ends(
    consumer: KafkaConsumer, partitions: Iterable[TopicPartition], seconds: float
) -> dict[TopicPartition, int]:
    """Return where partitions end, committed or not: those whose leader answers within so many seconds."""
    client: Any = consumer._client  # private, like its manager
    manager, until = client._manager, time.monotonic() + seconds
    led: dict[int, list[TopicPartition]] = defaultdict(list)
    for partition in partitions:
        led[manager.cluster.leader_for_partition(partition)].append(partition)
    # One request for each leader: a connection takes only some at a time.
    answers = [manager.call_soon(_ask_leader, manager, leader, theirs) for leader, theirs in led.items()]
    ends: dict[TopicPartition, int] = {}
    for answer in answers:
        with suppress(KafkaError):
            ends |= manager.run(manager.wait_for, answer, max(1, int((until - time.monotonic()) * 1000)))
    return ends


async def _ask_leader(manager: Any, leader: int | None, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
    if leader is None or leader == -1:
        raise LeaderNotAvailableError(f"{partitions}")
    asked = ListOffsetsRequest.ListOffsetsTopic
    by_topic: dict[str, list[Any]] = defaultdict(list)
    for topic, number in partitions:
        latest = asked.ListOffsetsPartition(partition_index=number, current_leader_epoch=-1, timestamp=-1)
        by_topic[topic].append(latest)
    topics = [asked(name=topic, partitions=latest) for topic, latest in by_topic.items()]
    response = await manager.send(ListOffsetsRequest(isolation_level=0, topics=topics, min_version=1), node_id=leader)
    return {
        TopicPartition(topic.name, found.partition_index): int(found.offset)
        for topic in response.topics
        for found in topic.partitions
        if not found.error_code
    }


# --- connecting ---


def network(client: KafkaAdminClient) -> tuple[Any, Callable[[float], Awaitable[None]]]:
    """Return what sends a client's requests and runs coroutines in its thread, and what lets these sleep."""
    return client._manager, client._net.sleep  # private


def advertised_addresses(admin: KafkaAdminClient) -> list[str]:
    """Return the address of each broker, as the brokers advertise them."""
    return [f"{broker.host}:{broker.port}" for broker in admin._manager.cluster.brokers()]  # private


def connect(client: Callable[..., Any], cluster: Cluster, stopping: Stopping, **config: object) -> Any:
    """Return a client of this class once Kafka answers. Ends the process, with exit code 0, if a signal comes first.

    Blocks as long as Kafka is away. Raises KafkaError if Kafka turns this client away.
    """
    is_admin = client is KafkaAdminClient
    # An admin client looks topics up, at the start, when a broker may be new and slow, or just coming up.
    patience = {
        "request_timeout_ms": 15_000 if is_admin else 5000,
        "reconnect_backoff_max_ms": 250 if is_admin else 1000,
    }
    connected = connect_client(client, cluster, stopping, **patience | config)
    never_create_topics(connected)
    return connected


def never_create_topics(client: Any) -> None:
    """Keep a client from creating a deleted topic again, with the broker's number of partitions, by asking for it."""
    # Private: the clients do not pass on their option of this name.
    client._manager.cluster.config["allow_auto_create_topics"] = False
