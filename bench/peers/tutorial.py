"""The tutorial's loop: at most once here and at least once there, so no guarantee, and no dead letters.

It is docs/steps/step1_loop.py but for three lines, so it cannot be the same file: it starts at the beginning of the
topic, since that is already full here, hands on the timestamp, by which the latency is measured, and does not print
each record.
"""

import json

from common import BROKER_URL, FRAUD_TOPIC, LEGIT_TOPIC, TRANSACTIONS_TOPIC
from kafka import KafkaConsumer, KafkaProducer

consumer = KafkaConsumer(
    TRANSACTIONS_TOPIC,
    bootstrap_servers=BROKER_URL,
    auto_offset_reset="earliest",
    value_deserializer=lambda value: json.loads(value),
)
producer = KafkaProducer(
    bootstrap_servers=BROKER_URL,
    value_serializer=lambda value: json.dumps(value).encode(),
)
for message in consumer:
    transaction = message.value
    topic = FRAUD_TOPIC if transaction["amount"] >= 900 else LEGIT_TOPIC
    producer.send(topic, value=transaction, timestamp_ms=message.timestamp)
