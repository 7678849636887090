"""A trial: records flow through detectors that are restarted as Compose does it, and faults happen meanwhile.

The idea is that of Kafka's own system tests: input goes on being written while the fault is inflicted; in the end a
sentinel is written to every partition for every route, and when all have arrived each record is looked up.
"""

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

import adversary
import strict
from embedded.pipeline import Pipeline
from embedded.service import Restarted, Service, wait_until
from faults.steps import STEP
from faults.steps import command as command_of
from raw import Wire, wire

RECORDS_PER_SECOND = 400


@dataclass
class Verdict:
    """What became of the records of a trial."""

    fault: str = ""
    rounds: int = 0
    checked: int = 0
    lost: int = 0
    doubled: int = 0
    misrouted: int = 0
    disordered: int = 0
    hanging: int = 0
    """Partitions with a transaction that never ends: their last stable offset is behind their end."""
    recoveries: list[float] = field(default_factory=list)
    """Seconds from each fault to the next committed record."""

    @property
    def wrong(self) -> int:
        """How much is not as it should be."""
        return self.lost + self.doubled + self.misrouted + self.disordered + self.hanging


@dataclass
class Audit:
    """What became of the rings of a trial with detectors of smurfing."""

    fault: str
    rounds: int = 0
    transfers: int = 0
    expected: int = 0
    seen: int = 0
    missing: int = 0
    doubled: int = 0


WEIGHTS = {"legit": 85, "fraud": 10, "dead_letter": 5}
VALID = {"legit": 90, "fraud": 10}
"""For the tutorial's loop, which ends at a malformed record: else no other fault would show."""
AMOUNTS = {"legit": 899.99, "fraud": 900}


def value(route: str, identity: str) -> bytes:
    """Return a value that belongs to the route, and to no other record."""
    if route == "dead_letter":
        return f"malformed {identity}".encode()
    transaction = {"source": identity, "target": "bob", "amount": AMOUNTS[route], "currency": "EUR"}
    return json.dumps(transaction).encode()


def route_of(data: bytes) -> str:
    """Return the route that a value was made for; not the detector's rule, on purpose."""
    if data.startswith(b"malformed"):
        return "dead_letter"
    return "fraud" if b'"amount": 900,' in data else "legit"


HOSTILE = adversary.transaction(1).partition(b'"amount"')[0]
"""How the values of hostile batches begin; no honest one does."""


def is_hostile(batch: bytes) -> bool:
    """Return whether a batch of the input is the adversary's: the trial's own are as usual as can be."""
    try:
        return any((record.value or b"").startswith(HOSTILE) for record in strict.read(batch))
    except (AssertionError, IndexError):
        return True


def offsets_of(batch: bytes) -> range:
    """Return the offsets of a batch."""
    first, *_ = header = adversary.HEADER.unpack_from(batch)
    return range(first, first + header[6] + 1)


