"""A pipeline on a cluster: the names of its topics, its services, and what it still has to do."""

import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

from kafka import KafkaAdminClient, KafkaConsumer
from kafka.errors import KafkaError, TopicAlreadyExistsError

from detector.app import TOPICS
from embedded import records
from embedded.records import Record
from embedded.service import ROOT as ROOT
from embedded.service import Restarted, Service, wait_until
from service.settings import Environment

ROUTES = {route: topic.rpartition(".")[2] for route, (_, topic) in TOPICS.items()}
"""The detector's routes, as the code names them, and how the names of their topics end."""


@dataclass
class Pipeline:
    """A topic of transactions, one for each route, and a consumer group of its own; and the services that use them."""

    broker_url: str
    partitions: int = 1
    name: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    """The group's name; the topics' names begin with it unless they are given."""
    transactions: str = ""
    """The input topic."""
    prefix: str = ""
    """How the names of the output topics begin."""
    access: Mapping[str, object] = field(default_factory=dict, repr=False)
    """Further settings of every client that this makes, to authenticate and encrypt; its services have variables."""

    def __post_init__(self) -> None:
        self.transactions = self.transactions or f"{self.name}.transactions"
        self.routes = {route: f"{self.prefix or self.name}.{suffix}" for route, suffix in ROUTES.items()}

    @classmethod
    def of_compose(cls, broker_url: str, access: Mapping[str, object] = {}) -> Self:
        """Return the pipeline with the names of docker-compose.yml, which are the tutorial's."""
        return cls(broker_url, 4, "fraud-detector", "queueing.transactions", "streaming.transactions", access)

    @classmethod
    def from_env(cls, environment: Environment) -> Self:
        """Return the pipeline of the variables of the detector, or as in Compose. Raises ConfigurationError."""
        cluster = environment.cluster()
        pipeline = cls.of_compose(cluster.broker_url, cluster.access)
        pipeline.name = environment.name("CONSUMER_GROUP", pipeline.name)
        pipeline.transactions = environment.topic("TRANSACTIONS_TOPIC", pipeline.transactions, pipeline.transactions)
        pipeline.routes = {route: environment.topic(name, topic, topic) for route, (name, topic) in TOPICS.items()}
        return pipeline

    # --- its topics ---

    @property
    def outputs(self) -> tuple[str, ...]:
        """The output topics, in the order of `ROUTES`."""
        return tuple(self.routes.values())

    @property
    def legit(self) -> str:
        """The topic of legit transactions."""
        return self.routes["legit"]

    @property
    def fraud(self) -> str:
        """The topic of fraud."""
        return self.routes["fraud"]

    @property
    def dead_letter(self) -> str:
        """The dead-letter topic."""
        return self.routes["dead_letter"]

    @contextmanager
    def admin(self) -> Iterator[KafkaAdminClient]:
        """Return a client for topics and groups, for the duration of the block."""
        with closing(KafkaAdminClient(bootstrap_servers=self.broker_url, **self.access)) as client:
            yield client

    def create(self, *topics: str, partitions: int | None = None, **configs: str) -> None:
        """Create topics; in the names of their configs, _ stands for a dot. Raises KafkaError if one exists."""
        options = {
            "num_partitions": partitions or self.partitions,
            "configs": {name.replace("_", "."): value for name, value in configs.items()},
        }

        def create_missing() -> bool:
            if missing := set(topics) - set(admin.list_topics()):
                admin.create_topics(dict.fromkeys(missing, options), wait_for_metadata=True)
            return True

        with self.admin() as admin:
            try:
                admin.create_topics(dict.fromkeys(topics, options), wait_for_metadata=True)
            except TopicAlreadyExistsError:
                raise
            except KafkaError:  # a broker that is just coming back refuses for a while
                wait_until(create_missing, 120)

    # --- its services ---

    def environ(self, name: str, **more: str) -> dict[str, str]:
        """Return the environment of the generator or the detector."""
        common = {"KAFKA_BROKER_URL": self.broker_url, "TRANSACTIONS_TOPIC": self.transactions}
        if name == "generator":
            return common | {"TRANSACTIONS_PER_SECOND": "1000"} | more
        topics = {f"{route.upper()}_TOPIC": topic for route, topic in self.routes.items()}
        return common | topics | {"CONSUMER_GROUP": self.name} | more

    def service(self, name: str, **more: str) -> Service:
        """Start the generator or the detector; in a `with` block, it is killed at the end if it still runs."""
        return Service(name, self.environ(name, **more))

    def restarted(self, name: str, **more: str) -> Restarted:
        """Start the generator or the detector, and start it again when it ends, as Compose would."""
        return Restarted(lambda: self.service(name, **more))

    # --- its records ---

    def write(self, written: Iterable[Record], **config: Any) -> None:
        """Write records to the transactions topic, and wait until all are acknowledged. Raises KafkaError."""
        records.write(self.broker_url, self.transactions, written, **self.access, **config)

    def read(self, topic: str) -> list[Record]:
        """Return all committed records of a topic, by partition and offset; none if the topic is not there.

        Raises TimeoutError if a transaction stays open.
        """
        return records.read(self.broker_url, topic, access=self.access)

    def count(self, *topics: str) -> int:
        """Return how many offsets the topics have up to their last stable offsets, transaction markers included."""
        with self._consumer(isolation_level="read_committed") as consumer:
            return sum(consumer.end_offsets(records.partitions_of(consumer, *topics)).values())

    def lag(self) -> int:
        """Return how many offsets of the transactions topic the group has not committed yet."""
        with self._consumer(group_id=self.name, enable_auto_commit=False) as consumer:
            # A broker that has just started may not know its topics yet.
            wait_until(lambda: bool(consumer.partitions_for_topic(self.transactions)), 120)
            return records.lag(consumer, self.transactions)

    def drain(self, seconds: float = 120) -> None:
        """Wait until the detector has committed everything that was written. Raises TimeoutError."""
        with self.admin() as admin:
            wait_until(lambda: self.transactions in admin.list_topics(), seconds)
        with self._consumer(group_id=self.name, enable_auto_commit=False) as consumer:
            wait_until(
                lambda: (
                    bool(consumer.partitions_for_topic(self.transactions))
                    and records.lag(consumer, self.transactions) == 0
                ),
                seconds,
                lambda: f"lag is {records.lag(consumer, self.transactions)}",
            )

    @contextmanager
    def _consumer(self, **config: Any) -> Iterator[KafkaConsumer]:
        with closing(KafkaConsumer(bootstrap_servers=self.broker_url, **self.access, **config)) as consumer:
            yield consumer
