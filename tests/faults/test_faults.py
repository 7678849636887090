"""Nothing lost, nothing doubled, nothing on the wrong side, nothing out of order, whatever fails meanwhile."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from kafka import KafkaAdminClient
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ConfigResource,
    ConfigResourceType,
    ResourcePattern,
    ResourceType,
)

from detector.tests.corpus import CORPUS
from embedded import Cluster, Line
from embedded.cluster import free_ports
from embedded.pipeline import Pipeline
from embedded.secure import SecuredCluster
from embedded.service import Restarted, wait_until
from faults.steps import PARTITIONS, PROMISES_EXACTLY_ONCE, STEP
from faults.trial import WEIGHTS, Trial, Verdict
from harness import wait_for_shares
from identity_provider import guarded_cluster

pytestmark = pytest.mark.guarantee


@pytest.fixture(autouse=True)
def can_be_put_through(request: pytest.FixtureRequest) -> None:
    """Skip a test that is about the engine alone, or about what an earlier step does not have."""
    mark = request.node.get_closest_marker("from_step")
    if STEP and not (mark and mark.args[0] <= STEP):
        pytest.skip(f"not for step {STEP}")


@pytest.fixture
def trial(cluster: Cluster, request: pytest.FixtureRequest, seed: int) -> Iterator[Trial]:
    """A trial with three partitions on the cluster of the run; the test's name names the fault."""
    name = request.node.name.removeprefix("test_").replace("_", " ")
    with Trial(name, Pipeline(cluster.bootstrap_servers, partitions=PARTITIONS), seed) as running:
        yield running


def judge(trial: Trial, verdicts: list[Verdict], *exit_codes: int) -> None:
    """Look up every record; nothing may be wrong. The exit codes of 0, 1 and SIGKILL are allowed, and these."""
    verdict = trial.finish()
    verdicts.append(verdict)
    logs = "\n".join(instance.log for instance in trial.instances)
    print(logs)
    assert verdict.checked > 0
    if not PROMISES_EXACTLY_ONCE:
        assert STEP == 1 or verdict.lost == verdict.misrouted == 0, f"{verdict}\n{logs}"
        return
    if STEP:
        exit_codes += (-signal.SIGALRM,)
    assert verdict.wrong == 0, f"{verdict}\n{logs}"
    for instance in trial.instances:
        assert "Traceback" not in instance.log
        assert set(instance.exit_codes) <= {0, 1, -signal.SIGKILL, *exit_codes}, logs


@pytest.mark.from_step(1)
def test_malformed_records(trial: Trial, rounds: int, verdicts: list[Verdict]) -> None:
    """One record in twenty is no transaction, and nothing else goes wrong."""
    trial.weights = WEIGHTS
    trial.start()
    for _ in range(3 * rounds):
        trial.settle()
    judge(trial, verdicts)


@pytest.mark.from_step(1)
def test_detector_killed(trial: Trial, rounds: int, verdicts: list[Verdict]) -> None:
    """SIGKILL at a random moment, and started again."""
    detector = trial.start()
    for _ in range(2 * rounds):
        trial.settle()
        with trial.fault():
            os.kill(detector.pid, signal.SIGKILL)
    judge(trial, verdicts)


@pytest.mark.from_step(2)
@pytest.mark.parametrize("moment", ["before", "after"])
def test_detector_killed_at_commit(trial: Trial, rounds: int, verdicts: list[Verdict], moment: str) -> None:
    """SIGKILL while the broker shows the transaction open, or right when it shows it completed."""
    if STEP == 2 and moment == "after":
        pytest.skip("step 2 has no transaction that takes a while to complete")
    states = {"before": ("Ongoing",), "after": ("PrepareCommit", "CompleteCommit")}[moment]
    detector = trial.start()
    with trial.pipeline.admin() as admin:
        for _ in range(rounds):
            trial.settle()
            with trial.fault():
                if STEP == 2:  # which has no transaction
                    trial.kill_before_commit(detector)
                    continue
                deadline = time.monotonic() + 120
                while state(admin, f"{trial.pipeline.name}-0") not in states:  # without a pause: it lasts milliseconds
                    assert time.monotonic() < deadline, detector.log
                os.kill(detector.pid, signal.SIGKILL)
    judge(trial, verdicts)


def state(admin: KafkaAdminClient, transactional_id: str) -> str:
    """Return the state of a transaction, as the broker has it."""
    return str(admin.describe_transactions([transactional_id])[transactional_id].state.value)