class Trial:
    """A pipeline under load, with detectors; to be used in a `with` block."""

    def __init__(self, fault: str, pipeline: Pipeline, seed: int, command: Sequence[str] = ()) -> None:
        self.pipeline, self.command = pipeline, command or (command_of(STEP) if STEP else ())
        self.verdict = Verdict(fault)
        self.random = random.Random(seed)
        self.instances: list[Restarted] = []
        self.weights = WEIGHTS if STEP != 1 else VALID
        """How many of 100 records belong to each route."""
        self.extra: dict[bytes | None, str] = {}
        """Values to be mixed in, with their routes."""
        self.hostile = 0
        """How many offsets of hostile batches have been looked up."""
        self.lost_places: list[tuple[int, int]] = []
        """Partitions and offsets of what is lost."""
        self._ahead = 0  # how many more records were written than read, since they were written twice
        self._writing = True
        self._writer = threading.Thread(target=self._write, daemon=True)
        self._attacker: threading.Thread | None = None

    def __enter__(self) -> "Trial":
        self.pipeline.create(self.pipeline.transactions, *(self.pipeline.outputs if STEP else ()))
        self._reader = KafkaConsumer(
            bootstrap_servers=self.pipeline.broker_url, isolation_level="read_committed", request_timeout_ms=3000
        )
        self._writer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._writing = False
        for instance in self.instances:
            instance.end(signal.SIGKILL)
        self._writer.join(30)
        if self._attacker:
            self._attacker.join(30)
        self._reader.close()

    def start(self, **environ: str) -> Restarted:
        """Start one more detector, with a transactional id of its own; it is started again as Compose would."""
        environ = {"TRANSACTIONAL_ID": f"{self.pipeline.name}-{len(self.instances)}"} | environ
        variables = self.pipeline.environ("detector", **environ)
        instance = Restarted(lambda: Service("detector", variables, self.command))
        self.instances.append(instance)
        return instance

    def _producer(self) -> KafkaProducer:
        return KafkaProducer(
            bootstrap_servers=self.pipeline.broker_url,
            linger_ms=5,
            request_timeout_ms=3000,
            max_request_size=10_000_000,
            reconnect_backoff_max_ms=500,
        )

    def _write(self) -> None:
        # What it writes in vain or twice makes no difference: the input topic itself says what is to come out.
        draw = random.Random(self.verdict.fault)
        producer, extra = self._producer(), list(self.extra)
        for n in range(10**9):
            if not self._writing:
                break
            data: bytes | None = value(draw.choices(list(self.weights), list(self.weights.values()))[0], str(n))
            if extra and n % 3 == 0:
                data = extra.pop()
            key = b"tombstone" if data is None else None
            try:
                producer.send(self.pipeline.transactions, data, key, partition=draw.randrange(self.pipeline.partitions))
            except KafkaError:
                time.sleep(0.5)
            if n % 20 == 0:
                time.sleep(20 / RECORDS_PER_SECOND)
        try:
            producer.flush(30)
        finally:
            producer.close(timeout=1)

    def attack(self) -> None:
        """From now on, write hostile batches as well, to all partitions."""
        self._attacker = threading.Thread(target=self._attack, daemon=True)
        self._attacker.start()

    def _attack(self) -> None:
        draw, batches = random.Random(self.verdict.fault), list(adversary.hostile().values())
        while self._writing:
            try:
                with wire(self.pipeline.broker_url) as broker:
                    while self._writing:
                        partition = draw.randrange(self.pipeline.partitions)
                        broker.offer(self.pipeline.transactions, draw.choice(batches), partition)
                        time.sleep(0.02)
            except (KafkaError, OSError):
                time.sleep(0.5)

    def committed(self) -> int:
        """Return how far committed readers get in the outputs, in offsets; -1 where Kafka does not answer."""
        topics = [t for t in self.pipeline.outputs if t in self._reader.topics()]
        partitions = [TopicPartition(t, p) for t in topics for p in self._reader.partitions_for_topic(t) or ()]
        return sum(self._reader.end_offsets(partitions, timeout_ms=2000).values()) if partitions else 0

    def wait_for_progress(self, seconds: float = 300) -> float:
        """Wait until something more is committed, and return the seconds that this took."""
        started = time.monotonic()
        before: int | None = None

        def progressed() -> bool:
            nonlocal before
            try:
                now = self.committed()
            except (KafkaError, OSError):
                return False
            if before is None:
                before = now
            return now > before

        wait_until(progressed, seconds, lambda: "".join(instance.log for instance in self.instances))
        return time.monotonic() - started

    def kill_before_commit(self, instance: Restarted) -> None:
        """Kill a program that has no Kafka transactions after it has written something, and before it commits that."""
        partitions = [TopicPartition(self.pipeline.transactions, p) for p in range(self.pipeline.partitions)]
        group = KafkaConsumer(
            bootstrap_servers=self.pipeline.broker_url, group_id=self.pipeline.name, enable_auto_commit=False
        )
        until = time.monotonic() + 300
        with closing(group):
            while time.monotonic() < until:
                time.sleep(self.random.uniform(0, 0.1))
                os.kill(instance.pid, signal.SIGSTOP)
                time.sleep(0.05)  # what it has sent arrives
                ahead = self.committed() - sum(group.committed(partition) or 0 for partition in partitions)
                if ahead > self._ahead:
                    self._ahead = ahead
                    os.kill(instance.pid, signal.SIGKILL)
                    return
                os.kill(instance.pid, signal.SIGCONT)
        raise TimeoutError(f"never between the two:\n{instance.log}")

    @contextmanager
    def fault(self) -> Iterator[None]:
        """Inflict a fault in the block; from its start to the next committed record is the time of recovery."""
        started = time.monotonic()
        yield
        time.sleep(0.3)  # what was committed just before the fault shows a little later
        self.wait_for_progress()
        self.verdict.rounds += 1
        self.verdict.recoveries.append(time.monotonic() - started)

    def settle(self) -> None:
        """Let the records flow for a moment, another one each time."""
        self.wait_for_progress()
        time.sleep(self.random.uniform(0, 1))

    def finish(self, seconds: float = 180) -> Verdict:
        """Stop writing, wait for the sentinels, and look up every record of the input in the outputs."""
        self._writing = False
        self._writer.join(120)
        if self._attacker:
            self._attacker.join(120)
        sentinels = [(p, route) for p in range(self.pipeline.partitions) for route in self.weights]
        producer = self._producer()
        for p, route in sentinels:
            producer.send(self.pipeline.transactions, value(route, f"sentinel {p}"), partition=p).get(120)
        producer.close()

        def arrived() -> bool:
            return (STEP == 1 or self.pipeline.lag() == 0) and self.hanging() == 0

        if STEP == 1:  # commits no offsets, by which one could see how far it is
            time.sleep(5)
        try:
            wait_until(arrived, seconds)
        except TimeoutError:
            self.verdict.hanging = self.hanging()
        self._look_up()
        return self.verdict

    def hanging(self) -> int:
        """Return how many output partitions have an open transaction."""
        with_open = 0
        for topic in self.pipeline.outputs:
            ends = []
            for level in ("read_committed", "read_uncommitted"):
                reader = KafkaConsumer(bootstrap_servers=self.pipeline.broker_url, isolation_level=level)
                partitions = [TopicPartition(topic, p) for p in reader.partitions_for_topic(topic) or ()]
                ends.append(reader.end_offsets(partitions))
                reader.close()
            with_open += sum(ends[0][partition] < ends[1][partition] for partition in ends[0])
        return with_open

    def _look_up(self) -> None:
        # At the bytes: the client cannot read all that hostile batches hold.
        with wire(self.pipeline.broker_url) as broker:
            for partition in range(self.pipeline.partitions):
                self._look_up_partition(broker, partition)

    def _look_up_partition(self, broker: Wire, partition: int) -> None:
        inputs, outputs, place = Counter[bytes | None](), Counter[bytes | None](), dict[bytes | None, int]()
        hostile, routed, dead = set[int](), 0, Counter[int]()  # offsets; a number of records; offsets
        for batch in broker.fetch(self.pipeline.transactions, partition):
            if self._attacker and is_hostile(batch):
                hostile.update(offsets_of(batch))
                continue
            for record in strict.read(batch):
                inputs[record.value] += 1
                place[record.value] = record.offset
        for route, topic in self.pipeline.routes.items():
            last = -1
            for record in (r for batch in broker.fetch(topic, partition) for r in strict.read(batch)):
                if offsets := hostile.intersection(record.dead_offsets()):
                    dead.update(offsets)
                elif self._attacker and (record.value or b"").startswith(HOSTILE):
                    routed += 1
                    self.verdict.misrouted += route != "legit"
                else:
                    outputs[record.value] += 1
                    expected = self.extra.get(record.value) or route_of(record.value or b"malformed")
                    self.verdict.misrouted += expected != route
                    if inputs[record.value] == 1:
                        self.verdict.disordered += place[record.value] < last
                        last = place[record.value]
        if STEP == 1:  # begins at the end of the topic: what was there before its first record is no fault's doing
            first = min((place[data] for data in outputs if data in place), default=0)
            inputs = Counter({data: count for data, count in inputs.items() if place[data] >= first})
        self.lost_places += [(partition, place[data]) for data in inputs - outputs]
        missing = len(hostile) - len(dead) - routed
        self.hostile += len(hostile)
        self.verdict.checked += inputs.total() + len(hostile)
        self.verdict.lost += (inputs - outputs).total() + max(0, missing)
        self.verdict.doubled += (outputs - inputs).total() + max(0, -missing) + dead.total() - len(dead)
