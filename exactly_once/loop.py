"""The loop: reads a portion, has the job process it, and commits what follows from it together with its offsets."""

import gc
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Any, NoReturn

from kafka import KafkaAdminClient, TopicPartition
from kafka.errors import KafkaError

from exactly_once.consumer import LEAST_PORTION_BYTES, PORTION_BYTES, Consumer
from exactly_once.job import Job, Out, Portion
from exactly_once.kafka_python import connect
from exactly_once.member import Member, explain
from exactly_once.producer import Producer
from exactly_once.progress import Progress
from exactly_once.topics import prepare_topics
from service.log import REPORT_SECONDS, log, set_up_logging, touch
from service.settings import ConfigurationError, Environment
from service.stopping import Stopping

TURN_SECONDS = 60
"""How long a turn of the loop may take, or the start: a rebalance asks for offsets, and for topics on all brokers."""
CLOSE_SECONDS = 3
WAIT_SECONDS = 0.2
"""How long it sleeps at a time while a quota makes it wait: a signal ends that, and the group goes on."""

LEAST_OVERLAP_BYTES, MOST_OVERLAP_BYTES = PORTION_BYTES // 2, 4 * PORTION_BYTES
"""What is processed while the previous portion is committed: less is no backlog, and two portions of more take
too much memory."""


class Loop:
    """Runs a job: reads in portions, and writes what follows from each, exactly once."""

    def __init__(self, name: str, job: Job, member: Member, stopping: Stopping) -> None:
        """Connect. Raises ConfigurationError (the topics, a port) and KafkaError."""
        self.job, self.member, self.stopping = job, member, stopping
        self.metrics: Any = None
        if member.metrics_port:
            from exactly_once.counting import Metrics  # imported only if wanted: it costs memory, and opens a port

            self.metrics = Metrics(member.metrics_port, name, job)
        self.prepare_topics()
        topics = [output.topic for output in job.outputs]
        self.producer = Producer(member.cluster, stopping, member.transactional_id, member.group, topics)
        self.consumer = Consumer(member.cluster, stopping, member.group, job.inputs, self.on_assignment)
        self.consumer.portion_bytes = LEAST_PORTION_BYTES
        self.progress = Progress(self.consumer, member.cluster, job.inputs[0].topic)
        self.counts: Counter[str] = Counter()
        self.reported_at, self.reported = time.monotonic(), 0
        if self.metrics:
            self.metrics.progress = self.progress

    def prepare_topics(self) -> None:
        """Create the topics that are missing, and check those that exist."""
        with closing(connect(KafkaAdminClient, self.member.cluster, self.stopping)) as admin:
            self.targets = prepare_topics(admin, self.job.inputs, self.job.outputs)

    def on_assignment(self, committed: Mapping[TopicPartition, int | None]) -> None:
        """Check the topics again, as partitions may have been added; warn about those without a committed offset."""
        self.prepare_topics()
        keeping = [output.topic for output in self.job.outputs if output.keeps_partition]
        for partition, offset in committed.items():
            if offset is None:
                self.progress.warn_of_repetition(partition, keeping)
        self.job.assigned({partition: offset or 0 for partition, offset in committed.items()})

    def run(self) -> None:
        """Work until signalled, or done. Raises ConfigurationError and KafkaError; what is not committed is read again.

        In a backlog, the next portion is processed while Kafka commits what follows from the previous one.
        """
        processor = ThreadPoolExecutor(max_workers=1)
        processed: Out | None = None  # not committed yet
        while not self.stopping.is_set and not self.job.is_done(self.consumer.places.committed):
            self.stopping.rearm(TURN_SECONDS)
            if self.producer.throttled_seconds:
                processed = self.wait(processed)
                self.report()
                continue
            portion = self.consumer.read(wait=not processed)
            if processed and processed.group != portion.group:
                processed = None  # a rebalance: its records are read again, by whoever owns them by now
            if processed:
                processing = processor.submit(self.process, portion)
                self.commit(processed)
                processed = processing.result()
            else:
                processed = self.process(portion)
            if processed and (processed.is_cut or not LEAST_OVERLAP_BYTES <= processed.size < MOST_OVERLAP_BYTES):
                self.commit(processed)
                if processed.is_cut:
                    self.consumer.generation = None  # makes it read again from what is committed
                processed = None
            self.report()

    def wait(self, processed: Out | None) -> Out | None:
        """Stay in the group for a moment, without reading on; return what is to be committed then."""
        time.sleep(min(self.producer.throttled_seconds, WAIT_SECONDS))
        client: Any = self.consumer.client
        client.pause(*client.assignment())
        portion = self.consumer.read(wait=False, is_full=True)
        client.resume(*client.assignment())
        return processed if processed and processed.group == portion.group else self.process(portion)

    def process(self, portion: Portion) -> Out | None:
        """Return what follows from a portion, if anything."""
        if not (portion.offsets or portion.chunks):
            return None
        out = Out(portion.offsets, portion.group, self.targets)
        try:
            self.job.process(portion, out)
        except Exception:
            starts = [
                f"{p.topic}[{p.partition}] from offset {found[0].first_offset}" for p, found in portion.chunks.items()
            ]
            log.error("The job fails, and will again, on a record of %s", ", ".join(starts))
            raise
        out.finish()
        if out.batches and not out.offsets:
            raise KafkaError("something follows from records that are not to be committed")
        return out if out.offsets else None

    def commit(self, out: Out) -> None:
        """Write, commit and count what a portion has led to. Raises KafkaError."""
        start = time.monotonic()
        self.producer.commit(out)
        self.consumer.places.note(out.offsets)
        self.counts += out.counts
        # A quota makes us wait in proportion to what we write, so each start begins with little.
        size = self.consumer.portion_bytes
        size = size // 2 if self.producer.throttled_seconds > 1 else size * 2
        self.consumer.portion_bytes = min(max(size, LEAST_PORTION_BYTES), PORTION_BYTES)
        if self.metrics:
            self.metrics.observe(out, time.monotonic() - start)

    def report(self, is_last: bool = False) -> None:
        """Write the line of counters every few seconds, and the heartbeat if there is progress or nothing to do."""
        elapsed, total = time.monotonic() - self.reported_at, self.counts.total()
        if elapsed < REPORT_SECONDS and not is_last:
            return
        is_throttled = self.producer.throttled_seconds > 0
        is_well = not is_last and (self.progress.check(is_reading=not is_throttled) or is_throttled)
        counts = " ".join(f"{name}=%d" for name in self.job.counted)
        values = [self.counts[name] for name in self.job.counted]
        log.info(f"rate=%.0f/s {counts} lag=%s", (total - self.reported) / elapsed, *values, self.progress.lag)
        self.reported_at, self.reported = time.monotonic(), total
        if is_well:
            touch(self.member.heartbeat_file)