@pytest.mark.from_step(1)
def test_detector_stopped(trial: Trial, rounds: int, verdicts: list[Verdict]) -> None:
    """SIGTERM, exit code 0, and started again."""
    detector = trial.start()
    for _ in range(2 * rounds):
        trial.settle()
        service = detector.service
        with trial.fault():
            service.process.send_signal(signal.SIGTERM)
        assert service.wait() == (0 if STEP != 1 else -signal.SIGTERM)
    judge(trial, verdicts)


@pytest.mark.from_step(2)
def test_zombie(trial: Trial, rounds: int, verdicts: list[Verdict]) -> None:
    """SIGSTOP until another instance has taken over, then SIGCONT: the old one ends or rejoins, and adds nothing."""
    one, two = trial.start(), trial.start()
    for n in range(rounds):
        trial.settle()
        pid = (one if n % 2 else two).pid
        with trial.fault():
            os.kill(pid, signal.SIGSTOP)
            wait_for_shares(trial.pipeline, 3)
        os.kill(pid, signal.SIGCONT)
        trial.wait_for_progress()
        wait_for_shares(trial.pipeline, 1, 2)
    judge(trial, verdicts)


@pytest.mark.from_step(2)
def test_rescale(trial: Trial, rounds: int, verdicts: list[Verdict]) -> None:
    """1, then 3, then 2 instances, while records flow."""
    trial.start()
    for _ in range(rounds):
        trial.settle()
        with trial.fault():
            more = [trial.start(), trial.start()]
            wait_for_shares(trial.pipeline, 1, 1, 1)
        with trial.fault():
            assert more[0].end() == 0
            wait_for_shares(trial.pipeline, 1, 2)
        assert more[1].end() == 0
    judge(trial, verdicts)


@pytest.mark.from_step(1)
@pytest.mark.parametrize(
    "how", ["killed", *(pytest.param(how, marks=pytest.mark.long) for how in ("restarted", "paused"))]
)
def test_broker(trial: Trial, cluster: Cluster, rounds: int, verdicts: list[Verdict], how: str) -> None:
    """The only broker is restarted in order, killed, or does not answer for longer than the clients wait."""
    trial.start()
    broker = cluster.brokers[0]
    for _ in range(rounds):
        trial.settle()
        with trial.fault():
            if how == "paused":
                broker.pause()
                time.sleep(trial.random.uniform(8, 12))
                broker.resume()
            else:
                (broker.stop if how == "restarted" else broker.kill)()
                broker.start()
                broker.wait_ready()
    judge(trial, verdicts)


def kill_broker_behind_a_guard(trial: Trial, cluster: Cluster, environ: dict[str, str], rounds: int) -> None:
    """Kill the only broker; the detector has to encrypt, authenticate and be allowed anew."""
    trial.start(**environ)
    for _ in range(rounds):
        trial.settle()
        with trial.fault():
            cluster.brokers[0].kill()
            cluster.brokers[0].start()
            cluster.brokers[0].wait_ready()


def test_broker_killed_behind_tls_and_scram(line: Line, rounds: int, verdicts: list[Verdict], seed: int) -> None:
    """The only broker is killed; it wants encryption and a password."""
    with SecuredCluster(line=line) as cluster:
        pipeline = Pipeline(cluster.bootstrap_servers, partitions=PARTITIONS)
        allow_everything(pipeline, "detector")
        with Trial("broker killed behind TLS and SCRAM", pipeline, seed) as trial:
            kill_broker_behind_a_guard(trial, cluster, cluster.environ("detector"), rounds)
            judge(trial, verdicts)


@pytest.mark.long
def test_broker_killed_behind_tokens(line: Line, rounds: int, verdicts: list[Verdict], seed: int) -> None:
    """The only broker is killed; it wants a token, and another one after a few seconds."""
    with guarded_cluster(line, token_seconds=20, session_seconds=5) as guarded:
        pipeline = Pipeline(guarded.cluster.bootstrap_servers, partitions=PARTITIONS)
        with Trial("broker killed behind OAUTHBEARER", pipeline, seed) as trial:
            kill_broker_behind_a_guard(trial, guarded.cluster, guarded.environ(), rounds)
            judge(trial, verdicts)


def allow_everything(pipeline: Pipeline, user: str) -> None:
    """Let a user do whatever concerns topics, groups and transactions; tests/test_rights.py has the least rights."""
    kinds = (ResourceType.TOPIC, ResourceType.GROUP, ResourceType.TRANSACTIONAL_ID)
    allowed = (f"User:{user}", "*", ACLOperation.ALL, ACLPermissionType.ALLOW)
    with pipeline.admin() as admin:
        assert not admin.create_acls([ACL(*allowed, ResourcePattern(kind, "*")) for kind in kinds])["failed"]


