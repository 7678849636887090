"""Each ring and each large fraud is told exactly once, whatever fails meanwhile; an oracle over the log says which."""

import json
import os
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Iterator

import pytest
from kafka import TopicPartition
from kafka.errors import KafkaError

from embedded import Cluster, records
from embedded.pipeline import Pipeline
from embedded.records import Record
from embedded.service import Restarted, Service, wait_until
from faults.test_faults import state
from faults.trial import RECORDS_PER_SECOND, Audit, Trial
from harness import shares, transaction
from ring_oracle import in_any_order

HOUR = 3_600_000
SOURCES, HOURS = 5, 2
AMOUNTS = ["1000", "1000.0", "1e3", "1000.01", "999.99", "900"]
LARGE = 1000.01
REPLAYED = 20_000


class SmurfingTrial(Trial):
    """Detectors of smurfing under load: what is written is fraud, and what comes out are candidates and alerts."""

    def __init__(self, fault: str, pipeline: Pipeline, seed: int) -> None:
        pipeline.routes = {name: f"{pipeline.name}.{name}" for name in ("candidates", "alerts")}
        super().__init__(fault, pipeline, seed)
        self.candidates, self.alerts = pipeline.outputs
        self.audit = Audit(fault)

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        print(*(instance.log for instance in self.instances), sep="\n")  # for whoever looks into a failure

    def start(self, **environ: str) -> Restarted:
        """Start one more instance, which is started again as Compose would."""
        environ = {
            "FRAUD_TOPIC": self.pipeline.transactions,
            "SMURFING_SOURCES": str(SOURCES),
            "SMURFING_HOURS": str(HOURS),
            "ALERT_AMOUNT": str(LARGE),
            "TRANSACTIONAL_ID": f"{self.pipeline.name}-{len(self.instances)}",
        } | environ
        variables = self.pipeline.environ("detector", **environ)
        instance = Restarted(lambda: Service("smurfing", variables))
        self.instances.append(instance)
        return instance

    def _write(self) -> None:
        draw = random.Random(self.verdict.fault)
        now, producer = int(time.time() * 1000), self._producer()
        for n in range(10**9):
            if not self._writing:
                break
            # Of each receiver some 40 candidates, in any order and in all partitions.
            members = {"source": f"account {draw.randrange(8)}", "target": f"{n // 2000}-{draw.randrange(20)}", "n": n}
            currency, amount = draw.choice(["EUR", "EUR", "eur", "USD"]), draw.choice(AMOUNTS)
            data = transaction(0, **members, currency=currency).replace(b'"amount": 0', f'"amount": {amount}'.encode())
            place = {
                "partition": draw.randrange(self.pipeline.partitions),
                "timestamp_ms": now - draw.randrange(12 * HOUR),
            }
            try:
                producer.send(self.pipeline.transactions, data, **place)
            except KafkaError:
                time.sleep(0.5)
            if n % 20 == 0:
                time.sleep(20 / RECORDS_PER_SECOND)
        producer.flush(30)
        producer.close(timeout=1)

    def lag(self, topic: str) -> int:
        """Return how many offsets of a topic are not committed yet."""
        with self.pipeline._consumer(group_id=self.pipeline.name, enable_auto_commit=False) as consumer:
            return records.lag(consumer, topic)

    def drain(self, seconds: float = 240) -> None:
        """Wait until all is committed that was written, and what came of it. Raises TimeoutError."""
        topics = (self.pipeline.transactions, self.candidates)
        logs = lambda: "".join(instance.log for instance in self.instances)  # noqa: E731
        wait_until(lambda: sum(map(self.lag, topics)) == 0, seconds, logs)

    def wait_for_members(self, count: int) -> None:
        """Wait until the group is stable with so many instances."""
        wait_until(lambda: len(shares(self.pipeline)) == count, 120, lambda: f"the shares are {shares(self.pipeline)}")

    def restart_into_replay(self, detector: Restarted) -> None:
        """Stop a detector, and wait until it is back and counts again."""
        before = detector.service
        detector.service.process.send_signal(signal.SIGTERM)
        wait_until(
            lambda: detector.service is not before and "counted again" in detector.service.log,
            240,
            lambda: detector.log,
        )

    def check(self) -> Audit:
        """Stop writing, wait for what comes out, and compare it with what the oracle makes of the log."""
        self._writing = False
        self._writer.join(60)
        self.drain()
        log = self.pipeline.read(self.candidates)
        frauds = self.pipeline.read(self.pipeline.transactions)
        of_amount = [r for r in frauds if json.loads(r.value or b"")["amount"] == 1000]
        said = [(json.loads(r.value or b""), r.timestamp) for r in of_amount]
        sent = Counter((f["target"], f["currency"].upper(), f["source"], at or 0) for f, at in said)
        transfers = defaultdict(list)
        for record in log:
            currency, _, source = (record.value or b"").decode().partition(" ")
            transfers[(record.key or b"").decode(), currency].append((record.timestamp or 0, source))
        assert Counter((*r, source, at) for r, those in transfers.items() for at, source in those) == sent
        expected = Counter(
            (*receiver, *ring)
            for receiver, log in transfers.items()
            for _, ring in in_any_order(log, SOURCES, HOURS * HOUR)
        )
        told = [json.loads(record.value or b"") for record in self.pipeline.read(self.alerts)]
        alerts = [alert for alert in told if alert["rule"] == "smurfing"]
        large = Counter(
            f"fraud-{r.partition}-{r.offset}" for r in frauds if json.loads(r.value or b"")["amount"] >= LARGE
        )
        seen_large = Counter(alert["id"] for alert in told if alert["rule"] == "amount")
        seen = Counter(
            (a["target"], a["currency"], a["sources"], a["sum"] // 1000, a["first"], a["last"]) for a in alerts
        )
        assert len({alert["id"] for alert in alerts}) == len(seen)
        audit = self.audit
        audit.rounds, audit.transfers = self.verdict.rounds, len(log)
        audit.expected, audit.seen = (expected + large).total(), len(told)
        audit.missing = (expected - seen + (large - seen_large)).total()
        audit.doubled = (seen - expected + (seen_large - large)).total()
        logs = "\n".join(instance.log for instance in self.instances)
        assert expected.total() > 0 < large.total()
        assert audit.missing == audit.doubled == 0, f"{audit}\n{logs}"
        for instance in self.instances:
            assert "Traceback" not in instance.log
            # One that has just started ends by SIGTERM itself.
            assert set(instance.exit_codes) <= {0, 1, -signal.SIGKILL, -signal.SIGTERM}, logs
        return audit


@pytest.fixture
def trial(cluster: Cluster, request: pytest.FixtureRequest, seed: int) -> Iterator[SmurfingTrial]:
    """A trial with three partitions; the test's name names the fault."""
    name = request.node.name.removeprefix("test_").replace("_", " ")
    with SmurfingTrial(name, Pipeline(cluster.bootstrap_servers, partitions=3), seed) as running:
        yield running


def test_killed(trial: SmurfingTrial, rounds: int, audits: list[Audit]) -> None:
    """SIGKILL at a random moment, while a transaction is open, or right when it is completed."""
    detector = trial.start()
    with trial.pipeline.admin() as admin:
        for _ in range(2 * rounds):
            trial.settle()
            states = trial.random.choice([(), ("Ongoing",), ("PrepareCommit", "CompleteCommit")])
            with trial.fault():
                deadline = time.monotonic() + 120
                while states and state(admin, f"{trial.pipeline.name}-0") not in states:
                    assert time.monotonic() < deadline, detector.log
                detector.service.process.send_signal(signal.SIGKILL)
    audits.append(trial.check())


@pytest.mark.long
def test_disturbed_in_the_replay(trial: SmurfingTrial, rounds: int, audits: list[Audit]) -> None:
    """Killed, stopped, or joined by another instance, while what is there is counted again."""
    many = (Record(transaction(1000, target=f"receiver {n}", n=n), partition=n % 3) for n in range(REPLAYED))
    trial.pipeline.write(many)
    detector = trial.start()
    wait_until(lambda: trial.lag(trial.candidates) < 100 < trial.pipeline.count(trial.alerts), 240)
    for _ in range(rounds):
        for number in (signal.SIGKILL, signal.SIGTERM):
            with trial.fault():
                trial.restart_into_replay(detector)
                detector.service.process.send_signal(number)
        with trial.fault():
            trial.restart_into_replay(detector)
            other = trial.start()
            trial.wait_for_members(2)
        assert other.end() == 0
    audits.append(trial.check())


@pytest.mark.long
def test_zombie(trial: SmurfingTrial, rounds: int, audits: list[Audit]) -> None:
    """SIGSTOP until another instance has taken over, then SIGCONT: the old one ends or rejoins, and adds nothing."""
    instances = trial.start(), trial.start()
    trial.wait_for_members(2)
    for n in range(rounds):
        trial.settle()
        pid = instances[n % 2].pid
        with trial.fault():
            os.kill(pid, signal.SIGSTOP)
            trial.wait_for_members(1)
        os.kill(pid, signal.SIGCONT)
        trial.wait_for_progress()
        trial.wait_for_members(2)
    audits.append(trial.check())


@pytest.mark.long
def test_rescale(trial: SmurfingTrial, rounds: int, audits: list[Audit]) -> None:
    """1, then 3, then 2 instances, while transfers flow."""
    trial.start()
    for _ in range(rounds):
        trial.settle()
        with trial.fault():
            more = [trial.start(), trial.start()]
            trial.wait_for_members(3)
        with trial.fault():
            assert more[0].end() == 0
            trial.wait_for_members(2)
        assert more[1].end() == 0
    audits.append(trial.check())


def test_the_head_expires(cluster: Cluster) -> None:
    """What Kafka has deleted does not count any more, whether it was counted before or not; all else goes on."""
    with SmurfingTrial("the head expires", Pipeline(cluster.bootstrap_servers, partitions=3), 0) as trial:
        trial._writing = False
        old = int(time.time() * 1000) - 3 * 24 * HOUR
        trial.pipeline.create(trial.candidates, partitions=2, retention_ms="-1")  # is taken as it is
        trial.pipeline.write(ring("told", SOURCES, old))
        trial.pipeline.write(ring("half", SOURCES - 1, old))
        detector = trial.start()
        wait_until(lambda: trial.pipeline.count(trial.alerts) > 0, 240, lambda: detector.log)
        trial.drain()
        assert detector.end() == 0
        before = trial.lag(trial.candidates)  # a marker may have come after the last commit
        # One that no instance has counted yet.
        uncounted = Record(b"EUR account 0", b"half", timestamp=old)
        records.write(trial.pipeline.broker_url, trial.candidates, [uncounted])
        assert trial.lag(trial.candidates) == before + 1
        with trial.pipeline.admin() as admin:
            partitions = [TopicPartition(trial.candidates, p) for p in range(2)]
            admin.delete_records(dict.fromkeys(partitions, -1))
        trial.pipeline.write(ring("half", 1, old + 1))
        trial.pipeline.write(ring("told", SOURCES, old + 24 * HOUR))
        detector = trial.start()
        trial.drain()
        wait_until(lambda: len(trial.pipeline.read(trial.alerts)) == 2, 240, lambda: detector.log)
        assert "offsets are lost" in detector.log
        assert [json.loads(r.value or b"")["target"] for r in trial.pipeline.read(trial.alerts)] == ["told", "told"]


def ring(target: str, sources: int, start: int) -> list[Record]:
    """Return transfers from so many accounts to one, a minute between them, in all partitions."""
    data = [transaction(1000, source=f"account {n}", target=target) for n in range(sources)]
    return [Record(value, timestamp=start + n * 60_000, partition=n % 3) for n, value in enumerate(data)]
