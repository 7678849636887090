"""aiokafka: a transaction for each getmany(), written with its batch interface, which is its fastest way to send."""

import asyncio

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from common import (
    BATCH_RECORDS,
    BROKER_URL,
    GROUP,
    TRANSACTIONS_TOPIC,
    route,
)

BATCH_BYTES = 512 * 1024


async def main() -> None:
    """Run until killed."""
    consumer = AIOKafkaConsumer(
        TRANSACTIONS_TOPIC,
        bootstrap_servers=BROKER_URL,
        group_id=GROUP,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        isolation_level="read_committed",
    )
    # No linger: a batch is sent when it is whole, whatever the tuning.
    producer = AIOKafkaProducer(
        bootstrap_servers=BROKER_URL,
        transactional_id=GROUP,
        max_batch_size=BATCH_BYTES,
        retry_backoff_ms=5,  # each transaction waits for the markers of the one before; the default is 100
    )
    await producer.start()
    await consumer.start()
    while True:
        # It returns as soon as there is anything, so latency needs no setting of its own.
        records = await consumer.getmany(timeout_ms=100, max_records=BATCH_RECORDS)
        if records:
            async with producer.transaction():
                await forward(producer, records)


async def forward(producer: AIOKafkaProducer, records: dict[TopicPartition, list[ConsumerRecord]]) -> None:
    """Send the records and their offsets within the open transaction."""
    sent = []
    batches = {}
    for source, messages in records.items():
        for message in messages:
            target = (route(message.value), source.partition)
            content = {
                "key": message.key,
                "value": message.value,
                "timestamp": message.timestamp,
                "headers": list(message.headers),
            }
            batch = batches.get(target)
            if batch is None or batch.append(**content) is None:  # it is full
                if batch is not None:
                    sent.append(await producer.send_batch(batch, target[0], partition=target[1]))
                batch = batches[target] = producer.create_batch()
                if batch.append(**content) is None:
                    raise ValueError(f"offset {message.offset} does not fit in a batch")
    for (topic, partition), batch in batches.items():
        sent.append(await producer.send_batch(batch, topic, partition=partition))
    await asyncio.gather(*sent)  # raises where a batch was not delivered
    offsets = {source: messages[-1].offset + 1 for source, messages in records.items()}
    await producer.send_offsets_to_transaction(offsets, GROUP)


if __name__ == "__main__":
    asyncio.run(main())
