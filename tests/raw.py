"""Record batches as bytes, written to a broker and read from it by plain requests: no client looks into them."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.codec import gzip_encode, lz4_encode, snappy_encode, zstd_encode
from kafka.protocol.consumer import FetchRequest
from kafka.protocol.producer import ProduceRequest
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.util import calc_crc32c

from exactly_once.decoding import decode
from exactly_once.encoding import Columns, encode
from exactly_once.unpacking import HEADER, chunks
from exactly_once.varints import VARINT

CODECS = {
    "none": (0, bytes),
    "gzip": (1, gzip_encode),
    "snappy": (2, snappy_encode),
    "lz4": (3, lz4_encode),
    "zstd": (4, zstd_encode),
}
CONTROL_BIT = 0b100000
WAIT_SECONDS = 120


def content(value: bytes | None, key: bytes | None = None, headers: Sequence[tuple[bytes, bytes | None]] = ()) -> bytes:
    """Return a record's bytes from key to headers; names and values are whatever bytes they are."""

    def field(data: bytes | None) -> bytes:
        return VARINT[-1] if data is None else VARINT[len(data)] + data

    return field(key) + field(value) + VARINT[len(headers)] + b"".join(field(part) for h in headers for part in h)


def batch(records: Sequence[tuple[int, bytes]], codec: str = "none") -> bytes:
    """Return a batch of records, each a timestamp and a content, ready to be produced."""
    (output,) = encode(Columns.of((0, timestamp, data) for timestamp, data in records), 10**9)
    bits, compress = CODECS[codec]
    data = bytearray(HEADER.size) + compress(bytes(output.data[HEADER.size :]))
    count, times = len(records), (output.base_timestamp, output.max_timestamp)
    HEADER.pack_into(data, 0, 0, len(data) - 12, 0, 2, 0, bits, count - 1, *times, -1, -1, -1, count)
    crc_at, attributes_at = DefaultRecordBatchBuilder.CRC_OFFSET, DefaultRecordBatchBuilder.ATTRIBUTES_OFFSET
    data[crc_at:attributes_at] = calc_crc32c(bytes(data[attributes_at:])).to_bytes(4, "big")
    return bytes(data)


class Wire:
    """A connection to the leaders of all partitions."""

    def __init__(self, consumer: KafkaConsumer) -> None:
        self._consumer = consumer

    def produce(self, topic: str, data: bytes, partition: int = 0) -> int:
        """Write a message set or a batch, as it is, and return the offset of its first record."""
        response = self.offer(topic, data, partition)
        assert response.error_code == 0, response
        return int(response.base_offset)

    def offer(self, topic: str, data: bytes, partition: int = 0) -> Any:
        """Send a message set or a batch to be written, and return the broker's answer: it may refuse it."""
        topics = ProduceRequest.TopicProduceData
        written = topics(name=topic, partition_data=[topics.PartitionProduceData(index=partition, records=data)])
        version = 2 if data[16] < 2 else 9  # what lies there is the version of the format
        request = ProduceRequest(
            transactional_id=None, acks=-1, timeout_ms=10_000, topic_data=[written], max_version=version
        )
        return self._ask(request, topic, partition).responses[0].partition_responses[0]

    def format_version(self, topic: str) -> int:
        """Return in which version of the format the broker keeps what is in a topic's first partition."""
        return bytes(self._fetch(topic, 0, 0).records)[16]

    def fetch(self, topic: str, partition: int = 0) -> Iterator[bytes]:
        """Yield the data batches of a partition as the broker keeps them, without those of aborted transactions.

        Raises TimeoutError if a transaction stays open.
        """
        place = TopicPartition(topic, partition)
        offset = self._consumer.beginning_offsets([place])[place]
        end = self._consumer.end_offsets([place])[place]
        aborted: set[int] = set()  # producers whose transaction, at this offset, will be aborted
        deadline = time.monotonic() + WAIT_SECONDS
        while offset < end:
            found_there = self._fetch(topic, partition, offset)
            if found_there.records:
                deadline = time.monotonic() + WAIT_SECONDS
            elif time.monotonic() > deadline:
                raise TimeoutError(f"nothing from {topic}[{partition}] at {offset}: is a transaction open?")
            data, at = bytes(found_there.records or b""), 0
            begins = {a.first_offset: a.producer_id for a in found_there.aborted_transactions or ()}
            while at + HEADER.size <= len(data):
                size = int.from_bytes(data[at + 8 : at + 12], "big") + 12
                found = data[at : at + size]
                if len(found) < size:  # the last one may be cut off
                    break
                at += size
                header = HEADER.unpack_from(found)
                producer_id = header[9]
                aborted |= {id for first, id in begins.items() if header[0] <= first <= header[0] + header[6]}
                offset = header[0] + header[6] + 1
                if header[5] & CONTROL_BIT:
                    aborted.discard(producer_id)
                elif producer_id not in aborted:
                    yield found

    def _fetch(self, topic: str, partition: int, offset: int) -> Any:
        topics = FetchRequest.FetchTopic
        wanted = topics.FetchPartition(partition=partition, fetch_offset=offset, partition_max_bytes=10**8)
        request = FetchRequest(
            max_wait_ms=500,
            min_bytes=1,
            max_bytes=10**8,
            isolation_level=1,  # read committed
            topics=[topics(topic=topic, partitions=[wanted])],
            max_version=11,
        )
        return self._ask(request, topic, partition).responses[0].partitions[0]

    def records(self, topic: str, partition: int = 0) -> list[tuple[int, bytes]]:
        """Return the timestamps and contents of a partition's records."""
        return [
            (record.timestamp, bytes(record.content))
            for found in self.fetch(topic, partition)
            for chunk in chunks(found, 0)
            for record in decode(chunk)
        ]

    def _ask(self, request: Any, topic: str, partition: int) -> Any:
        manager = self._consumer._client._manager
        self._consumer.partitions_for_topic(topic)  # without it the client does not look for the leader
        leader = manager.cluster.leader_for_partition(TopicPartition(topic, partition))

        async def ask() -> Any:
            return await manager.send(request, node_id=leader)

        return manager.run(ask)


@contextmanager
def wire(broker_url: str) -> Iterator[Wire]:
    """Connect as long as the block."""
    consumer = KafkaConsumer(bootstrap_servers=broker_url)
    try:
        consumer.topics()
        yield Wire(consumer)
    finally:
        consumer.close()
