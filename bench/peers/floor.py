"""The limit: our detector without its work. Fetched batches are handed on unread, one by one, in the same transactions.

No detector on this client can be faster, unless it merges batches."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "detector"))

from kafka import TopicPartition

import app
from batches import OutputBatch
from branching import Output
from portion import Portion, Transaction
from unpacking import HEADER


def hand_on(portion: Portion, outputs: Mapping[str, Output]) -> Transaction:
    """Return a transaction that writes each chunk as it is to the topic of legit transactions."""
    transaction = Transaction(portion.next_offsets, portion.group)
    for source, chunks in portion.chunks.items():
        target = TopicPartition(outputs["legit"].topic, source.partition)
        for chunk in chunks:
            data = bytearray(HEADER.size) + chunk.records
            batch = OutputBatch(chunk.base_timestamp, chunk.base_timestamp, chunk.record_count, data)
            transaction.batches.append((target, batch))
    return transaction


app.branch = hand_on
os._exit(app.main())
