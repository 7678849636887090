"""Who a process is to Kafka; and, when Kafka fails, what is wrong and what to do about it."""

import re
import socket
import traceback
from dataclasses import dataclass
from typing import Self

from kafka import KafkaAdminClient
from kafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError, RequestTimedOutError

from exactly_once.job import Job
from exactly_once.kafka_python import advertised_addresses
from exactly_once.topics import INPUT_PERMISSIONS, OUTPUT_PERMISSIONS, NotYet, describe
from service.connecting import unreachable
from service.refusal import refusal
from service.settings import Cluster, Environment

INTERNAL_TOPICS = {
    "__transaction_state": "transaction.state.log.replication.factor",
    "__consumer_offsets": "offsets.topic.replication.factor",
}
"""Kafka creates them on demand once it has as many brokers as these broker settings say."""

WORTH_ASKING = re.compile(
    "IllegalSaslState|KafkaConnection|KafkaTimeout|NodeNotReady|RequestTimedOut|SaslAuthentication|TopicAuthorization"
    "|UnknownBrokerId|UnknownTopic"
)
"""Errors that do not name their cause."""


@dataclass(frozen=True)
class Member:
    """The settings that every job has."""

    cluster: Cluster
    group: str
    """Instances of a group share the partitions."""
    transactional_id: str
    """Unique per instance, stable across restarts, so that Kafka aborts what this instance left open."""
    heartbeat_file: str
    """Touched every few seconds for the container's health check; empty for none."""
    metrics_port: int
    """The port that Prometheus scrapes; 0 for no metrics."""

    @classmethod
    def from_env(cls, environment: Environment, group: str) -> Self:
        """Read the variables that every job has. Raises ConfigurationError."""
        group = environment.name("CONSUMER_GROUP", group)
        return cls(
            environment.cluster(),
            group,
            environment.name("TRANSACTIONAL_ID", f"{group}-{socket.gethostname()}"),
            environment.heartbeat_file(),
            environment.metrics_port(),
        )


def explain(error: Exception, member: Member, job: Job) -> str:
    """Return one line that names the cause and, if known, the remedy. Asks Kafka, for a few seconds at most."""
    if not isinstance(error, KafkaError | OSError):
        # Without the error's own text, which may quote a record.
        calls = [f"{call.name} ({call.filename}:{call.lineno})" for call in traceback.extract_tb(error.__traceback__)]
        return f"an unexpected {type(error).__name__} in {' > '.join(calls[-3:])}"
    text = " ".join(str(error).split())
    if type(error) is KafkaError:  # ours: the text says it all
        text = text.partition(": ")[2]
    # The client wraps what the broker says in errors of other types.
    if "ProducerFencedError" in text or "InvalidProducerEpochError" in text:
        return (
            f"another instance has the same TRANSACTIONAL_ID ({member.transactional_id}) and has taken over, or this"
            " one was stopped within a transaction for too long. Give each instance a TRANSACTIONAL_ID of its own"
        )
    if "GroupAuthorizationFailedError" in text:
        return f"no permission for READ on the group {member.group}: allow it to the user"
    if "TransactionalIdAuthorizationFailedError" in text:
        return f"no permission for WRITE on the transactional id {member.transactional_id}: allow it to the user"
    if "InvalidProducerIdMappingError" in text:
        return f"{text}. Kafka forgets a TRANSACTIONAL_ID that is not used (transactional.id.expiration.ms)"
    if isinstance(error, OSError) or WORTH_ASKING.search(text):
        return f"{text}. {_diagnose(member, job)}"
    return text


def _diagnose(member: Member, job: Job) -> str:
    cluster, access = member.cluster, member.cluster.access
    try:
        admin = KafkaAdminClient(**cluster.config, bootstrap_timeout_ms=3000, request_timeout_ms=3000)
    except KafkaError:
        does_not_answer = f"Kafka at {cluster.broker_url} (KAFKA_BROKER_URL) does not answer"
        return refusal(cluster.addresses, access) or does_not_answer
    addresses = advertised_addresses(admin)
    if reason := unreachable(addresses) or refusal(addresses, access):
        return reason
    try:
        describe(admin, [input.topic for input in job.inputs], INPUT_PERMISSIONS)
        describe(admin, [output.topic for output in job.outputs], OUTPUT_PERMISSIONS)
        existing = admin.list_topics()
    except NotYet as missing:
        return f"The topic {missing} does not exist: a restart creates it"
    except (KafkaConnectionError, KafkaTimeoutError, RequestTimedOutError):
        known = ", ".join(addresses)
        return f"Kafka sends its clients to {known} and does not answer there: check advertised.listeners of the broker"
    except KafkaError as error:
        return explain(error, member, job)
    for topic, setting in INTERNAL_TOPICS.items():
        if topic not in existing:
            return f"Kafka has not created {topic}: is {setting} above the number of brokers ({len(addresses)})?"
    return "Is a broker down, has a topic too few replicas in sync, or is a transaction undecided (docs/operations.md)?"
