"""What Kafka 3.9 has besides: ZooKeeper, and brokers that depend on it."""

import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from embedded.brokers import HOST, Broker
from embedded.server import Server
from embedded.watchdog import Watchdog


class ZooKeeper(Server):
    """The cluster's ZooKeeper."""

    def __init__(self, port: int, class_path: Sequence[Path], watchdog: Watchdog) -> None:
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
        super().__init__("zookeeper", port, main_class, "-Xmx128m", properties, class_path, watchdog)

    def answers(self) -> bool:
        """Whether ZooKeeper reports that it is healthy."""
        return self.ask("ruok") == "imok"

    def ask(self, word: str) -> str:
        """Return ZooKeeper's answer to a four-letter word, or "" when there is none within a second."""
        with suppress(OSError), socket.create_connection((HOST, self.port), timeout=1) as connection:
            connection.sendall(word.encode())
            return connection.makefile().read()
        return ""


class ZooKeeperBroker(Broker):
    """One that registers with ZooKeeper."""

    def __init__(
        self,
        zookeeper: ZooKeeper,
        id: int,
        port: int,
        config: Mapping[str, str],
        class_path: Sequence[Path],
        watchdog: Watchdog,
    ) -> None:
        self._zookeeper = zookeeper
        properties = {
            "listeners": f"PLAINTEXT://{HOST}:{port}",
            "zookeeper.connect": f"{HOST}:{zookeeper.port}",
            "zookeeper.connection.timeout.ms": "60000",
            "zookeeper.session.timeout.ms": "4000",
            **config,
        }
        super().__init__(id, port, properties, class_path, watchdog)

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
