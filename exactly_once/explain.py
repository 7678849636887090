"""What is wrong when Kafka fails, and what to do about it."""

import re
import traceback

from kafka import KafkaAdminClient
from kafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError

from exactly_once.job import Job
from exactly_once.kafka_python import advertised_addresses
from exactly_once.member import Member
from exactly_once.topics import check_permissions, topics_of
from service.connecting import refusal, unreachable

INTERNAL_TOPICS = {
    "__transaction_state": "transaction.state.log.replication.factor",
    "__consumer_offsets": "offsets.topic.replication.factor",
}
"""Kafka creates them on demand once it has as many brokers as these broker settings say."""

WORTH_ASKING = re.compile(
    "IllegalSaslState|KafkaConnection|KafkaTimeout|NodeNotReady|SaslAuthentication|TopicAuthorization|UnknownTopic"
)
"""Errors that do not name their cause."""


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
    if isinstance(error, OSError) or WORTH_ASKING.search(text):
        return f"{text}. {_diagnose(member, job)}"
    return text


def _diagnose(member: Member, job: Job) -> str:
    cluster = member.cluster
    bootstrap = cluster.addresses
    try:
        admin = KafkaAdminClient(
            bootstrap_servers=bootstrap, bootstrap_timeout_ms=3000, request_timeout_ms=3000, **cluster.access
        )
    except KafkaError:
        does_not_answer = f"Kafka at {cluster.broker_url} (KAFKA_BROKER_URL) does not answer"
        return refusal(bootstrap, cluster.access) or does_not_answer
    addresses = advertised_addresses(admin)
    if reason := unreachable(addresses) or refusal(addresses, cluster.access):
        return reason
    try:
        check_permissions(admin, job.inputs, job.outputs)
        existing = admin.list_topics()
    except (KafkaConnectionError, KafkaTimeoutError):
        known = ", ".join(addresses)
        return f"Kafka sends its clients to {known} and does not answer there: check advertised.listeners of the broker"
    except KafkaError as error:
        return explain(error, member, job)
    for topic in topics_of(job):
        if topic not in existing:
            return f"The topic {topic} does not exist: a restart creates it"
    for topic, setting in INTERNAL_TOPICS.items():
        if topic not in existing:
            return f"Kafka has not created {topic}: is {setting} above the number of brokers ({len(addresses)})?"
    return "Is a broker down, has a topic too few replicas in sync, or is a transaction undecided (docs/operations.md)?"
