"""Faust (faust-streaming): an agent that forwards each event, at least once.

Its processing_guarantee="exactly_once" is accepted, but wrote these records without a transaction (faust-streaming
0.15.3: the outputs had no transaction marker). So it takes part with its default, and the table says so.
"""

import os
import sys

import common
import faust
from common import BATCH_RECORDS, LOW_LATENCY

app = faust.App(
    common.GROUP,
    broker=f"kafka://{common.BROKER_URL}",
    datadir=os.environ["STATE_FOLDER"],
    consumer_auto_offset_reset="earliest",
    broker_max_poll_records=BATCH_RECORDS,
    broker_commit_every=BATCH_RECORDS,
    stream_buffer_maxsize=BATCH_RECORDS,  # its documentation: higher numbers give better throughput
    producer_max_batch_size=512 * 1024,
    producer_linger=0.0 if LOW_LATENCY else 0.05,  # seconds
    topic_disable_leader=True,
    web_enabled=False,
)
source, *topics = (
    app.topic(name, value_serializer="raw", key_serializer="raw")
    for name in (common.TRANSACTIONS_TOPIC, common.LEGIT_TOPIC, common.FRAUD_TOPIC, common.DEAD_LETTER_TOPIC)
)
outputs = {topic.topics[0]: topic for topic in topics}


@app.agent(source)
async def detect(stream: faust.StreamT) -> None:
    """Forward each record as it came."""
    async for event in stream.events():
        message = event.message
        await event.forward(
            outputs[common.route(event.value)], partition=message.partition, timestamp=message.timestamp
        )


sys.argv[1:] = ["worker", "--loglevel", "warn", "--without-web"]
app.main()