def run(name: str, make_job: Callable[[Environment], Job], group: str) -> NoReturn:
    """Run a job until a signal, with the settings from the environment, and end the process.

    Its exit code is 0 after a signal, 1 if Kafka failed, 2 for bad configuration. The name is that of its metrics, the
    group that of its consumer group unless CONSUMER_GROUP says otherwise.
    """
    set_up_logging(name)
    # How long the client's threads, which commit, wait for the one that processes. In Python's five milliseconds to
    # commit a portion takes longer than to process the next one.
    sys.setswitchinterval(0.001)
    # A portion makes about 100,000 short-lived objects; the cyclic collector took a tenth of the run time.
    gc.set_threshold(200_000)
    stopping, loop = Stopping(), None
    try:
        environment = Environment(os.environ)
        member, job = Member.from_env(environment, group), make_job(environment)
        topics = [job.inputs[0].topic, *(output.topic for output in job.outputs)]
        if len(set(topics)) < len(topics):
            raise ConfigurationError(f"a topic is named twice ({', '.join(topics)}): give each its own")
        log.info("Starting with %s, topics %s", member, ", ".join(topics))
        with suppress(SystemExit):  # signalled while it was connecting
            stopping.rearm(TURN_SECONDS)
            loop = Loop(name, job, member, stopping)
            loop.run()
        if loop:
            loop.report(is_last=True)
            log.info("Stopping: %s", dict(loop.counts))
        exit_code = 0
    except ConfigurationError as error:
        log.error("%s", error)
        exit_code = 2
    except Exception as error:  # the client can raise anything, and a traceback helps nobody
        stopping.rearm(TURN_SECONDS)
        what = "Kafka failed" if isinstance(error, KafkaError | OSError) else "An error in the code"
        reason = explain(error, member, job)
        log.error("%s, ending; a restart continues from the committed offsets: %s", what, reason)
        exit_code = 1
    stopping.finish(exit_code, CLOSE_SECONDS)
    if loop:  # last, as it may hang
        with suppress(Exception):  # the cause is already logged
            loop.consumer.close()  # the producer ends with the process: closing it would retry what has just failed
    os._exit(exit_code)  # on a normal return the client waits for its threads, and they for Kafka
