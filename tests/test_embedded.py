"""The embedded cluster: real brokers that start, fail, come back, and leave nothing behind."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka import KafkaProducer
from kafka.errors import KafkaTimeoutError

from embedded import Cluster, ServerError, jars, records
from embedded.pipeline import ROOT, Pipeline
from embedded.records import Record
from embedded.service import wait_until
from harness import start

pytestmark = pytest.mark.long

NO_NETWORK = {"http_proxy": "http://127.0.0.1:1", "https_proxy": "http://127.0.0.1:1", "no_proxy": ""}


@pytest.fixture(scope="module")
def kafka() -> Iterator[Cluster]:
    """A broker that these tests may stop, kill and pause, as long as it answers again in the end."""
    with Cluster() as running:
        yield running


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which clusters put their own, here and in processes that the test starts; its name is not ASCII."""
    folder = tmp_path / "проект"
    folder.mkdir()
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))  # This process has asked for TMPDIR long ago.
    return folder


@pytest.fixture
def copied_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the jars, in which processes that the test starts look for theirs."""
    jars.prepare()
    original = jars.cache_folder()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shutil.copytree(original, jars.cache_folder())
    return jars.cache_folder()


def write(cluster: Cluster, topic: str, *values: bytes) -> None:
    """Write the values and wait until every one is acknowledged."""
    records.write(cluster.bootstrap_servers, topic, map(Record, values), acks="all")


def read(cluster: Cluster, topic: str) -> list[bytes]:
    """Return the values that are in the topic, sorted. A broker that has just started may not know it yet."""
    with Pipeline(cluster.bootstrap_servers).admin() as admin:
        wait_until(lambda: topic in admin.list_topics(), 120)
    return sorted(record.value or b"" for record in records.read(cluster.bootstrap_servers, topic))


def embedded(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m embedded` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "embedded", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=240,
    )


def start_embedded(*options: str) -> "subprocess.Popen[str]":
    """Start `python -m embedded` on a free port, as a terminal does: in a process group of its own."""
    return start("embedded", "--port", "0", *options, stdout=subprocess.PIPE, start_new_session=True)


def left_behind(folder: Path) -> list[str]:
    """Return the processes that work in the folder, and what lies in it."""
    processes = subprocess.run(["ps", "-axww", "-o", "args="], capture_output=True, text=True, check=True).stdout
    return [line for line in processes.splitlines() if str(folder) in line] + [str(path) for path in folder.iterdir()]


def test_keeps_records_when_stopped_and_started(kafka: Cluster) -> None:
    """A broker answers, and has its records and its port after a stop and a start."""
    write(kafka, "stopped", b"before")
    address = kafka.bootstrap_servers
    kafka.brokers[0].restart()
    write(kafka, "stopped", b"later")
    assert read(kafka, "stopped") == [b"before", b"later"]
    assert kafka.bootstrap_servers == address


def test_keeps_acknowledged_records_when_killed(kafka: Cluster) -> None:
    """A killed broker does not answer; started again, even at once, it has all acknowledged records."""
    broker = kafka.brokers[0]
    write(kafka, "killed", b"1", b"2", b"3")
    broker.kill()
    assert not broker.running
    assert not broker.answers()
    broker.start()
    broker.wait_ready()
    assert read(kafka, "killed") == [b"1", b"2", b"3"]


def test_pause_makes_requests_time_out_until_resumed(kafka: Cluster) -> None:
    """A paused broker lets a request time out, and answers again when it is resumed."""
    broker = kafka.brokers[0]
    with KafkaProducer(bootstrap_servers=kafka.bootstrap_servers) as producer:
        producer.send("paused", b"before").get(timeout=120)
        broker.pause()
        try:
            future = producer.send("paused", b"meanwhile")
            with pytest.raises(KafkaTimeoutError):
                future.get(timeout=1)
            assert broker.running
            assert not broker.answers()
        finally:
            broker.resume()
        future.get(timeout=120)
    assert read(kafka, "paused") == [b"before", b"meanwhile"]


@pytest.mark.zookeeper
def test_zookeeper_restarts_under_a_running_broker(cluster: Cluster) -> None:
    """The broker outlives a restart of ZooKeeper and can create topics after it."""
    cluster.zookeeper.kill()
    cluster.zookeeper.restart()
    write(cluster, "after-zookeeper", b"1")
    assert read(cluster, "after-zookeeper") == [b"1"]


def test_console_tool_reads_what_was_written(kafka: Cluster) -> None:
    """A console tool of the same jars works on the cluster and prints nothing but its result."""
    write(kafka, "tool", b"one", b"two")
    result = kafka.tool("kafka-console-consumer", "--topic", "tool", "--from-beginning", "--max-messages", "2")
    assert result.returncode == 0
    assert sorted(result.stdout.split()) == ["one", "two"]
    assert result.stderr.endswith("Processed a total of 2 messages\n")


def test_command_line_passes_streams_and_exit_code_of_a_tool(kafka: Cluster) -> None:
    """`python -m embedded kafka-…` hands stdin to the tool, and gives back its stdout and its exit code."""
    server = ["--bootstrap-server", kafka.bootstrap_servers]
    command = [sys.executable, "-m", "embedded", "kafka-console-producer", *server, "--topic", "typed"]
    subprocess.run(command, cwd=ROOT, input=b"typed in\n", check=True, timeout=240)
    assert read(kafka, "typed") == [b"typed in"]
    listed = embedded("kafka-topics", *server, "--list")
    assert listed.returncode == 0
    assert "typed" in listed.stdout.split()
    assert embedded("kafka-topics", *server, "--describe", "--topic", "missing").returncode == 1


def test_exception_leaves_nothing_behind(temporary: Path) -> None:
    """An exception within the block ends every server, a paused one too, and deletes the data."""

    def fail() -> None:
        with Cluster() as cluster:
            cluster.brokers[0].pause()
            assert left_behind(temporary)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert left_behind(temporary) == []


@pytest.mark.parametrize("ready", [False, True], ids=["while it starts", "when it is ready"])
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_signal_leaves_nothing_behind(end: signal.Signals, ready: bool, temporary: Path) -> None:
    """Ctrl-C, which the terminal sends to the whole process group, and SIGTERM end it with exit code 0."""
    process = start_embedded()
    assert process.stdout
    if ready:
        assert "is ready" in process.stdout.readline()
    wait_until(lambda: bool(left_behind(temporary)), 120)
    if end == signal.SIGINT:
        os.killpg(process.pid, end)
    else:
        process.send_signal(end)
    assert process.wait(120) == 0
    assert left_behind(temporary) == []


def test_killed_owner_leaves_nothing_behind(temporary: Path) -> None:
    """Even when the Python process is killed, the servers end and the data goes."""
    process = start_embedded()
    assert process.stdout
    assert "is ready" in process.stdout.readline()
    process.kill()
    process.wait()
    wait_until(lambda: not left_behind(temporary), 120, lambda: str(left_behind(temporary)))


def test_taken_port_is_one_line_and_exit_code_2() -> None:
    """A port on which something listens is named in one line."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        result = embedded("--port", port)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert f"port {port} of 127.0.0.1 is taken" in result.stderr