@pytest.mark.from_step(1)
@pytest.mark.zookeeper
def test_zookeeper_restarted(trial: Trial, cluster: Cluster, rounds: int, verdicts: list[Verdict]) -> None:
    """ZooKeeper goes and comes back under load."""
    trial.start()
    for _ in range(rounds):
        trial.settle()
        with trial.fault():
            cluster.zookeeper.restart()
    judge(trial, verdicts)


def configure(trial: Trial, topic: str, name: str, value: str) -> None:
    """Set a topic's configuration."""
    with trial.pipeline.admin() as admin:
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {name: value})])


def says(detector: Restarted, text: str, since: int) -> None:
    """Wait until a detector has printed the text, after so many characters."""
    wait_until(lambda: text in detector.log[since:], 120, lambda: detector.log)


def test_topic_refuses_the_size(trial: Trial, rounds: int, verdicts: list[Verdict]) -> None:
    """An output topic takes no record of that size: the detector says so, and carries on once it is mended."""
    detector = trial.start()
    for _ in range(rounds):
        trial.settle()
        since = len(detector.log)
        with trial.fault():
            configure(trial, trial.pipeline.fraud, "max.message.bytes", "100")
            says(detector, "MessageSizeTooLarge", since)
            says(detector, "Kafka failed, ending", since)
            configure(trial, trial.pipeline.fraud, "max.message.bytes", "1000000")
    judge(trial, verdicts, 2)  # when it starts again before that


@pytest.mark.long
def test_topic_lacks_replicas(line: Line, rounds: int, verdicts: list[Verdict], seed: int) -> None:
    """An output topic has too few replicas in sync: the detector says so, and carries on once there are enough."""
    with Cluster(brokers=3, line=line) as cluster:  # of two, none could be missing: they are controllers, too
        pipeline = Pipeline(cluster.bootstrap_servers, partitions=PARTITIONS)
        with Trial("topic lacks replicas", pipeline, seed) as trial:
            pipeline.create(pipeline.fraud, min_insync_replicas="3")
            detector = trial.start()
            for _ in range(rounds):
                trial.settle()
                since = len(detector.log)
                with trial.fault():
                    cluster.brokers[1].stop()
                    # Either from a send, or from the start, where the transaction before cannot be ended.
                    says(detector, "eplicas", since)
                    says(detector, "ending", since)
                    cluster.brokers[1].start()
                    cluster.brokers[1].wait_ready()
            judge(trial, verdicts)


def test_deleted_topic(trial: Trial, rounds: int, verdicts: list[Verdict]) -> None:
    """An output topic is deleted: it is created again, and what comes after that is all there."""
    trial.start()
    trial.settle()
    # What was in the topic is gone, and no fault of the detector's: only what follows is looked up.
    with trial.fault(), trial.pipeline.admin() as admin:
        admin.delete_topics([trial.pipeline.dead_letter])
    wait_until(lambda: trial.pipeline.count(trial.pipeline.dead_letter) > 0, 120)
    since = {record.partition: record.offset or 0 for record in trial.pipeline.read(trial.pipeline.transactions)}
    verdict = trial.finish()
    assert all(offset <= since[partition] for partition, offset in trial.lost_places)
    verdict.fault += f" ({verdict.lost} records with it)"
    verdict.lost = 0
    verdicts.append(verdict)
    assert verdict.hanging == verdict.doubled == verdict.misrouted == verdict.disordered == 0


class Proxy:
    """A TCP proxy before a broker, which can hold back or cut what goes through it."""

    def __init__(self, port: int, target: int) -> None:
        self.target = target
        self.delay = 0.0
        self.open = threading.Event()
        self.open.set()
        self._sockets: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                continue
            self._sockets += [client, server]
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=self._copy, args=(one, other), daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                self.open.wait()
                time.sleep(self.delay)
                target.sendall(data)
        except OSError:
            pass
        for one in (source, target):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def cut(self) -> None:
        """End all connections, in the middle of whatever they carry."""
        for one in self._sockets:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self._sockets.clear()


@contextmanager
def proxied(line: Line) -> Iterator[tuple[Cluster, Proxy]]:
    """A broker that has a second listener, at which it advertises a proxy."""
    direct, behind, front = free_ports(3)
    config = {
        "listeners": f"PLAINTEXT://127.0.0.1:{direct},PROXIED://127.0.0.1:{behind}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{direct},PROXIED://127.0.0.1:{front}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
    }
    with Cluster(port=direct, config=config, line=line) as cluster:
        yield cluster, Proxy(front, behind)


