"""Our detector with a function replaced: what the fault suite has to find wanting. CARELESS says in what."""

import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

from kafka import TopicPartition
from kafka.errors import KafkaError
from kafka.structs import ConsumerGroupMetadata

from detector.app import branching
from exactly_once import Portion, brokers, consumer, places, run

read = consumer.Consumer.read
CARELESS = os.environ["CARELESS"].split()

if "unchecked" in CARELESS:  # does not look at what became of its batches
    write = brokers.Brokers.write

    async def write_carelessly(self: brokers.Brokers, *written: Any) -> None:
        """Write, and go on without those that are not taken."""
        with suppress(KafkaError):
            await write(self, *written)

    brokers.Brokers.write = write_carelessly

if "slow" in CARELESS:  # makes the moment between reading and writing long enough to hit

    def read_slowly(self: consumer.Consumer, wait: bool) -> Portion:
        """Read, and pause."""
        portion = read(self, wait)
        if portion.chunks:
            print("Between reading and writing", flush=True)
            time.sleep(1.5)
        return portion

    consumer.Consumer.read = read_slowly

if "unfenced" in CARELESS:  # writes during a rebalance too, from wherever it is, and without its generation
    slowly = consumer.Consumer.read
    consumer.Consumer._is_stable = lambda self, group: True

    def stay(self: places.Places) -> dict[TopicPartition, int]:
        """Go on from where the client is, at first from the beginning."""
        for partition, beginning in self.client.beginning_offsets(self.client.assignment()).items():
            if self.client.committed(partition) is None:
                self.client.seek(partition, beginning)
        self.positions = {partition: self.client.position(partition) for partition in self.client.assignment()}
        self.read_to, self.committed = self.positions.copy(), self.positions.copy()
        return {}

    places.Places.rewind = stay

    def read_unfenced(self: consumer.Consumer, wait: bool) -> Portion:
        """Read, and give the group's name alone."""
        portion = slowly(self, wait)
        return portion._replace(group=ConsumerGroupMetadata(portion.group.group_id))

    consumer.Consumer.read = read_unfenced

run("detector", branching, group="fraud-detector")
