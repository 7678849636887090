"""The topics that a job reads and writes: created if they are missing, checked if they exist."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from kafka import IsolationLevel, KafkaAdminClient, OffsetSpec, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import (
    InvalidConfigurationError,
    InvalidPartitionsError,
    KafkaError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    for_code,
)

from exactly_once.job import Input, Job, Output, Target
from service.log import log
from service.settings import ConfigurationError

T = TypeVar("T")
Configs = Mapping[str, Mapping[str, str]]

MAX_MESSAGE_BYTES = 8 * 1024 * 1024
"""The largest record batch that an output topic we create accepts. More than Kafka's 1 MB: what came in compressed goes
out uncompressed, and a dead letter has headers on top. A portion of the input fits in."""

MIN_MESSAGE_BYTES = 16 * 1024

UNLIMITED = 2**63 - 1
ANY_AGE = ("message.timestamp.before.max.ms", "message.timestamp.difference.max.ms")
ANY_TIME = ("message.timestamp.before.max.ms", "message.timestamp.after.max.ms")
AFTER = "message.timestamp.after.max.ms"
"""How far a record's time may be from the broker's. A record gets older while it waits in the input, so that its age
has to be free; how far ahead it is has not to be freer than in the input."""

OUTPUT_CONFIGS = {"max.message.bytes": str(MAX_MESSAGE_BYTES), **dict.fromkeys(ANY_TIME, str(UNLIMITED))}
"""Those of a topic that we create."""

INPUT_PERMISSIONS, OUTPUT_PERMISSIONS = ("DESCRIBE", "READ"), ("DESCRIBE", "DESCRIBE_CONFIGS", "WRITE")

ANSWER_SECONDS = 10
"""How long every broker may take to learn of a new topic, or a newly started broker to learn of all topics."""


def prepare_topics(admin: KafkaAdminClient, inputs: Sequence[Input], outputs: Sequence[Output]) -> dict[str, Target]:
    """Create the topics that do not exist yet, and return what is known of each output.

    An output that is created gets as many partitions as the first input; one that keeps partitions gets more when it
    has fewer. Raises ConfigurationError if that is not allowed, or if one does not take what the input takes;
    KafkaError if a permission is missing, or a broker does not know a topic in time.
    """
    source, names = inputs[0].topic, [output.topic for output in outputs]
    create_missing(admin, [input.topic for input in inputs if input.is_created], {})
    partitions = describe(admin, [source], INPUT_PERMISSIONS)[source]
    for output in outputs:
        configs = {**OUTPUT_CONFIGS, **output.configs}
        create_missing(admin, [output.topic], {"num_partitions": partitions, "configs": configs})
    counts = describe(admin, names, OUTPUT_PERMISSIONS)
    for output in outputs:
        if output.keeps_partition and counts[output.topic] < partitions:
            raise_partitions(admin, output.topic, counts[output.topic], source, partitions)
    found = find_configs(admin, names)
    check_limits(admin, source, found, {output.topic: output.configs for output in outputs})
    return {
        name: Target(
            counts[name],
            int(configs["max.message.bytes"]),
            -UNLIMITED - 1 if configs["compression.type"] in ("producer", "uncompressed") else -1,
        )
        for name, configs in found.items()
    }


def topics_of(job: Job) -> list[str]:
    """Return the names of the topic that a job reads first, and of those that it writes."""
    return [job.inputs[0].topic, *(output.topic for output in job.outputs)]


def raise_partitions(admin: KafkaAdminClient, topic: str, count: int, source: str, partitions: int) -> None:
    """Give the topic as many partitions as its source has. Raises ConfigurationError if Kafka refuses."""
    (answer,) = admin.create_partitions({topic: partitions}, raise_errors=False).results
    # If it has them already, another instance was faster, and the broker that is asked may not know of it yet.
    is_late = answer.error_code == InvalidPartitionsError.errno
    until = time.monotonic() + (ANSWER_SECONDS if is_late else 0)
    while answer.error_code and describe(admin, [topic], ())[topic] < partitions:
        if time.monotonic() > until:
            raise ConfigurationError(
                f"{topic} has {count} partitions, fewer than the {partitions} of {source}:"
                f" kafka-topics --alter --topic {topic} --partitions {partitions}"
            )
        time.sleep(0.1)
    log.info("%s has got %d partitions, as many as %s", topic, partitions, source)


def check_permissions(admin: KafkaAdminClient, inputs: Iterable[Input], outputs: Iterable[Output]) -> None:
    """Raise KafkaError, which names the permission, if one on a topic is missing."""
    _ask(admin, [input.topic for input in inputs], INPUT_PERMISSIONS)
    _ask(admin, [output.topic for output in outputs], OUTPUT_PERMISSIONS)


def create_missing(admin: KafkaAdminClient, topics: Iterable[str], options: dict[str, Any]) -> None:
    """Create those of the topics that do not exist. Raises KafkaError if Kafka refuses."""
    for topic in set(topics) - set(admin.list_topics()):
        (answer,) = admin.create_topics({topic: options}, raise_errors=False)["topics"]
        if answer["error_code"] == InvalidConfigurationError.errno:  # a broker before 3.6 does not know all of them
            configs = {name: value for name, value in options["configs"].items() if name not in ANY_TIME}
            (answer,) = admin.create_topics({topic: {**options, "configs": configs}}, raise_errors=False)["topics"]
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


def find_configs(admin: KafkaAdminClient, topics: list[str]) -> dict[str, dict[str, str]]:
    """Return the configuration of each topic. Raises KafkaError."""
    resources = [ConfigResource(ConfigResourceType.TOPIC, topic) for topic in topics]

    def ask() -> dict[str, dict[str, str]]:
        found = admin.describe_configs(resources, config_filter="all").get("topic", {})
        return {topic: {name: config["value"] for name, config in configs.items()} for topic, configs in found.items()}

    return _answer(topics, ask)


def check_limits(admin: KafkaAdminClient, source: str, outputs: Configs, wanted: Configs) -> None:
    """Raise ConfigurationError if a topic with this configuration does not take, and keep, what the source takes."""
    ahead = UNLIMITED
    if any(int(configs.get(AFTER, UNLIMITED)) < UNLIMITED for configs in outputs.values()):
        with suppress(KafkaError):  # there may be no permission to ask for it
            own = find_configs(admin, [source])[source]
            ahead = 0 if own["message.timestamp.type"] == "LogAppendTime" else int(own[AFTER])
    for topic, configs in outputs.items():
        wrong: dict[str, int | str] = {}
        if int(configs["max.message.bytes"]) < MIN_MESSAGE_BYTES:
            wrong["max.message.bytes"] = MAX_MESSAGE_BYTES
        if configs["message.timestamp.type"] == "CreateTime":
            wrong |= {name: UNLIMITED for name in ANY_AGE if int(configs.get(name, UNLIMITED)) < UNLIMITED}
            if int(configs.get(AFTER, UNLIMITED)) < ahead:
                wrong[AFTER] = ahead
        if "compact" in configs["cleanup.policy"]:  # it would take no record without a key, and one for each key
            wrong["cleanup.policy"] = "delete"
        for name in ("retention.ms", "retention.bytes"):  # -1 is no limit
            least, kept = int(wanted[topic].get(name, 0)), int(configs[name])
            if kept != -1 and not 0 <= least <= kept:
                wrong[name] = least
        if wrong:
            has = ", ".join(f"{name}={configs[name]}" for name in wrong)
            better = ",".join(f"{name}={value}" for name, value in wrong.items())
            raise ConfigurationError(
                f"{topic} does not {'keep' if 'retention' in has else 'take'} all that {source} takes ({has}):"
                f" kafka-configs --alter --topic {topic} --add-config {better}"
            )


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


def _answer(topics: list[str], ask: Callable[[], dict[str, T]]) -> dict[str, T]:
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
