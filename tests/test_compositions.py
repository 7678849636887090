"""The two compositions and the Makefile as people use them: on a real Docker engine, with Compose v2 and with v1.

Each version has one bring-up, which its tests share and use in their order. They have a Compose project of their own,
but the network's name and the host's port are fixed: where somebody uses these, the tests are skipped. So they are
where there is no Docker engine or no such Compose; with REQUIRE_DOCKER=1 in the environment they fail instead.
"""

import fcntl
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import pytest
from kafka import KafkaConsumer, TopicPartition

from harness import ROOT, Pipeline, wait_until

PROJECT = "fraudtest"
NETWORK = "kafka-network"
HOST_PORT = 29092
V2, V1 = "docker compose", "docker-compose"
KAFKA = "-f docker-compose.kafka.yml"
SERVICES = ("detector", "generator")
CLUSTER = ("broker", "zookeeper")
DATA_PATHS = {
    f"{PROJECT}_broker-data": "/var/lib/kafka/data",
    f"{PROJECT}_zookeeper-data": "/var/lib/zookeeper/data",
    f"{PROJECT}_zookeeper-log": "/var/lib/zookeeper/log",
}
CORPUS = ROOT / "detector" / "tests" / "corpus.jsonl"
DECIDE = """
import base64, json, sys
from rule import decide
for line in sys.stdin:
    value = json.loads(line)["value_b64"]
    print(decide(None if value is None else base64.b64decode(value))[0].replace(" ", "_"))
"""
ENGINE_TARGETS = ["network", "kafka", "up", "down", "logs", "ps", "topics", "consume", "scale", "clean", "network-rm"]


@dataclass
class TutorialPipeline(Pipeline):
    """The topics and the group that the compositions name."""

    broker_url: str = f"localhost:{HOST_PORT}"
    partitions: int = 4
    name: str = "fraud-detector"

    def __post_init__(self) -> None:
        self.transactions = "queueing.transactions"
        self.legit = "streaming.transactions.legit"
        self.fraud = "streaming.transactions.fraud"
        self.dead_letter = "streaming.transactions.dead-letter"
        self.outputs = (self.legit, self.fraud, self.dead_letter)

    def ends(self) -> dict[TopicPartition, int]:
        """Return the end of every partition on the cluster, those of Kafka's own topics included."""
        consumer = KafkaConsumer(bootstrap_servers=self.broker_url)
        with self.admin() as admin:
            topics = admin.list_topics()
        ends = consumer.end_offsets(
            [TopicPartition(t, p) for t in topics for p in consumer.partitions_for_topic(t) or ()]
        )
        consumer.close()
        return dict(ends)

    def cluster_id(self) -> str:
        """Return the id that the cluster gave itself at its first start."""
        with self.admin() as admin:
            return str(admin.describe_cluster()["cluster_id"])


