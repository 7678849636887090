"""The limit: our detector without its work. Fetched batches are handed on unread, one by one, in the same transactions.

No detector on this client can be faster, unless it merges batches."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from detector import app
from exactly_once import Branching, Out, Portion, run
from exactly_once.encoding import OutputBatch
from exactly_once.job import Outgoing
from exactly_once.unpacking import HEADER


def hand_on(self: Branching, portion: Portion, out: Out) -> None:
    """Write each chunk as it is to the topic of legit transactions."""
    for source, chunks in portion.chunks.items():
        target = source._replace(topic=self.routes["legit"])
        for chunk in chunks:
            times, data = [chunk.base_timestamp] * 2, bytearray(HEADER.size) + chunk.records
            offsets = range(chunk.first_offset, chunk.next_offset)
            out.batches.append(Outgoing(target, OutputBatch(*times, [*offsets], data), source))


Branching.process = hand_on
run("detector", app.branching, group="fraud-detector")