@pytest.mark.from_step(1)
def test_network(line: Line, rounds: int, verdicts: list[Verdict], seed: int) -> None:
    """Connections between detector and broker are cut, slow, or open with nothing coming through."""
    with proxied(line) as (cluster, proxy):
        front = proxy._server.getsockname()[1]
        with Trial(
            "network cut, slow, half-open", Pipeline(cluster.bootstrap_servers, partitions=PARTITIONS), seed
        ) as trial:
            trial.start(KAFKA_BROKER_URL=f"127.0.0.1:{front}")
            for _ in range(rounds):
                trial.settle()
                with trial.fault():
                    proxy.cut()
                trial.settle()
                with trial.fault():
                    proxy.delay = 0.5
                    time.sleep(5)
                    proxy.delay = 0.0
                trial.settle()
                with trial.fault():
                    proxy.open.clear()
                    time.sleep(trial.random.uniform(8, 12))
                    proxy.cut()
                    proxy.open.set()
            judge(trial, verdicts)


@pytest.mark.from_step(2)
def test_hostile_values(trial: Trial, rounds: int, verdicts: list[Verdict]) -> None:
    """The corpus mixed into the stream, while the detector is killed."""
    trial.extra |= {case.value: case.expected for case in CORPUS}
    detector = trial.start()
    for _ in range(2 * rounds):
        trial.settle()
        with trial.fault():
            os.kill(detector.pid, signal.SIGKILL)
    judge(trial, verdicts)


def test_hostile_batches(trial: Trial, cluster: Cluster, rounds: int, verdicts: list[Verdict]) -> None:
    """Batches that no client writes, all the time, while the detector is killed and frozen, and the broker killed."""
    trial.attack()
    detector = trial.start()
    for _ in range(rounds):
        trial.settle()
        with trial.fault():
            os.kill(detector.pid, signal.SIGKILL)
        trial.settle()
        with trial.fault():
            cluster.brokers[0].kill()
            cluster.brokers[0].start()
            cluster.brokers[0].wait_ready()
        trial.settle()
        pid = detector.pid
        with trial.fault():
            os.kill(pid, signal.SIGSTOP)
            wait_for_shares(trial.pipeline)  # none: Kafka takes it for dead
            os.kill(pid, signal.SIGCONT)
    judge(trial, verdicts)
    assert trial.hostile > 500


@pytest.mark.from_step(1)
@pytest.mark.skipif(not os.environ.get("ROUNDS"), reason="for the long mode: make test-faults")
def test_three_brokers_bounced_in_turn(line: Line, verdicts: list[Verdict], seed: int, rounds: int) -> None:
    """With three brokers, three copies and two in sync at least, each is killed and restarted in turn."""
    name = "three brokers, bounced in turn"
    with (
        Cluster(brokers=3, line=line) as cluster,
        Trial(name, Pipeline(cluster.bootstrap_servers, partitions=PARTITIONS), seed) as trial,
    ):
        trial.start()
        for n in range(rounds):
            for broker in cluster.brokers:
                trial.settle()
                with trial.fault():
                    (broker.kill if n % 2 else broker.stop)()
                    broker.start()
                    broker.wait_ready()
        judge(trial, verdicts)


@pytest.mark.from_step(1)
@pytest.mark.parametrize(
    "how", ["killed", *(pytest.param(how, marks=pytest.mark.long) for how in ("restarted", "frozen"))]
)
def test_one_broker_of_three(rounds: int, verdicts: list[Verdict], seed: int, how: str) -> None:
    """It is killed, restarted in order, or frozen for less than a transaction may take: nothing is lost or doubled.

    How long the outputs stand still is in the table, and no reason to fail: a busy machine decides on it. So it does on
    whether a detector has to end: it does so with exit code 1, and is started again.
    """
    name = f"one broker of three {how}"
    with (
        Cluster(brokers=3) as cluster,
        Trial(name, Pipeline(cluster.bootstrap_servers, partitions=PARTITIONS), seed) as trial,
    ):
        detector = trial.start()
        for n in range(3 * rounds):
            broker = cluster.brokers[n % 3]
            trial.settle()
            with trial.fault():
                if how == "frozen":
                    broker.pause()
                    time.sleep(trial.random.uniform(2, 4))
                    broker.resume()
                else:
                    (broker.kill if how == "killed" else broker.stop)()
            if how != "frozen":
                broker.start()
            broker.wait_ready()
        judge(trial, verdicts)
        if not STEP:
            assert set(detector.exit_codes) <= {1}, detector.log
