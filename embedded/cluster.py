"""A Kafka cluster of real brokers on free ports of 127.0.0.1, for as long as a `with` block."""

import random
import secrets
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from itertools import islice
from types import TracebackType
from typing import Self

from embedded import jars
from embedded.brokers import HOST, Broker, KraftBroker
from embedded.jars import KAFKA_3, KAFKA_4, Line
from embedded.java import tool_command
from embedded.server import READY_SECONDS, Server, ServerError, uninterrupted
from embedded.watchdog import Watchdog
from embedded.zookeeper import ZooKeeper, ZooKeeperBroker


class PortTakenError(Exception):
    """The port asked for a broker is in use."""


class Cluster:
    """Brokers, ready within the `with` block and gone without a trace after it.

    Each broker of Kafka 4 is a controller, too; those of Kafka 3.9 have a ZooKeeper beside them. They listen on `port`,
    `port + 1` and so on, or on free ports if it is 0. `config` adds to the brokers' properties, or replaces them.
    """

    zookeeper: ZooKeeper
    """Of Kafka 3.9 alone."""
    brokers: Sequence[Broker]
    servers: list[Server]
    """All processes."""

    def __init__(
        self, brokers: int = 1, port: int = 0, config: Mapping[str, str] | None = None, line: Line = KAFKA_4
    ) -> None:
        self.line = line
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
        """The brokers' addresses, as clients expect them: `host:port,host:port`."""
        return ",".join(f"{HOST}:{broker.port}" for broker in self.brokers)

    def __enter__(self) -> Self:
        """Start everything and wait until every broker knows all brokers.

        Raises:
            JarError: a jar cannot be downloaded or is not the locked one.
            PortTakenError: another process listens on the port asked for.
            ServerError: a server ends at its start, or is not ready within five minutes.
        """
        class_path = jars.prepare(self.line)
        ports, inner = free_ports(self._count), free_ports(self._count)
        if self._port:
            ports = [self._port + i for i in range(self._count)]
        for port in ports:
            check_free(port)
        with ExitStack() as stack:
            watchdog = uninterrupted(lambda: stack.enter_context(Watchdog()))
            if self.line is KAFKA_3:
                self.zookeeper = ZooKeeper(inner[0], class_path, watchdog)
                self.brokers = [
                    ZooKeeperBroker(self.zookeeper, id, port, self._config, class_path, watchdog)
                    for id, port in enumerate(ports)
                ]
                self.servers = [self.zookeeper, *self.brokers]
            else:
                cluster_id = secrets.token_urlsafe(16)
                self.brokers = [
                    KraftBroker(cluster_id, inner, id, port, self._config, class_path, watchdog)
                    for id, port in enumerate(ports)
                ]
                self.servers = [*self.brokers]
            for server in self.servers:
                stack.callback(server.kill)
                server.start()
            for server in self.servers:
                server.wait_ready()
            deadline = time.monotonic() + READY_SECONDS
            while any(len(broker.known_brokers()) < self._count for broker in self.brokers):
                for server in self.servers:
                    server.check()
                if time.monotonic() > deadline:
                    raise ServerError(f"the brokers do not find each other within {READY_SECONDS} s")
                time.sleep(0.05)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill every server, paused ones too, and delete the data."""
        self._stack.close()

    def tool(
        self, tool: str, *arguments: str, input: str = "", timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a console tool, such as `kafka-topics`, against this cluster; `input` is its stdin.

        Raises:
            subprocess.TimeoutExpired: the tool runs for more than `timeout` seconds.
        """
        command = tool_command(tool, "--bootstrap-server", self.bootstrap_servers, *arguments)
        return subprocess.run(command, input=input, timeout=timeout, capture_output=True, text=True)


def check_free(port: int) -> None:
    """Raise PortTakenError if something listens on the port."""
    if not _is_free(port):
        raise PortTakenError(f"port {port} of {HOST} is taken: end what listens there, or choose another port")


def _is_free(port: int) -> bool:
    with socket.socket() as candidate:
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # Old connections on the port do no harm.
        with suppress(OSError):
            candidate.bind((HOST, port))
            return True
    return False


def free_ports(count: int) -> list[int]:
    """Return ports on which nothing listens."""
    # Below the range from which the system gives ports to connections: a client must not get the port of a broker
    # that is down for a moment.
    candidates = range(20000, 32000)
    return list(islice(filter(_is_free, random.sample(candidates, len(candidates))), count))
