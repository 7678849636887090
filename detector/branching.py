"""Branching: which record goes where, and which headers a dead letter gets."""

import time
from collections.abc import Mapping
from typing import NamedTuple

from kafka import TopicPartition

from batches import OutputBatch, Record, add_headers, batch_bytes, decode, encode, usual_record
from portion import Portion, Transaction
from rule import DEAD_LETTER, FRAUD, FRAUD_AMOUNT, LEGIT, USUAL_FORM, decide
from unpacking import Chunk
from varints import NUMBER, VARINT, BatchError, Bytes

USUAL_RECORD = usual_record(USUAL_FORM)


class Output(NamedTuple):
    """The topic of a route."""

    topic: str
    max_message_bytes: int
    """The largest batch that the topic accepts."""


class RecordTooLarge(BatchError):
    """A record is larger than its output topic accepts."""

    def __init__(self, offset: int, message: str) -> None:
        super().__init__(message)
        self.offset = offset


def branch(portion: Portion, outputs: Mapping[str, Output]) -> Transaction:
    """Return the transaction that follows from a portion: each record goes to its topic, and stays in its partition.

    Ends before a record that is too large, with an error. Raises BatchError.
    """
    transaction = Transaction(portion.next_offsets, portion.group)
    for source, chunks in portion.chunks.items():
        batches: dict[str, list[OutputBatch]] = {route: [] for route in outputs}
        try:
            for chunk in chunks:
                branch_chunk(chunk, source, outputs, batches, transaction.reasons)
                chunk.records.clear()  # may be large; the batches hold copies
                time.sleep(0)  # lets the other threads take what Kafka has answered
        except RecordTooLarge as error:
            transaction.next_offsets[source] = error.offset
            transaction.error = error
        for route, written in batches.items():
            target = TopicPartition(outputs[route].topic, source.partition)
            transaction.batches += ((target, batch) for batch in written)
            transaction.counts[route] += sum(batch.record_count for batch in written)
    return transaction


Found = Mapping[str, list[tuple[int, Bytes]]]
"""Per route, records of a chunk as (timestamp, content)."""


def branch_chunk(
    chunk: Chunk,
    source: TopicPartition,
    outputs: Mapping[str, Output],
    batches: Mapping[str, list[OutputBatch]],
    reasons: list[str],
) -> None:
    """Append the records of a chunk to the batches of their routes, and the reasons of dead letters.

    Raises BatchError, and RecordTooLarge after appending the records before that one.
    """
    found: Found = {route: [] for route in outputs}
    try:
        if not _find_usual(chunk, found):
            _find(chunk, source, outputs, found, reasons)
    finally:
        # In any case: what precedes a record that is too large goes on. And not once for all chunks: these records are
        # still in the CPU's cache, which saves a seventh of the time.
        for route, records in found.items():
            encode(records, outputs[route].max_message_bytes, batches[route])


def _find_usual(chunk: Chunk, found: Found) -> bool:
    # Returns whether all records have the usual form; if not, finds nothing. A value may imitate records, so matches
    # count only if lengths, total size and number fit the chunk. Up to 2**62, adding a delta cannot overflow 64 bits.
    if chunk.append_time is not None or chunk.position > chunk.base_offset or abs(chunk.base_timestamp) > 2**62:
        return False
    legit: list[tuple[int, Bytes]] = []
    fraud: list[tuple[int, Bytes]] = []
    matched_bytes = 0
    for length, counted, timestamp_delta, content, value_length, amount in USUAL_RECORD.findall(chunk.records):
        if length != VARINT[len(counted)] or value_length != VARINT[len(content) - len(value_length) - 2]:
            return False
        matched_bytes += len(length) + len(counted)
        record = (chunk.base_timestamp + NUMBER[timestamp_delta], content)
        (fraud if float(amount) >= FRAUD_AMOUNT else legit).append(record)
    if matched_bytes != len(chunk.records) or len(legit) + len(fraud) != chunk.record_count:
        return False
    found[LEGIT].extend(legit)
    found[FRAUD].extend(fraud)
    return True


def _find(
    chunk: Chunk, source: TopicPartition, outputs: Mapping[str, Output], found: Found, reasons: list[str]
) -> None:
    for record in decode(chunk):
        route, reason = decide(record.value)
        topic, max_bytes = outputs[route]
        content: Bytes = record.content
        if route == DEAD_LETTER:
            content = _with_errors(record, reason, source, max_bytes)
            reasons.append(reason)
        if (size := batch_bytes(content)) > max_bytes:
            raise RecordTooLarge(
                record.offset,
                f"{source.topic}[{source.partition}]: the record at offset {record.offset} has {size:,} bytes, more"
                f" than {topic} takes: kafka-configs --bootstrap-server ... --alter --topic {topic}"
                f" --add-config max.message.bytes={size}",
            )
        found[route].append((record.timestamp, content))


def _with_errors(record: Record, reason: str, source: TopicPartition, max_bytes: int) -> Bytes:
    # Adds the headers that say where a dead letter comes from and why it is one, named as in KIP-1034. Drops the
    # longest until the record fits: otherwise one that the input topic accepted might not get through.
    errors = {
        "exception": "InvalidTransaction",
        "message": reason,
        "topic": source.topic,
        "partition": str(source.partition),
        "offset": str(record.offset),
    }
    headers = [(f"__streams.errors.{name}".encode(), value.encode()) for name, value in errors.items()]
    while batch_bytes(content := add_headers(record, headers)) > max_bytes and headers:
        headers.remove(max(headers, key=lambda header: len(header[1])))
    return content
