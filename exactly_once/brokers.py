"""Requests to coordinators and leaders, sent again until a deadline where a broker is gone, or another has taken over.

To send one twice does no harm: a leader knows a batch by its sequence number, and a coordinator what it has noted.
"""

import time
from collections import defaultdict
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, TypeVar

from kafka import KafkaAdminClient, TopicPartition
from kafka.errors import (
    ConcurrentTransactionsError,
    KafkaError,
    KafkaTimeoutError,
    NodeNotReadyError,
    RetriableError,
    for_code,
)
from kafka.protocol.metadata import FindCoordinatorRequest
from kafka.protocol.producer import ProduceRequest

from exactly_once.answers import error_codes, error_of, refusal
from exactly_once.job import Outgoing
from exactly_once.kafka_python import network

REQUEST_BYTES = 8 * 1024 * 1024
"""Batches share a request up to this size, well below what a broker reads; a larger batch goes alone."""

RETRY_SECONDS, MARKER_SECONDS = 0.05, 0.002
"""The pause before a request is sent again; the latter while Kafka still ends the previous transaction."""
LEAST_SECONDS = 0.5
"""Nothing is sent again for less time: that it took too long would hide what was wrong before."""

Coordinator = tuple[int, str]
"""A CoordinatorType, and the transactional id or the group that is coordinated."""
T = TypeVar("T")


class Brokers:
    """Sends requests by the connections of a client, in whose thread all coroutines run."""

    def __init__(self, client: KafkaAdminClient, topics: Sequence[str]) -> None:
        """Take a client of one's own, and the topics that are to be written."""
        self.client, self.sleep = network(client)
        self.coordinators: dict[Coordinator, Any] = {}
        self.ready_at: dict[Any, float] = {}
        """When each broker takes requests again, if it has told us to wait."""
        self.connections: dict[Any, Any] = {}
        """By which connection each broker got the last request: another one may be to a broker that was away."""
        self.client.cluster.set_topics(topics)  # whose leaders it finds out, and those alone

    @property
    def throttled_seconds(self) -> float:
        """How long there is to wait for all brokers to take requests again."""
        return max(0.0, max(self.ready_at.values(), default=0.0) - time.monotonic())

    def run(self, work: Coroutine[Any, Any, None], seconds: float) -> None:
        """Do the work, in so many seconds. Raises KafkaError."""
        self.until = time.monotonic() + seconds
        self.client.run(work)

    async def all(self, *works: Coroutine[Any, Any, T]) -> list[T]:
        """Begin all, in this order, and return what each returns."""
        return [await begun for begun in [self.client.call_soon(work) for work in works]]

    async def ask(self, coordinator: Coordinator, request: Any) -> Any:
        """Return a coordinator's answer, once there is no error in it."""
        while True:
            try:
                answer = await self._send(request, await self._find(coordinator))
                errors = [for_code(code)() for code in error_codes(answer)]
                for error in sorted(errors, key=lambda error: error.retriable):  # those first that end the process
                    raise error
                return answer
            except RetriableError as error:
                is_early = isinstance(error, ConcurrentTransactionsError)
                if not is_early:
                    self.coordinators.pop(coordinator, None)
                final = KafkaTimeoutError(f"no success with {request.name}: {error}")
                await self._pause(MARKER_SECONDS if is_early else RETRY_SECONDS, final)

    async def write(self, batches: Iterable[Outgoing], transactional_id: str) -> None:
        """Write sealed batches, those of a partition one after the other. Raises KafkaError if one is refused."""
        left: dict[TopicPartition, list[Outgoing]] = defaultdict(list)
        for one in batches:
            left[one.target].append(one)
        while left:
            requests: dict[Any, list[Outgoing]] = defaultdict(list)  # by leader, each with one batch for a partition
            for target, (first, *_) in left.items():
                request = requests[self.client.cluster.leader_for_partition(target)]
                if not request or sum(len(one.batch.data) for one in (*request, first)) <= REQUEST_BYTES:
                    request.append(first)
            errors: dict[TopicPartition, KafkaError] = {}
            sent = (self._produce(request, leader, transactional_id) for leader, request in requests.items())
            for one, error in chain.from_iterable(await self.all(*sent)):
                if error:
                    errors[one.target] = refusal(one, error)
                else:
                    del left[one.target][0]
            left = {target: queue for target, queue in left.items() if queue}
            if errors:  # each of these partitions may have another leader by now
                with suppress(KafkaError):
                    await self.client.wait_for(self.client.cluster.request_update(), self._left_ms())
                await self._pause(RETRY_SECONDS, next(iter(errors.values())))

    async def _produce(
        self, batches: Sequence[Outgoing], leader: Any, transactional_id: str
    ) -> list[tuple[Outgoing, KafkaError | None]]:
        # Returns for each batch why it has to be sent again, if so.
        topic: Any = ProduceRequest.TopicProduceData
        items = ((b.target, topic.PartitionProduceData(index=b.target[1], records=b.batch.data)) for b in batches)
        request = ProduceRequest(
            transactional_id=transactional_id,
            acks=-1,
            timeout_ms=self._left_ms(),
            topic_data=[topic(name=name, partition_data=data) for name, data in by_topic(items)],
            min_version=8,  # earlier ones do not say which record is refused
            max_version=9,
        )
        try:
            answer = await self._send(request, leader)
        except RetriableError as error:
            return [(one, error) for one in batches]
        found = {TopicPartition(t.name, p.index): p for t in answer.responses for p in t.partition_responses}
        return [(one, error_of(found.get(one.target), one)) for one in batches]

    async def _find(self, coordinator: Coordinator) -> Any:
        if coordinator not in self.coordinators:
            kind, key = coordinator
            request = FindCoordinatorRequest(key=key, key_type=kind, coordinator_keys=[key])  # in any version
            answer = await self._send(request, self.client.least_loaded_node())
            found = answer.coordinators[0] if answer.coordinators else answer
            self.coordinators[coordinator] = self.client.cluster.add_coordinator(found, kind, key)
        return self.coordinators[coordinator]

    async def _send(self, request: Any, broker: Any) -> Any:
        if self.client.cluster.broker_metadata(broker) is None:
            raise NodeNotReadyError(f"{broker}")
        if (wait := self.ready_at.get(broker, 0.0) - time.monotonic()) > 0:
            await self._pause(
                wait,
                KafkaError(
                    f"a quota of this user (such as producer_byte_rate) allows {request.name} in {wait:.0f} s: raise it"
                ),
            )
        self.connections[broker] = self.client.get_connection(broker)
        # The client closes the connection of a request that it gives up: only after we have given up.
        answer = await self.client.wait_for(self.client.send(request, broker, self._left_ms() + 1000), self._left_ms())
        if throttled_ms := getattr(answer, "throttle_time_ms", 0):
            self.ready_at[broker] = time.monotonic() + throttled_ms / 1000
        return answer

    async def _pause(self, seconds: float, final: KafkaError) -> None:
        if time.monotonic() + seconds + LEAST_SECONDS > self.until:
            raise final
        await self.sleep(seconds)

    def _left_ms(self) -> int:
        return max(1, int((self.until - time.monotonic()) * 1000))


def by_topic(items: Iterable[tuple[TopicPartition, T]]) -> Iterable[tuple[str, list[T]]]:
    """Return the topics, each with the items of its partitions, as requests have them."""
    found: dict[str, list[T]] = defaultdict(list)
    for partition, item in items:
        found[partition.topic].append(item)
    return found.items()