def test_server_that_dies_at_its_start_shows_its_log(temporary: Path) -> None:
    """The error has the end of the log, and nothing is left behind."""
    with pytest.raises(ServerError, match=r"broker-0 has ended with exit code 1(.|\n)*many") as error:
        Cluster(config={"num.partitions": "many"}).__enter__()
    assert "ConfigException" in str(error.value)
    assert left_behind(temporary) == []


def test_three_brokers_replicate_and_outlive_one(temporary: Path) -> None:
    """Topics of three brokers have three replicas, and take writes to all in-sync replicas while one is down."""
    with Cluster(brokers=3) as cluster:
        write(cluster, "replicated", b"1")
        described = cluster.tool("kafka-topics", "--describe", "--topic", "replicated").stdout
        assert "ReplicationFactor: 3" in described
        assert "min.insync.replicas=2" in described
        cluster.brokers[1].kill()
        write(cluster, "replicated", b"2")
        assert read(cluster, "replicated") == [b"1", b"2"]
    assert left_behind(temporary) == []


def test_a_secured_broker_says_how_to_connect(temporary: Path) -> None:
    """`python -m embedded --secure` prints the variables of each user, who may connect and do nothing yet."""
    with start_embedded("--secure") as process:
        try:
            assert process.stdout is not None
            ready, _, generator, _ = (process.stdout.readline() for _ in range(4))
            assert "is ready" in ready
            environ = dict(variable.split("=", 1) for variable in generator.split())
            with Pipeline(environ["KAFKA_BROKER_URL"]).service("generator", **environ) as service:
                assert service.wait() == 1
                assert "no permission for DESCRIBE on the topic" in service.log
        finally:
            os.killpg(process.pid, signal.SIGINT)
        assert process.wait(30) == 0
    assert left_behind(temporary) == []


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose user has no name."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # what Python finds then
    with pytest.raises(jars.JarError, match="name one in XDG_CACHE_HOME"):
        jars.cache_folder()


def test_second_preparation_needs_no_network(copied_cache: Path) -> None:
    """With all jars in the cache, nothing is downloaded."""
    result = embedded("prepare", **NO_NETWORK)
    assert (result.returncode, result.stderr) == (0, "")


def test_failed_download_says_what_to_do(copied_cache: Path) -> None:
    """A jar that cannot be downloaded is named with the remedy, and the others stay."""
    jar, *others = jars.locked_jars()
    (copied_cache / jar.file_name).unlink()
    result = embedded("prepare", **NO_NETWORK)
    assert result.returncode == 1
    assert f"cannot download {jar.file_name}" in result.stderr
    assert "Check the network" in result.stderr
    assert not (copied_cache / jar.file_name).exists()
    assert all((copied_cache / other.file_name).exists() for other in others)


def test_tampered_jar_is_refused(copied_cache: Path) -> None:
    """A jar with another hash than the locked one does not run: the error names it, both hashes and the remedy."""
    jar = jars.locked_jars()[0]
    with (copied_cache / jar.file_name).open("ab") as file:
        file.write(b"!")
    result = embedded("kafka-topics", "--version")
    assert result.returncode == 1
    assert f"{jar.file_name} is not the jar" in result.stderr
    assert f"expected SHA-256 {jar.sha256}, found " in result.stderr
    assert f"Delete {copied_cache / jar.file_name}" in result.stderr
    assert result.stdout == ""