@dataclass
class Stack:
    """Both compositions under one Compose command."""

    command: str
    output: str = field(default="", repr=False)
    """What the commands of the first bring-up have printed."""
    volumes: set[str] = field(default_factory=set)
    """The names of all volumes that a container of ours has had so far, anonymous ones included."""
    images: set[str] = field(default_factory=set)
    """The ids of all images of our services so far."""

    @property
    def terminal(self) -> str:
        """The command, printing what it prints on a terminal: elsewhere v1 does not mark its warnings as such."""
        return self.command + (" --ansi always" if self.command == V1 else "")

    def compose(self, arguments: str, before: str = "", ignore_orphans: bool = True) -> str:
        """Run Compose, with something before it on the command line, and return what it printed; fail if it failed."""
        # v2 finds the variable in .env.
        orphans = "COMPOSE_IGNORE_ORPHANS=true" if self.command == V1 and ignore_orphans else ""
        return run(f"{before} {orphans} {self.terminal} {arguments}")

    def quiet(self, arguments: str, before: str = "") -> str:
        """Run Compose and return what it printed; fail if it failed or complained."""
        self.note()
        output = self.compose(arguments, before)
        assert complaints(output) == []
        return output

    def make(self, target: str, quiet: bool = True) -> str:
        """Run make as its user does, and return what it printed; fail if it failed or, unless allowed, complained."""
        self.note()
        output = run(f"make {target}" if self.command == V2 else f"make COMPOSE='{self.terminal}' {target}")
        assert not quiet or complaints(output) == []
        return output

    def kafka(self, tool: str, before: str = "") -> str:
        """Run a tool of Kafka's in the broker's container, as the tutorial does."""
        name, arguments = tool.split(maxsplit=1)
        return self.compose(f"{KAFKA} exec -T broker {name} --bootstrap-server localhost:9092 {arguments}", before)

    def consume(self, topic: str, messages: int, options: str = "") -> list[str]:
        """Return so many lines of kafka-console-consumer, from the topic's beginning."""
        arguments = f"--topic {topic} --from-beginning --max-messages {messages} --timeout-ms 30000 {options}"
        # What it says of itself comes by another way, and so at any place between its lines.
        lines = self.kafka(f"kafka-console-consumer {arguments} 2>/dev/null").splitlines()
        assert len(lines) == messages
        return lines

    def note(self) -> None:
        """Remember the volumes and images that are in use now."""
        for container in containers():
            self.volumes |= {mount["Name"] for mount in container["Mounts"] if mount["Type"] == "volume"}
            if service(container) in SERVICES:
                self.images.add(container["Image"])

    def wait_healthy(self, *names: str) -> None:
        """Wait until the containers of these services are healthy."""

        def states() -> list[tuple[str, str]]:
            return [(service(c), c["State"]["Health"]["Status"]) for c in containers(*names)]

        wait_until(lambda: sorted(states()) == [(n, "healthy") for n in sorted(names)], 90, lambda: str(states()))

    def wait_for(self, name: str, pattern: str) -> None:
        """Wait until every container of this service has printed, since its last start, what matches the pattern."""

        def logs() -> list[str]:
            return [run(f"docker logs --since {c['State']['StartedAt']} {c['Id']}") for c in containers(name)]

        def printed() -> bool:
            found = [re.search(pattern, log) for log in logs()]
            return len(found) > 0 and all(found)

        wait_until(printed, 60, lambda: "\n".join(logs()))

    def assert_each_in_one_output(self, pipeline: TutorialPipeline) -> None:
        """Stop the generator, let the detector drain, and see that every input record is in exactly one output."""
        self.quiet("stop generator")
        pipeline.drain()
        inputs = [record._replace(offset=None, headers=()) for record in pipeline.read(pipeline.transactions)]
        outputs = [r._replace(offset=None, headers=()) for topic in pipeline.outputs for r in pipeline.read(topic)]
        assert len(outputs) == len(inputs) > 0
        assert Counter(outputs) == Counter(inputs)


# --- the engine ---


def run(command: str, code: int = 0) -> str:
    """Run a command line of a user's in the project's folder and return what it printed; see that it ends so."""
    # Our project, and otherwise nothing that the caller's shell, or a make that runs the tests, says to Compose.
    files = [ROOT / "docker-compose.yml", ROOT / "docker-compose.kafka.yml"]
    variables = {name for file in files for name in re.findall(r"\$\{(\w+)", file.read_text())}
    clean = {k: v for k, v in os.environ.items() if k not in variables and not re.match("COMPOSE|MAKE|MFLAGS|TOPIC", k)}
    ended = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=ROOT,
        env=clean | {"COMPOSE_PROJECT_NAME": PROJECT},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == code, f"{command}: exit code {ended.returncode}\n{ended.stdout}"
    # Without colours, and with a line of its own for each that would be written over the one before.
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", ended.stdout).replace("\r", "\n")


def complaints(output: str) -> list[str]:
    """Return the warnings and errors in what Compose has printed."""
    # Not those in the lines of a build, which are pip's and the like.
    words = r"^(?!#\d+ ).*\b(warn|warning|error|failed|deprecated|obsolete|orphan)\b"
    return [line for line in output.splitlines() if re.search(words, line, re.I)]


def inspect(kind: str, names: Collection[str]) -> list[dict[str, Any]]:
    """Return what the engine says of those of these containers, volumes, ... that exist."""
    command = ["docker", kind, "inspect", *names]
    return json.loads(subprocess.run(command, capture_output=True, check=False).stdout or "[]") if names else []


