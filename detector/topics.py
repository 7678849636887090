"""The topics that the detector reads and writes: created if they are missing, checked if they exist."""

import time
from collections.abc import Callable, Iterable

from kafka import IsolationLevel, KafkaAdminClient, OffsetSpec, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError, TopicAlreadyExistsError, TopicAuthorizationFailedError, for_code

from branching import Output
from settings import ConfigurationError, Settings

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""The largest record batch that an output topic we create accepts. More than Kafka's 1 MB: what came in compressed goes
out uncompressed, and a dead letter has headers on top."""

MIN_MESSAGE_BYTES = 16 * 1024

INPUT_PERMISSIONS, OUTPUT_PERMISSIONS = ("DESCRIBE", "READ"), ("DESCRIBE", "DESCRIBE_CONFIGS", "WRITE")

ANSWER_SECONDS = 10
"""How long every broker may take to learn of a new topic, or a newly started broker to learn of all topics."""


def prepare_topics(admin: KafkaAdminClient, settings: Settings) -> dict[str, Output]:
    """Create the topics that do not exist yet, and return the output of each route.

    A record keeps its partition, so an output topic has as many partitions as the input. Raises ConfigurationError if
    an existing one has fewer, or a low size limit; KafkaError if a permission is missing, or a broker does not know a
    topic in time.
    """
    source, outputs = settings.transactions_topic, list(settings.outputs.values())
    create_missing(admin, [source], {})
    partitions = describe(admin, [source], INPUT_PERMISSIONS)[source]
    configs = {"max.message.bytes": str(MAX_MESSAGE_BYTES)}
    create_missing(admin, outputs, {"num_partitions": partitions, "configs": configs})
    for topic, count in describe(admin, outputs, OUTPUT_PERMISSIONS).items():
        if count < partitions:
            raise ConfigurationError(
                f"{topic} has {count} partitions, fewer than the {partitions} of {source}:"
                f" kafka-topics --alter --topic {topic} --partitions {partitions}"
            )
    max_message_bytes = find_limits(admin, outputs)
    return {route: Output(topic, max_message_bytes[topic]) for route, topic in settings.outputs.items()}


def check_permissions(admin: KafkaAdminClient, settings: Settings) -> None:
    """Raise KafkaError, which names the permission, if one on a topic is missing."""
    _ask(admin, [settings.transactions_topic], INPUT_PERMISSIONS)
    _ask(admin, list(settings.outputs.values()), OUTPUT_PERMISSIONS)


def create_missing(admin: KafkaAdminClient, topics: Iterable[str], options: dict[str, object]) -> None:
    """Create those of the topics that do not exist. Raises KafkaError if Kafka refuses."""
    for topic in set(topics) - set(admin.list_topics()):
        (answer,) = admin.create_topics({topic: options}, raise_errors=False)["topics"]
        if answer["error_code"] == TopicAuthorizationFailedError.errno:
            raise KafkaError(f"the topic {topic} does not exist, and there is no permission for CREATE on it")
        # If it exists now, another instance or the generator was faster; or it is hidden, because DESCRIBE is missing.
        if answer["error_code"] not in (0, TopicAlreadyExistsError.errno):
            error = for_code(answer["error_code"])(answer["error_message"])
            raise KafkaError(f"the topic {topic} does not exist, and Kafka does not create it: {error}")


def describe(admin: KafkaAdminClient, topics: list[str], permissions: Iterable[str]) -> dict[str, int]:
    """Return how many partitions each topic has. Raises KafkaError if a permission is missing."""
    return _answer(topics, lambda: _ask(admin, topics, permissions))


def _ask(admin: KafkaAdminClient, topics: list[str], permissions: Iterable[str]) -> dict[str, int]:
    described = admin.describe_topics(topics)
    for topic in described:
        is_hidden = topic["error_code"] == TopicAuthorizationFailedError.errno
        allowed = [] if is_hidden else topic["authorized_operations"]  # None: the broker does not say
        for permission in permissions if allowed is not None and (is_hidden or topic["partitions"]) else ():
            if permission not in allowed:
                raise KafkaError(f"no permission for {permission} on the topic {topic['name']}: allow it to the user")
    return {topic["name"]: len(topic["partitions"]) for topic in described}


def find_limits(admin: KafkaAdminClient, topics: list[str]) -> dict[str, int]:
    """Return the largest batch that each topic accepts. Raises ConfigurationError if that is too small."""
    resources = [ConfigResource(ConfigResourceType.TOPIC, topic, ["max.message.bytes"]) for topic in topics]

    def ask() -> dict[str, int]:
        configs = admin.describe_configs(resources, config_filter="all").get("topic", {})
        return {topic: int(config["max.message.bytes"]["value"]) for topic, config in configs.items() if config}

    limits = _answer(topics, ask)
    for topic, limit in limits.items():
        if limit < MIN_MESSAGE_BYTES:
            raise ConfigurationError(
                f"{topic} takes {limit} bytes: kafka-configs --alter --topic {topic}"
                f" --add-config max.message.bytes={MAX_MESSAGE_BYTES}, or at least {MIN_MESSAGE_BYTES}"
            )
    return limits


def open_partitions(admin: KafkaAdminClient, topics: Iterable[str]) -> list[TopicPartition]:
    """Return the partitions of topics in which a transaction is open. Raises KafkaError."""
    partitions = [
        TopicPartition(topic["name"], partition["partition_index"])
        for topic in admin.describe_topics(list(topics))
        for partition in topic["partitions"]
    ]
    latest = dict.fromkeys(partitions, OffsetSpec.LATEST)
    ends = admin.list_partition_offsets(latest)
    stable = admin.list_partition_offsets(latest, IsolationLevel.READ_COMMITTED)
    return [partition for partition in partitions if stable[partition].offset < ends[partition].offset]


def _answer(topics: list[str], ask: Callable[[], dict[str, int]]) -> dict[str, int]:
    # Asks until every topic has an answer. Any broker may reply, and one that does not know a topic yet omits it.
    until = time.monotonic() + ANSWER_SECONDS
    while True:
        answers = ask()
        unknown = [topic for topic in topics if not answers.get(topic)]
        if not unknown:
            return answers
        if time.monotonic() > until:
            raise KafkaError(f"Kafka does not know {', '.join(unknown)} yet")
        time.sleep(0.1)
