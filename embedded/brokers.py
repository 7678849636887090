"""ZooKeeper and the brokers: their properties, and how to check that each is healthy."""

import socket
import struct
import time
from collections.abc import Mapping
from contextlib import suppress

from embedded.server import Server
from embedded.watchdog import Watchdog

HOST = "127.0.0.1"


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
        """Whether ZooKeeper reports that it is healthy."""
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
        """Start the process and return at once, or after a few seconds if the broker was killed just now.

        ZooKeeper considers a killed broker alive until its session expires. A second broker with the same id
        ends at once, so this waits for that.
        """
        deadline = time.monotonic() + 60
        while self._is_registered() and time.monotonic() < deadline:
            time.sleep(0.1)
        super().start()

    def _is_registered(self) -> bool:
        # Whether ZooKeeper considers an ended broker alive. On a busy machine it may not answer within a second.
        if self.running or self._exit_code is None or not self._zookeeper.running:
            return False
        answer = self._zookeeper.ask("dump")
        return not answer or f"/brokers/ids/{self.id}\n" in answer

    def answers(self) -> bool:
        """Whether the broker answers a Metadata request, and the cluster knows it."""
        return self.id in self.known_brokers()

    def known_brokers(self) -> set[int]:
        """Return the ids of all brokers that this broker knows, itself included; empty when it does not answer."""
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
