"""What brokers answer: which errors are in it, and what they say of the records."""

from typing import Any

from kafka.errors import (
    DuplicateSequenceNumberError,
    InvalidTimestampError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    OperationNotAttemptedError,
    RecordListTooLargeError,
    TransactionalIdNotFoundError,
    for_code,
)
from kafka.protocol.admin import DescribeTransactionsResponse
from kafka.protocol.producer import AddPartitionsToTxnResponse, TxnOffsetCommitResponse

from exactly_once.job import Outgoing

REFUSED_BY: dict[type[KafkaError], str] = {
    InvalidTimestampError: "message.timestamp.before.max.ms and message.timestamp.after.max.ms",
    MessageSizeTooLargeError: "max.message.bytes",
    RecordListTooLargeError: "segment.bytes",
}
"""The setting of a topic by which its broker refuses a record with this error."""


def error_codes(answer: Any) -> set[int]:
    """Return what a coordinator finds wrong, with the request or with one of its partitions."""
    codes = {answer.error_code} if hasattr(answer, "error_code") else set()
    if isinstance(answer, AddPartitionsToTxnResponse):
        codes = {p.partition_error_code for t in answer.results_by_topic_v3_and_below for p in t.results_by_partition}
    elif isinstance(answer, TxnOffsetCommitResponse):
        codes = {p.error_code for t in answer.topics for p in t.partitions}
    elif isinstance(answer, DescribeTransactionsResponse):
        codes = {state.error_code for state in answer.transaction_states}
    # The second because of another partition; the third is a transactional id that has never been used.
    return codes - {0, OperationNotAttemptedError.errno, TransactionalIdNotFoundError.errno}


def error_of(answer: Any, sent: Outgoing) -> KafkaError | None:
    """Return why a batch has to be sent again, if so. Raises KafkaError, which names the record, if it is refused."""
    if answer is None:
        return KafkaTimeoutError("no answer")
    kind = for_code(answer.error_code)
    if not answer.error_code or kind is DuplicateSequenceNumberError:
        return None
    # Kafka names the records that it does not take; all others have failed because of them.
    reasons = {found.batch_index: found.batch_index_error_message for found in answer.record_errors}
    index = min(reasons.keys() & range(len(sent.batch.offsets)), default=0)
    error: KafkaError = kind(*filter(None, [reasons.get(index) or answer.error_message]))
    if not error.retriable:
        raise refusal(sent, error, index)
    return error


def refusal(sent: Outgoing, error: KafkaError, index: int = 0) -> KafkaError:
    """Return an error that says which record of a batch is not taken, and why."""
    (topic, partition), batch, source = sent
    setting = REFUSED_BY.get(type(error), "")
    return KafkaError(
        f"{topic}[{partition}] does not take the record at offset {batch.offsets[index]} of"
        f" {source.topic}[{source.partition}]: {error!r}{setting and f', see {setting} of {topic}'}"
    )