def containers(*names: str) -> list[dict[str, Any]]:
    """Return what the engine says of our containers, running or not: of all, or of those of these services."""
    ids = run(f"docker ps --all --quiet --filter label=com.docker.compose.project={PROJECT}").split()
    return [container for container in inspect("container", ids) if not names or service(container) in names]


def service(container: dict[str, Any]) -> str:
    """Return the name of the container's service."""
    return str(container["Config"]["Labels"]["com.docker.compose.service"])


def unable(reason: str) -> NoReturn:
    """Skip for this reason, or fail where a Docker engine has been promised."""
    if os.environ.get("REQUIRE_DOCKER") == "1":
        pytest.fail(f"{reason} (REQUIRE_DOCKER=1)", pytrace=False)
    pytest.skip(reason)


def succeeds(command: str) -> bool:
    """Return whether the command can be run and ends well."""
    return subprocess.run(shlex.split(command), capture_output=True, check=False).returncode == 0


def check_installed(*tools: str) -> None:
    """Skip where one of these commands is missing."""
    missing = [tool for tool in tools if not shutil.which(tool)]
    if missing:
        unable(f"not installed: {' and '.join(missing)}")


def check_engine(command: str) -> None:
    """Skip where no engine answers or this Compose is missing."""
    check_installed("docker", "make")
    if not succeeds("docker info"):
        unable("no Docker engine answers 'docker info'")
    if command == V2 and not succeeds("docker compose version"):
        unable("not installed: Compose v2 ('docker compose')")
    # Docker's own packages have a v2 under the name of v1.
    if command == V1 and not (shutil.which(V1) and run("docker-compose version --short").startswith("1.")):
        unable("not installed: Compose v1 ('docker-compose' 1.x)")


def check_unused() -> None:
    """Skip where others use the network or the port; what is left there of an earlier run of ours must be gone."""
    others = run(f"docker ps --all --filter network={NETWORK} --format '{{{{.Names}}}}'").split()
    if others:
        unable(f"others use the network {NETWORK} ({', '.join(others)}): 'make down' first")
    with socket.socket() as listener:
        # Without it, connections that ended a moment ago would count, too.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", HOST_PORT))
        except OSError:
            unable(f"port {HOST_PORT} of this machine is taken: 'make down' first, or end what has it")


def leftovers(kind: str, stack: Stack) -> list[str]:
    """Return the ids of what is there of ours, in whatever state; kind is container, volume, image or network."""
    if kind == "network":
        return run(f"docker network ls --quiet --filter name=^{NETWORK}$").split()
    if kind == "image":
        # An image without a name has had ours before a newer one took it. One with other names is other people's, too:
        # v1 builds the same image under each project's name.
        names = " ".join(f"--filter 'reference={PROJECT}{dash}*'" for dash in "-_")
        tagged = run(f"docker images --quiet --no-trunc {names}").split()
        return [
            image["Id"]
            for image in inspect("image", stack.images | set(tagged))
            if all(name.startswith((f"{PROJECT}-", f"{PROJECT}_")) for name in image["RepoTags"] or ())
        ]
    labelled = run(
        f"docker {kind} ls {'--all' if kind == 'container' else ''} --quiet"
        f" --filter label=com.docker.compose.project={PROJECT}"
    ).split()
    return labelled if kind == "container" else [v["Name"] for v in inspect("volume", stack.volumes | set(labelled))]


def remove_everything(stack: Stack) -> None:
    """Remove all of ours but the network, however far the tests came and whatever is broken."""
    stack.note()
    for kind, command in {"container": "rm --force --volumes", "volume": "volume rm", "image": "rmi --force"}.items():
        ids = leftovers(kind, stack)
        if ids:
            run(f"docker {command} {' '.join(ids)}")


# --- one bring-up for each version ---


