"""aiokafka: a transaction for each getmany(), as in its own example of exactly once.

Records are sent with `send`, as in that example, or in `batches` that the application fills: more speed and more code.
"""

import asyncio
import sys

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord
from common import BATCH_RECORDS, BROKER_URL, GROUP, TRANSACTIONS_TOPIC, route


async def main(way: str) -> None:
    """Run until killed."""
    forward = {"send": send_each, "batches": send_batches}[way]
    consumer = AIOKafkaConsumer(
        TRANSACTIONS_TOPIC,
        bootstrap_servers=BROKER_URL,
        group_id=GROUP,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        isolation_level="read_committed",
    )
    # No linger: the first batch is sent at once, and the next has filled until that is acknowledged.
    producer = AIOKafkaProducer(
        bootstrap_servers=BROKER_URL,
        transactional_id=GROUP,
        max_batch_size=512 * 1024,
        retry_backoff_ms=5,  # each transaction waits for the markers of the one before; the default is 100
    )
    await producer.start()
    await consumer.start()
    while True:
        # It returns as soon as there is anything, so latency needs no setting of its own.
        records = await consumer.getmany(timeout_ms=100, max_records=BATCH_RECORDS)
        if records:
            async with producer.transaction():
                sent = await forward(producer, [message for messages in records.values() for message in messages])
                await asyncio.gather(*sent)  # raises where one was not delivered
                offsets = {source: messages[-1].offset + 1 for source, messages in records.items()}
                await producer.send_offsets_to_transaction(offsets, GROUP)


async def send_each(producer: AIOKafkaProducer, messages: list[ConsumerRecord]) -> list[asyncio.Future]:
    """Send the records one by one, and return what tells of each whether it was delivered."""
    return [
        await producer.send(route(m.value), m.value, m.key, m.partition, m.timestamp, list(m.headers)) for m in messages
    ]


async def send_batches(producer: AIOKafkaProducer, messages: list[ConsumerRecord]) -> list[asyncio.Future]:
    """Send the records in batches of our own, and return what tells of each batch whether it was delivered."""
    sent, batches = [], {}
    for m in messages:
        target = (route(m.value), m.partition)
        content = {"key": m.key, "value": m.value, "timestamp": m.timestamp, "headers": list(m.headers)}
        batch = batches.get(target)
        if batch is None or batch.append(**content) is None:  # it is full
            if batch is not None:
                sent.append(await producer.send_batch(batch, target[0], partition=target[1]))
            batch = batches[target] = producer.create_batch()
            if batch.append(**content) is None:
                raise ValueError(f"offset {m.offset} does not fit in a batch")
    for (topic, partition), batch in batches.items():
        sent.append(await producer.send_batch(batch, topic, partition=partition))
    return sent


asyncio.run(main(sys.argv[1]))
