"""Branching: which record goes where, and which headers a dead letter gets."""

from collections.abc import Mapping
from typing import NamedTuple

from batches import Record, add_headers, batch_bytes, decode, usual_record
from rule import DEAD_LETTER, FRAUD, FRAUD_AMOUNT, LEGIT, USUAL_FORM, decide
from unpacking import Chunk
from varints import NUMBER, VARINT, BatchError, Bytes

USUAL_RECORD = usual_record(USUAL_FORM)


class Output(NamedTuple):
    """The topic of a route."""

    topic: str
    max_message_bytes: int
    """The largest batch that the topic accepts."""


Branches = Mapping[str, list[tuple[int, Bytes]]]
"""Per route, its records as (timestamp, content)."""


class RecordTooLarge(BatchError):
    """A record is larger than its output topic accepts."""

    def __init__(self, offset: int, message: str) -> None:
        super().__init__(message)
        self.offset = offset


def branch(
    chunk: Chunk, topic: str, partition: int, outputs: Mapping[str, Output], branches: Branches, reasons: list[str]
) -> None:
    """Append each record of a chunk to the branch where it belongs; the topic and partition are those it came from.

    The reasons of dead letters are appended as well. Raises RecordTooLarge after appending the records before that one.
    """
    if _branch_usual(chunk, branches):
        return
    for record in decode(chunk):
        route, reason = decide(record.value)
        output = outputs[route]
        content: Bytes = record.content
        if route == DEAD_LETTER:
            content = _with_errors(record, reason, topic, partition, output.max_message_bytes)
            reasons.append(reason)
        if (size := batch_bytes(content)) > output.max_message_bytes:
            raise RecordTooLarge(
                record.offset,
                f"{topic}[{partition}]: the record at offset {record.offset} has {size:,} bytes, more than"
                f" {output.topic} takes: kafka-configs --bootstrap-server ... --alter --topic {output.topic}"
                f" --add-config max.message.bytes={size}",
            )
        branches[route].append((record.timestamp, content))


def _branch_usual(chunk: Chunk, branches: Branches) -> bool:
    # Returns whether all records had the usual form; if not, appends nothing. A value may imitate records, so matches
    # count only if lengths, total size and number fit the chunk. Up to 2**62, adding a delta cannot overflow 64 bits.
    if chunk.append_time is not None or chunk.position > chunk.base_offset or abs(chunk.base_timestamp) > 2**62:
        return False
    legit: list[tuple[int, Bytes]] = []
    fraud: list[tuple[int, Bytes]] = []
    matched_bytes = 0
    for length, timestamp_delta, offset_delta, content, value_length, amount in USUAL_RECORD.findall(chunk.records):
        size = 1 + len(timestamp_delta) + len(offset_delta) + len(content)
        if length != VARINT[size] or value_length != VARINT[len(content) - len(value_length) - 2]:
            return False
        matched_bytes += len(length) + size
        record = (chunk.base_timestamp + NUMBER[timestamp_delta], content)
        (fraud if float(amount) >= FRAUD_AMOUNT else legit).append(record)
    if matched_bytes != len(chunk.records) or len(legit) + len(fraud) != chunk.record_count:
        return False
    branches[LEGIT].extend(legit)
    branches[FRAUD].extend(fraud)
    return True


def _with_errors(record: Record, reason: str, topic: str, partition: int, max_bytes: int) -> Bytes:
    # Adds the headers that say where a dead letter comes from and why it is one, named as in KIP-1034. Drops the
    # longest until the record fits: otherwise one that the input topic accepted might not get through.
    errors = {
        "exception": "InvalidTransaction",
        "message": reason,
        "topic": topic,
        "partition": str(partition),
        "offset": str(record.offset),
    }
    headers = [(f"__streams.errors.{name}".encode(), value.encode()) for name, value in errors.items()]
    while batch_bytes(content := add_headers(record, headers)) > max_bytes and headers:
        headers.remove(max(headers, key=lambda header: len(header[1])))
    return content