@pytest.fixture(scope="module")
def turn() -> Iterator[None]:
    """No two runs of these tests at a time, as the second would take the first one's containers for leftovers."""
    with (Path(tempfile.gettempdir()) / f"{PROJECT}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            unable("another run of these tests is under way: wait for its end")
        yield


@pytest.fixture(scope="module", params=[V2, V1], ids=["v2", "v1"])
def stack(turn: None, request: pytest.FixtureRequest) -> Iterator[Stack]:
    """Everything started out of nothing, in the tutorial's order; it is all removed at the end."""
    check_engine(request.param)
    fresh = Stack(request.param)
    remove_everything(fresh)
    check_unused()
    # A network that is there and that nobody uses is put back at the end.
    was_there = leftovers("network", fresh)
    try:
        run("make network-rm")
        run("make network")
        for arguments in (f"{KAFKA} config -q", f"{KAFKA} up -d", "config -q", "up -d --build"):
            fresh.output += f"$ {fresh.command} {arguments}\n{fresh.compose(arguments)}"
        yield fresh
    finally:
        remove_everything(fresh)
        run("make network" if was_there else "make network-rm")


@pytest.fixture
def pipeline(stack: Stack) -> TutorialPipeline:
    """The compositions' topics, as seen from the host; all is up, even if a test before it has failed in between."""
    if sorted(service(c) for c in containers() if c["State"]["Running"]) != sorted(CLUSTER + SERVICES):
        stack.compose(f"{KAFKA} up -d")
        stack.compose("up -d")
    stack.wait_healthy(*CLUSTER)
    return TutorialPipeline()


only_v2 = pytest.mark.parametrize("stack", [V2], ids=["v2"], indirect=True)
only_v1 = pytest.mark.parametrize("stack", [V1], ids=["v1"], indirect=True)


# --- as in the tutorial ---


def test_make_network_can_be_repeated(stack: Stack) -> None:
    """The first `make network` has created the network, a second one changes and says nothing."""
    (before,) = leftovers("network", stack)
    assert stack.make("network") == ""
    assert leftovers("network", stack) == [before]


def test_the_log_says_that_the_broker_has_started(stack: Stack) -> None:
    """The tutorial's `logs broker | grep started` finds the broker's line."""
    line = "started (kafka.server.KafkaServer)"
    stack.wait_healthy("broker")
    assert line in stack.compose(f"{KAFKA} logs broker | grep started")


def test_console_consumers_show_what_the_services_write(stack: Stack, pipeline: TutorialPipeline) -> None:
    """Each line is JSON as in the tutorial, on its side of 900; one in ten of the input is fraud."""
    counts = {pipeline.transactions: 3000, pipeline.legit: 1000, pipeline.fraud: 100}
    amounts = {}
    for topic, count in counts.items():
        transactions = [json.loads(line) for line in stack.consume(topic, count)]
        for transaction in transactions:
            assert list(transaction) == ["source", "target", "amount", "currency"]
            assert re.fullmatch("[0-9A-Za-z]{12}", transaction["source"])
            assert re.fullmatch("[0-9A-Za-z]{12}", transaction["target"])
            assert transaction["currency"] == "EUR"
        amounts[topic] = [transaction["amount"] for transaction in transactions]
    assert all(1 <= amount <= 1000 for amount in amounts[pipeline.transactions])
    assert max(amounts[pipeline.legit]) < 900 <= min(amounts[pipeline.fraud])
    count = counts[pipeline.transactions]
    deviation = (count * 0.1 * 0.9) ** 0.5
    assert sum(a >= 900 for a in amounts[pipeline.transactions]) == pytest.approx(count * 0.1, abs=4 * deviation)


def test_a_malformed_value_is_in_the_dead_letter_topic(stack: Stack, pipeline: TutorialPipeline) -> None:
    """What kafka-console-producer writes by hand arrives as it was, with headers that say where from and why."""
    stack.kafka(f"kafka-console-producer --topic {pipeline.transactions}", before="echo no transaction |")
    (line,) = stack.consume(pipeline.dead_letter, 1, "--property print.headers=true --property print.value=true")
    headers, value = line.split("\t")
    assert value == "no transaction"
    named = dict(header.removeprefix("__streams.errors.").split(":", 1) for header in headers.split(","))
    assert named.pop("partition") in "0123"
    assert named.pop("offset").isdecimal()
    assert named == {
        "exception": "InvalidTransaction",
        "message": "not JSON: Expecting value at character 0",
        "topic": pipeline.transactions,
    }


def test_a_tool_on_the_host_reads(stack: Stack, pipeline: TutorialPipeline) -> None:
    """At localhost:29092 a client of this machine, but of no other, gets transactions."""
    consumer = KafkaConsumer(
        pipeline.transactions,
        bootstrap_servers="localhost:29092",
        auto_offset_reset="earliest",
        consumer_timeout_ms=30_000,
    )
    values = {record.value for record in islice(consumer, 1000)}
    consumer.close()
    assert len(values) == 1000
    (broker,) = containers("broker")
    bindings = [binding for port in broker["NetworkSettings"]["Ports"].values() for binding in port or ()]
    assert bindings == [{"HostIp": "127.0.0.1", "HostPort": str(HOST_PORT)}]


def test_everything_becomes_healthy(stack: Stack) -> None:
    """All four containers report health, none had to be restarted, and `ps` says so."""
    stack.wait_healthy(*CLUSTER, *SERVICES)
    assert [container["RestartCount"] for container in containers()] == [0] * 4
    for arguments, names in ((f"{KAFKA} ps", CLUSTER), ("ps", SERVICES)):
        output = stack.quiet(arguments)
        for name in names:
            assert re.search(rf"^{PROJECT}[-_]{name}[-_]1 .*\(healthy\)", output, re.M), output


def test_compose_complains_of_nothing(stack: Stack) -> None:
    """Neither `config` nor `up` of either file prints a warning or an error, nor a notice of orphans."""
    assert len(re.findall(r"^\$ ", stack.output, re.M)) == 4
    assert complaints(stack.output) == []


@only_v1
def test_v1_sees_no_orphans_where_the_variable_is_in_the_environment(stack: Stack) -> None:
    """A bare docker-compose takes the cluster for orphans, and says just that; with the variable it says nothing."""
    (complaint,) = complaints(stack.compose("up -d", ignore_orphans=False))
    assert complaint.startswith("WARNING: Found orphan containers")
    assert "orphan" not in stack.quiet("up -d")


# --- hardening ---


def test_no_container_can_do_more_than_it_needs(stack: Stack) -> None:
    """None runs as root, has a capability, can gain one, or fills the disk with logs; each has a health check."""
    everything = containers()
    assert sorted(map(service, everything)) == sorted(CLUSTER + SERVICES)
    for container in everything:
        host = container["HostConfig"]
        assert host["CapDrop"] == ["ALL"]
        assert not host["CapAdd"]
        assert not host["Privileged"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-file": "3", "max-size": "10m"}}
        assert container["Config"]["Healthcheck"]["Test"]
        status = run(f"docker exec {container['Id']} sh -c 'id -u; grep -E \"Cap|NoNew\" /proc/1/status'").split()
        assert status[0] != "0"
        inside = dict(zip(status[1::2], status[2::2], strict=True))
        assert inside == {
            **{f"Cap{name}:": "0" * 16 for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")},
            "NoNewPrivs:": "1",
        }


@pytest.mark.parametrize("name", SERVICES)
def test_the_services_cannot_write_but_to_tmp(stack: Stack, name: str) -> None:
    """Their root file system is read-only; /tmp is in memory."""
    (container,) = containers(name)
    assert container["HostConfig"]["ReadonlyRootfs"]
    assert list(container["HostConfig"]["Tmpfs"]) == ["/tmp"]
    assert container["Mounts"] == []
    script = "touch /tmp/x && ! touch /usr/app/x"
    assert "Read-only file system" in run(f"docker exec {container['Id']} sh -c '{script}'")


def test_the_data_is_in_the_three_named_volumes(stack: Stack) -> None:
    """No container has another volume: an anonymous one would stay behind at each `down`, under a name of 64 digits."""
    mounts = {mount["Name"]: mount["Destination"] for c in containers() for mount in c["Mounts"]}
    assert {name: path for name, path in mounts.items() if name in DATA_PATHS} == DATA_PATHS
    assert sorted(path for name, path in mounts.items() if name not in DATA_PATHS) == []


# --- variables ---


def test_rate_and_limit_come_from_the_shell(stack: Stack, pipeline: TutorialPipeline) -> None:
    """The generator reads both; after exactly so many transactions it ends with exit code 0, and stays ended."""
    stack.quiet("stop generator")
    before = pipeline.count(pipeline.transactions)
    stack.quiet("up -d generator", before="TRANSACTIONS_PER_SECOND=5000 TRANSACTIONS_LIMIT=500")

    def status() -> str:
        return str(containers("generator")[0]["State"]["Status"])

    wait_until(lambda: status() == "exited", 30, status)
    (ended,) = containers("generator")
    assert ended["State"]["ExitCode"] == 0
    assert "TRANSACTIONS_PER_SECOND=5000" in ended["Config"]["Env"]
    log = run(f"docker logs {ended['Id']}")
    assert "transactions_per_second=5000.0, transactions_limit=500.0" in log
    assert "Stopped: delivered=500 not_delivered=0" in log
    stack.assert_each_in_one_output(pipeline)  # longer than the engine waits before it restarts a container
    assert pipeline.count(pipeline.transactions) == before + 500
    (later,) = containers("generator")
    assert later["Id"] == ended["Id"]
    assert later["State"] == ended["State"]
    assert later["RestartCount"] == 0
    stack.quiet("up -d")


# --- several detectors ---


@only_v2
def test_detectors_share_the_partitions(stack: Stack, pipeline: TutorialPipeline) -> None:
    """`--scale detector=4` gives each one of the four partitions; there and back, nothing is lost or there twice."""

    def partitions() -> list[str]:
        lines = stack.kafka(f"kafka-consumer-groups --describe --members --group {pipeline.name}").splitlines()
        return [line.split()[-1] for line in lines if line.startswith(pipeline.name)]

    for detectors, shares in ((4, ["1"] * 4), (2, ["2"] * 2)):
        stack.quiet(f"up -d --scale detector={detectors}")
        wait_until(lambda shares=shares: partitions() == shares, 40, lambda: str(partitions()))  # type: ignore[misc]
        assert len(containers("detector")) == detectors
        stack.wait_for("detector", "legit=[1-9]")
    stack.quiet("up -d")
    assert len(containers("detector")) == 1
    stack.assert_each_in_one_output(pipeline)
    stack.quiet("up -d")


# --- end and restart ---


@only_v2
def test_down_and_up_lose_nothing(stack: Stack, pipeline: TutorialPipeline) -> None:
    """After `down` and `up` of both files cluster, topics and group are as before, and the detector goes on."""
    stack.quiet("stop detector")
    wait_until(lambda: pipeline.lag() > 500, 30)  # work for afterwards
    stack.quiet("down")
    before = pipeline.cluster_id(), pipeline.ends(), pipeline.lag()
    assert {partition.topic for partition in before[1]} > {pipeline.transactions, *pipeline.outputs}
    stack.quiet(f"{KAFKA} down")
    assert containers() == []
    stack.quiet(f"{KAFKA} up -d")
    stack.wait_healthy(*CLUSTER)
    # A broker that answers may not yet have heard from ZooKeeper which topics there are.
    wait_until(lambda: pipeline.ends().keys() == before[1].keys(), 30)
    assert (pipeline.cluster_id(), pipeline.ends(), pipeline.lag()) == before
    assert "InconsistentClusterId" not in stack.compose(f"{KAFKA} logs")
    stack.quiet("up -d")
    stack.wait_for("generator", "delivered=[1-9]")
    stack.assert_each_in_one_output(pipeline)
    stack.quiet("up -d")


def test_stop_ends_all_in_order(stack: Stack, pipeline: TutorialPipeline) -> None:
    """On `stop` the services end with exit code 0 and the two JVMs by themselves, before they would be killed."""
    before = pipeline.count(pipeline.fraud)
    wait_until(lambda: pipeline.count(pipeline.fraud) > before, 60)  # both are at work
    stack.quiet("stop")
    stack.quiet(f"{KAFKA} stop")
    states = {service(container): container["State"] for container in containers()}
    assert {state["Status"] for state in states.values()} == {"exited"}
    assert [states[name]["ExitCode"] for name in SERVICES] == [0, 0]
    for name in CLUSTER:
        assert states[name]["ExitCode"] in (0, 143)  # Java's own answer to SIGTERM; one killed has 137


@only_v2
def test_services_that_are_there_before_the_cluster_wait_for_it(stack: Stack) -> None:
    """They say whom they look for, and work as soon as the cluster is up."""
    stack.quiet("down")
    stack.quiet(f"{KAFKA} down")
    stack.quiet("up -d")
    for name in SERVICES:
        stack.wait_for(name, "No Kafka at broker:9092")
    stack.quiet(f"{KAFKA} up -d")
    stack.wait_healthy(*CLUSTER)
    stack.wait_for("generator", "delivered=[1-9]")
    stack.wait_for("detector", "legit=[1-9]")
    stack.assert_each_in_one_output(TutorialPipeline())
    assert [container["RestartCount"] for container in containers(*SERVICES)] == [0, 0]


# --- PyPy ---


@only_v2
def test_the_services_run_on_pypy(stack: Stack, pipeline: TutorialPipeline) -> None:
    """PYTHON_IMAGE=pypy:3.11-slim builds and runs both services on PyPy, and they do the same; the corpus, too."""
    stack.quiet("up -d --build", before="PYTHON_IMAGE=pypy:3.11-slim")
    for name in SERVICES:
        (container,) = containers(name)
        script = "import platform; print(platform.python_implementation())"
        assert run(f'docker exec {container["Id"]} python -c "{script}"') == "PyPy\n"
    (detector,) = containers("detector")
    lines = CORPUS.read_text().splitlines()
    answers = run(f"docker exec -i {detector['Id']} python -c {shlex.quote(DECIDE)} < {CORPUS}").splitlines()
    assert answers == [json.loads(line)["expected"] for line in lines]
    stack.wait_for("generator", "delivered=[1-9]")
    stack.wait_for("detector", "legit=[1-9]")
    stack.assert_each_in_one_output(pipeline)


# --- make ---


def test_make_ps_lists_each_container_once(stack: Stack, pipeline: TutorialPipeline) -> None:
    """`make ps` has one line for each container of the pipeline."""
    names = sorted(line.split()[0] for line in stack.make("ps").splitlines() if line.startswith(PROJECT))
    assert names == sorted(container["Name"].removeprefix("/") for container in containers())
    assert len(names) == 4


def test_make_runs_the_pipeline(stack: Stack) -> None:
    """`make up` starts all, `topics` shows the topics, `scale` adds a detector, and `down` keeps the records."""
    stack.make("down")
    assert containers() == []
    stack.make("up")
    assert sorted(map(service, containers())) == sorted(CLUSTER + SERVICES)
    pipeline = TutorialPipeline()
    topics = stack.make("topics")
    for topic in (pipeline.transactions, *pipeline.outputs):
        assert re.search(rf"^Topic: {re.escape(topic)}\s.*PartitionCount: 4\s", topics, re.M), topics
    assert len(re.findall(rf"^{pipeline.name}\s+{re.escape(pipeline.transactions)}\s", topics, re.M)) == 4, topics
    stack.make("scale N=2")
    assert sorted(map(service, containers())) == sorted(CLUSTER + SERVICES + ("detector",))
    stack.make("down")
    assert containers() == []
    assert {volume["Name"] for volume in inspect("volume", DATA_PATHS)} == set(DATA_PATHS)


def test_make_clean_leaves_nothing(stack: Stack) -> None:
    """`make clean` removes all that these tests have brought up; it and `make network-rm` can be repeated."""
    stack.note()
    stack.make("clean")
    stack.make("clean", quiet=False)  # either Compose warns of what is gone already
    for _ in range(2):
        stack.make("network-rm")
    kinds = ("container", "volume", "image", "network")
    assert {kind: leftovers(kind, stack) for kind in kinds} == {kind: [] for kind in kinds}


@pytest.mark.parametrize("target", ENGINE_TARGETS)
def test_make_says_in_one_line_that_no_engine_answers(target: str) -> None:
    """Without an engine each target that needs one says so, before anything else, and fails."""
    check_installed("make")
    said, by_make = run(f"DOCKER_HOST=unix:///nonexistent make {target}", code=2).splitlines()
    assert said.startswith("No Docker engine answers: start Docker")
    assert by_make.startswith("make: ***")
