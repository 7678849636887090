"""A Kafka cluster of real brokers and a real ZooKeeper on free ports of 127.0.0.1, for as long as a `with` block."""

import random
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import islice
from types import TracebackType
from typing import Self, TypeVar

from embedded.java import java_command, tool_command
from embedded.watchdog import Watchdog

HOST = "127.0.0.1"
T = TypeVar("T")


class PortTakenError(Exception):
    """The port asked for a broker is in use."""


class ServerError(Exception):
    """A server ended or does not answer; the message ends with the last lines of its log."""


class Server:
    """A JVM of the cluster. It keeps its port and its data from start to start."""

    def __init__(
        self, name: str, port: int, main_class: str, heap: str, properties: Mapping[str, str], watchdog: Watchdog
    ) -> None:
        self.name = name
        self.port = port
        self._watchdog = watchdog
        self._log = watchdog.folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._exit_code: int | None = None
        file = watchdog.folder / f"{name}.properties"
        file.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
        # The JVM's temporary files go into the folder too, or a killed JVM would leave them behind.
        options = [heap, "-XX:+UseG1GC", f"-Djava.io.tmpdir={watchdog.folder}"]
        self._command = java_command(main_class, str(file), options=options)

    @property
    def running(self) -> bool:
        """Whether the process exists; a paused one does."""
        if self._process is not None and self._process.poll() is not None:
            self._watchdog.remove(self._process.pid)
            self._exit_code = self._process.returncode
            self._process = None
        return self._process is not None

    def start(self) -> None:
        """Start the process and return at once; `wait_ready` waits until it answers."""
        if not self.running:
            _uninterrupted(self._launch)

    def _launch(self) -> None:
        with self._log.open("ab") as log:
            # A session of its own keeps the terminal's Ctrl-C away, so that the JVM lasts as long as the `with` block.
            self._process = subprocess.Popen(
                self._command,
                cwd=self._watchdog.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._watchdog.add(self._process.pid)

    def stop(self, timeout: float = 60) -> None:
        """Shut the server down in order (SIGTERM) and wait for its end, for `timeout` seconds at most.

        Raises:
            ServerError: it still runs after that time; `kill` ends it.
        """
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)  # A paused process gets the SIGTERM only when it goes on.
        self._wait_end(timeout)

    def kill(self) -> None:
        """End the process at once (SIGKILL), as a crash does."""
        self._signal(signal.SIGKILL)
        self._wait_end(timeout=10)

    def pause(self) -> None:
        """Freeze the process (SIGSTOP): its connections stay open, but nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def restart(self) -> None:
        """Stop the server, start it again and wait until it answers."""
        self.stop()
        self.start()
        self.wait_ready()

    def wait_ready(self, timeout: float = 60) -> None:
        """Wait until the server answers a request, for `timeout` seconds at most.

        Raises:
            ServerError: the process has ended, or does not answer in time.
        """
        deadline = time.monotonic() + timeout
        while not self.answers():
            self.check()
            if time.monotonic() > deadline:
                raise ServerError(f"{self.name} does not answer after {timeout} s. Its last lines:\n{self.log_tail()}")
            time.sleep(0.05)

    def check(self) -> None:
        """Raise an error if the process has ended.

        Raises:
            ServerError: it has.
        """
        if not self.running:
            raise ServerError(
                f"{self.name} has ended with exit code {self._exit_code}. Its last lines:\n{self.log_tail()}"
            )

    def answers(self) -> bool:
        """Whether the server answers a real request now."""
        raise NotImplementedError

    def log_tail(self, lines: int = 20) -> str:
        """Return the last lines of the server's log."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)  # Does nothing when the process has ended.

    def _wait_end(self, timeout: float) -> None:
        if self._process is None:
            return
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ServerError(
                f"{self.name} still runs {timeout} s after its stop; kill() ends it. Its last lines:\n{self.log_tail()}"
            ) from None
        assert not self.running


class ZooKeeper(Server):
    """The cluster's ZooKeeper."""

    def __init__(self, port: int, watchdog: Watchdog) -> None:
        properties = {
            "dataDir": str(watchdog.folder / "zookeeper"),
            "clientPortAddress": HOST,
            "clientPort": str(port),
            "tickTime": "500",  # Sessions end on a tick: a short one notices a killed broker soon.
            "maxSessionTimeout": "60000",
            "admin.enableServer": "false",
            "4lw.commands.whitelist": "ruok,dump",
        }
        main_class = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
        super().__init__("zookeeper", port, main_class, "-Xmx128m", properties, watchdog)

    def answers(self) -> bool:
        """Whether ZooKeeper says that it is well."""
        return self.ask("ruok") == "imok"

    def ask(self, word: str) -> str:
        """Return ZooKeeper's answer to a four-letter word, or "" when there is none within a second."""
        with suppress(OSError), socket.create_connection((HOST, self.port), timeout=1) as connection:
            connection.sendall(word.encode())
            return connection.makefile().read()
        return ""


