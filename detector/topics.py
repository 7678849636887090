"""The topics that the detector writes to: created where they are missing, checked where they are there."""

import time
from collections.abc import Callable
from typing import Any

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError, TopicAlreadyExistsError

from settings import ConfigurationError, Settings

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""The largest record batch that a topic of ours takes. More than Kafka's 1 MB: what came in compressed goes out as it
is, and a dead letter has headers on top."""

ANSWER_SECONDS = 10
"""How long it may take until every broker knows a new topic, or until one that has just started knows all of them."""


def prepare_topics(admin: KafkaAdminClient, settings: Settings) -> dict[str, int]:
    """Create the topics that do not exist yet, and return the largest message of each output topic, in bytes.

    A record keeps its partition, so an output topic has as many partitions as the input. Raises ConfigurationError
    where one that exists has fewer, KafkaError where a broker does not know one in time.
    """
    source, outputs = settings.transactions_topic, list(settings.routes.values())
    _create_missing(admin, {source: {}})
    partitions = _partitions(admin, [source])[source]
    options = {"num_partitions": partitions, "configs": {"max.message.bytes": str(MAX_MESSAGE_BYTES)}}
    _create_missing(admin, dict.fromkeys(outputs, options))
    for topic, count in _partitions(admin, outputs).items():
        if count < partitions:
            raise ConfigurationError(
                f"{topic} has {count} partitions, fewer than the {partitions} of {source}:"
                f" kafka-topics --alter --topic {topic} --partitions {partitions}"
            )
    resources = [ConfigResource(ConfigResourceType.TOPIC, topic, ["max.message.bytes"]) for topic in outputs]
    configs = _ask(outputs, lambda: admin.describe_configs(resources, config_filter="all").get("topic", {}))
    return {topic: int(configs[topic]["max.message.bytes"]["value"]) for topic in outputs}


def _create_missing(admin: KafkaAdminClient, topics: dict[str, dict[str, object]]) -> None:
    existing = set(admin.list_topics())
    for topic, options in topics.items():
        if topic not in existing:
            try:
                admin.create_topics({topic: options})
            except TopicAlreadyExistsError:  # another instance, or the generator, was faster
                pass


def _partitions(admin: KafkaAdminClient, topics: list[str]) -> dict[str, int]:
    return _ask(topics, lambda: {topic["name"]: len(topic["partitions"]) for topic in admin.describe_topics(topics)})


def _ask(topics: list[str], question: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the answer once there is something in it for each topic, for any broker may be asked.

    One that does not know a topic yet answers with nothing: no partitions, no configuration. Raises KafkaError.
    """
    until = time.monotonic() + ANSWER_SECONDS
    answer = question()
    while not all(answer.get(topic) for topic in topics):
        if time.monotonic() > until:
            raise KafkaError(f"Kafka does not know all of the topics {', '.join(topics)} yet")
        time.sleep(0.1)
        answer = question()
    return answer
