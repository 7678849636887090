"""confluent-kafka (librdkafka): a transaction for each batch, as in the library's own example of exactly once."""

from common import BATCH_RECORDS, BROKER_URL, DEAD_LETTER_TOPIC, GROUP, LOW_LATENCY, TRANSACTIONS_TOPIC, errors, route
from confluent_kafka import Consumer, KafkaException, Producer

# consume() returns when it has that many records, or after that time: a longer one makes fuller batches.
WAIT_SECONDS = 0.005 if LOW_LATENCY else 0.1

consumer = Consumer(
    {
        "bootstrap.servers": BROKER_URL,
        "group.id": GROUP,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
        "topic.metadata.refresh.interval.ms": 1000,  # else a topic that is missing at first may be found after minutes
    }
)
producer = Producer(
    {
        "bootstrap.servers": BROKER_URL,
        "transactional.id": GROUP,
        "linger.ms": 0 if LOW_LATENCY else 50,
        "retry.backoff.ms": 5,  # each transaction waits for the markers of the one before; the default is 100
        "batch.size": 1_000_000,
        "batch.num.messages": BATCH_RECORDS,
    }
)
producer.init_transactions()
consumer.subscribe([TRANSACTIONS_TOPIC])
while True:
    messages = consumer.consume(BATCH_RECORDS, WAIT_SECONDS)
    if not messages:
        continue
    producer.begin_transaction()
    for message in messages:
        if message.error():
            raise KafkaException(message.error())
        value, headers, time = message.value(), message.headers() or [], message.timestamp()[1]
        if (topic := route(value)) == DEAD_LETTER_TOPIC:
            headers += errors("no transaction", message.topic(), message.partition(), message.offset())
        producer.produce(topic, value, message.key(), message.partition(), timestamp=time, headers=headers)
    producer.send_offsets_to_transaction(consumer.position(consumer.assignment()), consumer.consumer_group_metadata())
    producer.commit_transaction()  # flushes, and raises where a record was not delivered