class Broker(Server):
    """One broker of the cluster."""

    def __init__(self, id: int, port: int, watchdog: Watchdog, zookeeper: ZooKeeper, config: Mapping[str, str]) -> None:
        self.id = id
        self._zookeeper = zookeeper
        properties = {
            "broker.id": str(id),
            "listeners": f"PLAINTEXT://{HOST}:{port}",
            "log.dirs": str(watchdog.folder / f"broker-{id}"),
            "zookeeper.connect": f"{HOST}:{zookeeper.port}",
            "zookeeper.connection.timeout.ms": "60000",
            "zookeeper.session.timeout.ms": "4000",
            **config,
        }
        super().__init__(f"broker-{id}", port, "kafka.Kafka", "-Xmx512m", properties, watchdog)

    def start(self) -> None:
        """Start the process and return at once, or after some seconds if the broker was killed just now.

        ZooKeeper still takes a killed broker for alive, until its session expires. A second broker with the same id
        ends at once, so this waits for that.
        """
        while not self.running and f"/brokers/ids/{self.id}\n" in self._zookeeper.ask("dump"):
            time.sleep(0.1)
        super().start()

    def answers(self) -> bool:
        """Whether the broker answers a Metadata request, and the cluster knows it."""
        return self.id in self.known_brokers()

    def known_brokers(self) -> set[int]:
        """Return the ids of all brokers that this broker knows, itself among them; empty when it does not answer."""
        # Metadata is request 3; version 1, correlation id 0, no client id, a list of no topics.
        request = struct.pack(">hhihi", 3, 1, 0, -1, 0)
        with suppress(OSError, struct.error), socket.create_connection((HOST, self.port), timeout=1) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            answer = connection.makefile("rb")
            _size, _correlation, count = struct.unpack(">iii", answer.read(12))
            ids = set()
            for _ in range(count):
                id, host_length = struct.unpack(">ih", answer.read(6))
                answer.read(host_length + 6)  # The host, its port, and a rack of length -1, which is none.
                ids.add(id)
            return ids
        return set()


class Cluster:
    """ZooKeeper and `brokers` brokers, ready within the `with` block and gone without a trace after it.

    The brokers listen on `port`, `port + 1` and so on, or on free ports if it is 0. `config` adds to the brokers'
    properties, or replaces them.
    """

    zookeeper: ZooKeeper
    brokers: list[Broker]

    def __init__(self, brokers: int = 1, port: int = 0, config: Mapping[str, str] | None = None) -> None:
        self._count = brokers
        self._port = port
        replicas = min(3, brokers)
        in_sync = 2 if replicas == 3 else 1
        self._config = {
            "num.partitions": "4",
            "default.replication.factor": f"{replicas}",
            "min.insync.replicas": f"{in_sync}",
            "offsets.topic.num.partitions": "4",
            "offsets.topic.replication.factor": f"{replicas}",
            "transaction.state.log.num.partitions": "4",
            "transaction.state.log.replication.factor": f"{replicas}",
            "transaction.state.log.min.isr": f"{in_sync}",
            "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
            "log.cleaner.dedupe.buffer.size": "16777216",  # The default takes a quarter of the heap.
            **(config or {}),
        }

    @property
    def bootstrap_servers(self) -> str:
        """The brokers' addresses, as clients want them: `host:port,host:port`."""
        return ",".join(f"{HOST}:{broker.port}" for broker in self.brokers)

    def __enter__(self) -> Self:
        """Start everything and wait until every broker knows all brokers.

        Raises:
            JarError: a jar cannot be downloaded or is not the locked one.
            PortTakenError: another process listens on the port asked for.
            ServerError: a server ends at its start, or is not ready within a minute.
        """
        zookeeper_port, *ports = _free_ports(1 + self._count)
        if self._port:
            ports = [self._port + i for i in range(self._count)]
        for port in ports:
            if not _is_free(port):
                raise PortTakenError(f"port {port} of {HOST} is taken: end what listens there, or choose another port")
        with ExitStack() as stack:
            watchdog = _uninterrupted(lambda: stack.enter_context(Watchdog()))
            self.zookeeper = ZooKeeper(zookeeper_port, watchdog)
            self.brokers = [Broker(id, port, watchdog, self.zookeeper, self._config) for id, port in enumerate(ports)]
            servers = [self.zookeeper, *self.brokers]
            for server in servers:
                stack.callback(server.kill)
                server.start()
            for server in servers:
                server.wait_ready()
            while any(len(broker.known_brokers()) < self._count for broker in self.brokers):
                for server in servers:
                    server.check()
                time.sleep(0.05)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill every server, paused ones too, and delete the data."""
        self._stack.close()

    def tool(
        self, tool: str, *arguments: str, input: str = "", timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a console tool, such as `kafka-topics`, against this cluster; `input` is its stdin.

        Raises:
            subprocess.TimeoutExpired: the tool runs for more than `timeout` seconds.
        """
        command = tool_command(tool, "--bootstrap-server", self.bootstrap_servers, *arguments)
        return subprocess.run(command, input=input, timeout=timeout, capture_output=True, text=True)


def _uninterrupted(action: Callable[[], T]) -> T:
    # Ctrl-C raises its exception in the main thread only, and here that waits for the end of the other thread. Else it
    # could come when a process has started and nobody knows yet that it must end.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(action).result()


def _is_free(port: int) -> bool:
    with socket.socket() as candidate:
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # Old connections on the port do no harm.
        with suppress(OSError):
            candidate.bind((HOST, port))
            return True
    return False


def _free_ports(count: int) -> list[int]:
    # Below the range from which the system gives ports to connections: a client must not get the port of a broker
    # that is down for a moment.
    candidates = range(20000, 32000)
    return list(islice(filter(_is_free, random.sample(candidates, len(candidates))), count))
