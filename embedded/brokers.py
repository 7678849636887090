"""The brokers: their properties, and how to check that each is healthy."""

import shlex
import socket
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from embedded.java import BRIEF, java_command
from embedded.server import Server
from embedded.watchdog import Watchdog

HOST = "127.0.0.1"


class Broker(Server):
    """One broker of the cluster."""

    def __init__(
        self, id: int, port: int, config: Mapping[str, str], class_path: Sequence[Path], watchdog: Watchdog
    ) -> None:
        self.id = id
        properties = {"node.id": f"{id}", "log.dirs": f"{watchdog.folder}/broker-{id}", **config}
        super().__init__(f"broker-{id}", port, "kafka.Kafka", "-Xmx512m", properties, class_path, watchdog)

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


class KraftBroker(Broker):
    """One that is also a controller, and begins with a folder that is formatted for this cluster."""

    def __init__(
        self,
        cluster_id: str,
        controllers: Sequence[int],
        id: int,
        port: int,
        config: Mapping[str, str],
        class_path: Sequence[Path],
        watchdog: Watchdog,
    ) -> None:
        """The ports of all controllers are in the order of the brokers' ids."""
        listeners = config.get("listeners", f"PLAINTEXT://{HOST}:{port}")
        protocols = config.get("listener.security.protocol.map", "PLAINTEXT:PLAINTEXT")
        properties = {
            **config,
            "process.roles": "broker,controller",
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.voters": ",".join(f"{n}@{HOST}:{inner}" for n, inner in enumerate(controllers)),
            "listeners": f"{listeners},CONTROLLER://{HOST}:{controllers[id]}",
            "listener.security.protocol.map": f"{protocols},CONTROLLER:PLAINTEXT",
            "broker.session.timeout.ms": "4000",
            "broker.heartbeat.interval.ms": "500",
        }
        super().__init__(id, port, properties, class_path, watchdog)
        storage = ("kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id}", "--config", str(self._file))
        formatting = java_command(*storage, options=BRIEF, class_path=class_path, log_level="WARN")
        formatted = f"[ -e broker-{id}/meta.properties ] || {shlex.join(formatting)}"
        self._command = ["sh", "-c", f"{formatted} && exec {shlex.join(self._command)}"]
