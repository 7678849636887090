"""The topics that a job reads and writes: created if they are missing, checked if they exist."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

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

from exactly_once.job import Input, Output, Target
from service.log import log
from service.settings import ConfigurationError

Configs = Mapping[str, str]

MAX_MESSAGE_BYTES = 8 * 1024 * 1024
"""The largest record batch that an output topic we create accepts. More than Kafka's 1 MB: what came in compressed goes
out uncompressed, and a dead letter has headers on top. A portion of the input fits in."""

MIN_MESSAGE_BYTES = 16 * 1024

UNLIMITED = 2**63 - 1
AFTER = "message.timestamp.after.max.ms"
ANY_AGE = ("message.timestamp.before.max.ms", "message.timestamp.difference.max.ms")
ANY_TIME = ("message.timestamp.before.max.ms", AFTER)
"""How far a record's time may be from the broker's. A record gets older while it waits in the input, so that its age
has to be free; how far ahead it is has not to be freer than in the input."""

OUTPUT_CONFIGS = {"max.message.bytes": str(MAX_MESSAGE_BYTES), **dict.fromkeys(ANY_TIME, str(UNLIMITED))}
"""Those of a topic that we create."""

INPUT_PERMISSIONS, OUTPUT_PERMISSIONS = ("DESCRIBE", "READ"), ("DESCRIBE", "DESCRIBE_CONFIGS", "WRITE")

ANSWER_SECONDS = 10
"""How long every broker may take to learn of a new topic, or a newly started broker to learn of all topics."""


class NotYet(Exception):
    """The broker that was asked does not know this topic, or all of its partitions, yet. Any may be asked."""


def prepare_topics(admin: KafkaAdminClient, inputs: Sequence[Input], outputs: Sequence[Output]) -> dict[str, Target]:
    """Create the topics that do not exist yet, and return what is known of each output.

    An output that is created gets as many partitions as the first input; one that keeps partitions gets more when it
    has fewer. Raises ConfigurationError if that is not allowed, or if one does not take what the input takes;
    KafkaError if a permission is missing, or a broker does not know a topic in time.
    """
    until = time.monotonic() + ANSWER_SECONDS
    while True:
        try:
            return _prepare(admin, inputs, outputs)
        except NotYet as topic:
            if time.monotonic() > until:
                raise KafkaError(f"Kafka does not know {topic} yet") from None
        time.sleep(0.1)


def _prepare(admin: KafkaAdminClient, inputs: Sequence[Input], outputs: Sequence[Output]) -> dict[str, Target]:
    source, names = inputs[0].topic, [output.topic for output in outputs]
    create_missing(admin, {input.topic: {} for input in inputs if input.is_created})
    partitions = describe(admin, [source], INPUT_PERMISSIONS)[source]
    configs = {output.topic: {**OUTPUT_CONFIGS, **output.configs} for output in outputs}
    create_missing(admin, {name: {"num_partitions": partitions, "configs": configs[name]} for name in names})
    counts = describe(admin, names, OUTPUT_PERMISSIONS)
    for output in outputs:
        if output.keeps_partition and counts[output.topic] < partitions:
            raise_partitions(admin, output.topic, counts[output.topic], source, partitions)
            counts[output.topic] = partitions
    found, targets = find_configs(admin, [source, *names]), {}
    lacking = (shortcoming(source, found[source], output, found[output.topic]) for output in outputs)
    if problems := "; ".join(filter(None, lacking)):
        raise ConfigurationError(problems)
    for name in names:
        its = found[name]
        least = -UNLIMITED - 1 if its["compression.type"] in ("producer", "uncompressed") else -1
        targets[name] = Target(counts[name], int(its["max.message.bytes"]), least)
    return targets


def create_missing(admin: KafkaAdminClient, topics: Mapping[str, dict[str, Any]]) -> None:
    """Create those of the topics that do not exist, with these options. Raises KafkaError if Kafka refuses."""
    for topic in topics.keys() - set(admin.list_topics()):
        options = topics[topic]
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
    """Return how many partitions each topic has. Raises KafkaError if a permission on one is missing, and NotYet."""
    described = admin.describe_topics(topics)
    for topic in described:
        is_hidden = topic["error_code"] == TopicAuthorizationFailedError.errno
        allowed = [] if is_hidden else topic["authorized_operations"]  # None: the broker does not say
        for permission in permissions if allowed is not None and (is_hidden or topic["partitions"]) else ():
            if permission not in allowed:
                raise KafkaError(f"no permission for {permission} on the topic {topic['name']}: allow it to the user")
    counts = {topic["name"]: len(topic["partitions"]) for topic in described}
    for name in topics:
        if not counts.get(name):
            raise NotYet(name)
    return counts


def raise_partitions(admin: KafkaAdminClient, topic: str, count: int, source: str, partitions: int) -> None:
    """Give the topic as many partitions as its source has. Raises ConfigurationError if Kafka refuses, and NotYet."""
    (answer,) = admin.create_partitions({topic: partitions}, raise_errors=False).results
    if answer.error_code == InvalidPartitionsError.errno:  # it has them already: another instance was faster
        raise NotYet(topic)
    if answer.error_code:
        raise ConfigurationError(
            f"{topic} has {count} partitions, fewer than the {partitions} of {source}:"
            f" kafka-topics --alter --topic {topic} --partitions {partitions}"
        )
    log.info("%s has got %d partitions, as many as %s", topic, partitions, source)


def find_configs(admin: KafkaAdminClient, topics: list[str]) -> dict[str, dict[str, str]]:
    """Return the configuration of each topic; of the first nothing if there is no permission. Raises NotYet."""
    resources = [ConfigResource(ConfigResourceType.TOPIC, topic) for topic in topics]
    found = admin.describe_configs(resources, config_filter="all").get("topic", {})
    for topic in topics[1:]:
        if not found.get(topic):
            raise NotYet(topic)
    return {topic: {name: config["value"] for name, config in found.get(topic, {}).items()} for topic in topics}


def shortcoming(source: str, source_configs: Configs, output: Output, configs: Configs) -> str:
    """Return why an output with this configuration does not take, and keep, what the source takes; "" if it does."""
    wrong: dict[str, int | str] = {}
    if int(configs["max.message.bytes"]) < MIN_MESSAGE_BYTES:
        wrong["max.message.bytes"] = MAX_MESSAGE_BYTES
    if configs["message.timestamp.type"] == "CreateTime":
        has_own_time = source_configs.get("message.timestamp.type") == "LogAppendTime"
        ahead = 0 if has_own_time or output.is_origin else int(source_configs.get(AFTER, UNLIMITED))
        least = {**dict.fromkeys(ANY_AGE, UNLIMITED), AFTER: ahead}
        wrong |= {name: value for name, value in least.items() if int(configs.get(name, UNLIMITED)) < value}
    kind = "message.timestamp.type"
    if output.configs.get(kind, configs[kind]) != configs[kind]:
        wrong[kind] = output.configs[kind]
    if "compact" in configs["cleanup.policy"]:  # it would take no record without a key, and one for each key
        wrong["cleanup.policy"] = "delete"
    for name in ("retention.ms", "retention.bytes"):  # -1 is no limit
        needed, kept = int(output.configs.get(name, 0)), int(configs[name])
        if kept != -1 and not 0 <= needed <= kept:
            wrong[name] = needed
    if not wrong:
        return ""
    has = ", ".join(f"{name}={configs[name]}" for name in wrong)
    wanted = ",".join(f"{name}={value}" for name, value in wrong.items())
    return (
        f"{output.topic} does not {'keep' if 'retention' in has else 'take'} all that {source} takes"
        f"{'' if source_configs else ', whose limits are unknown without DESCRIBE_CONFIGS'} ({has}):"
        f" kafka-configs --alter --topic {output.topic} --add-config {wanted}"
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
