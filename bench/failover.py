"""Three brokers, each killed once and then each frozen once: for how long do the committed outputs stand still?"""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import pairwise
from statistics import median

from kafka import KafkaAdminClient, TopicPartition

from bench.candidates import Candidate
from bench.latency import STEADY_SECONDS, Arrivals
from bench.rounds import Figures, Row, in_turns
from embedded import Cluster, Line
from embedded.brokers import Broker
from embedded.pipeline import Pipeline
from embedded.service import Restarted, wait_until

RATE, DEAD_SECONDS, FROZEN_SECONDS = 500, 10, 6
BROKERS = 3
WHICH = ("first", "second", "third")


def measure(candidates: list[Candidate], rounds: int, line: Line, faults: int) -> tuple[Row, list[Row]]:
    """Return the settings and a row for each candidate, on a new cluster each, after the first `faults` of the six."""

    def one(candidate: Candidate) -> Figures:
        with Cluster(BROKERS, line=line) as cluster:
            pipeline = Pipeline(cluster.bootstrap_servers)  # one partition: without keys, Kafka Streams mixes several
            pipeline.create(pipeline.transactions, *pipeline.outputs)
            with (
                pipeline.admin() as admin,
                ThreadPoolExecutor(1) as thread,
                pipeline.service("generator", TRANSACTIONS_PER_SECOND=str(RATE)) as generator,
                Restarted(lambda: candidate.start(pipeline, TUNING="latency")) as restarted,
                closing((arrivals := Arrivals(pipeline, candidate)).consumer),
            ):
                arrivals.consumer.unsubscribe()  # it would begin anew wherever a topic is unknown for a moment
                arrivals.consumer.assign([TopicPartition(topic, 0) for topic in pipeline.outputs])
                figures, begun = Figures(), time.time()
                arrivals.read_until(lambda: arrivals.are_steady(begun))
                for number, broker in enumerate([*cluster.brokers, *cluster.brokers][:faults]):
                    name, inflict = ("killed", _kill) if number < BROKERS else ("frozen", _freeze)
                    before, begun = len(arrivals.times) - 1, time.time()
                    fault = thread.submit(inflict, broker)
                    arrivals.read_until(fault.done)
                    fault.result()
                    arrivals.read_until(lambda: arrivals.are_steady(begun))  # noqa: B023 (called at once)
                    reads = [read for _, read in arrivals.times[before:]]
                    pauses = [until - since for since, until in pairwise(reads)]
                    figures[f"{name}_{WHICH[broker.id]}"] = max(pauses)
                    wait_until(lambda: _is_in_sync(admin), 120)
                generator.stop()
                arrivals.complete()
        for name in ("killed", "frozen"):
            figures[f"{name}_median"] = median(found) if (found := [figures[n] for n in figures if name in n]) else 0
        return figures | {"exits": len(restarted.exit_codes)}

    settings = {"rate": RATE, "frozen": FROZEN_SECONDS, "kafka": line.version, "rounds": rounds}
    return settings, in_turns(candidates, rounds, one)


def _kill(broker: Broker) -> None:
    broker.kill()
    time.sleep(DEAD_SECONDS)
    broker.start()
    broker.wait_ready()


def _freeze(broker: Broker) -> None:
    broker.pause()
    time.sleep(FROZEN_SECONDS)
    broker.resume()
    time.sleep(STEADY_SECONDS)
    broker.wait_ready()


def _is_in_sync(admin: KafkaAdminClient) -> bool:
    # Else the next fault would leave a partition with less than two brokers, and all would wait for this one.
    return all(len(p["isr_nodes"]) == BROKERS for topic in admin.describe_topics() for p in topic["partitions"])
