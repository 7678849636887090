"""What is wrong when Kafka fails, and what to do about it."""

import socket
import traceback

from kafka import KafkaAdminClient
from kafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError

from client import advertised_addresses
from refusal import refusal
from settings import Settings
from topics import check_permissions

INTERNAL_TOPICS = {
    "__transaction_state": "transaction.state.log.replication.factor",
    "__consumer_offsets": "offsets.topic.replication.factor",
}
"""Kafka creates them on demand once it has as many brokers as these broker settings say."""

WORTH_ASKING = (
    "IllegalSaslStateError",
    "KafkaConnectionError",
    "KafkaTimeoutError",
    "NodeNotReadyError",
    "SaslAuthenticationFailedError",
    "TopicAuthorizationFailedError",
    "UnknownTopicOrPartitionError",
)
"""Errors that do not name their cause."""


def explain(error: Exception, settings: Settings) -> str:
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
            f"another instance has the same TRANSACTIONAL_ID ({settings.transactional_id}) and has taken over, or this"
            " one was stopped within a transaction for too long. Give each instance a TRANSACTIONAL_ID of its own"
        )
    if "GroupAuthorizationFailedError" in text:
        return f"no permission for READ on the group {settings.consumer_group}: allow it to the user"
    if "TransactionalIdAuthorizationFailedError" in text:
        return f"no permission for WRITE on the transactional id {settings.transactional_id}: allow it to the user"
    if isinstance(error, OSError) or any(name in text for name in WORTH_ASKING):
        return f"{text}. {_diagnose(settings)}"
    return text


def _diagnose(settings: Settings) -> str:
    bootstrap = settings.broker_url.split(",")
    try:
        admin = KafkaAdminClient(
            bootstrap_servers=bootstrap, bootstrap_timeout_ms=3000, request_timeout_ms=3000, **settings.security
        )
    except KafkaError:
        does_not_answer = f"Kafka at {settings.broker_url} (KAFKA_BROKER_URL) does not answer"
        return refusal(bootstrap, settings.security) or does_not_answer
    addresses = advertised_addresses(admin)
    for host, port in addresses:
        try:
            socket.create_connection((host, port), timeout=1).close()
        except OSError as error:
            return (
                f"Kafka sends its clients to {host}:{port}, which cannot be reached ({error}):"
                " check advertised.listeners of the broker"
            )
    if reason := refusal([f"{host}:{port}" for host, port in addresses], settings.security):
        return reason
    try:
        check_permissions(admin, settings)
        existing = admin.list_topics()
    except (KafkaConnectionError, KafkaTimeoutError):
        known = ", ".join(f"{host}:{port}" for host, port in addresses)
        return f"Kafka sends its clients to {known} and does not answer there: check advertised.listeners of the broker"
    except KafkaError as error:
        return explain(error, settings)
    for topic in (settings.transactions_topic, *settings.outputs.values()):
        if topic not in existing:
            return f"The topic {topic} does not exist: a restart creates it"
    for topic, setting in INTERNAL_TOPICS.items():
        if topic not in existing:
            return f"Kafka has not created {topic}: is {setting} above the number of brokers ({len(addresses)})?"
    return "Is a broker down, has a topic too few replicas in sync, or is a transaction undecided (docs/operations.md)?"
