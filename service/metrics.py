"""Metrics for Prometheus, if METRICS_PORT is set. docs/monitoring.md says what each means."""

import io
import platform
import socket
import socketserver
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from threading import Thread
from typing import Any

from prometheus_client import REGISTRY, Info
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import MetricsHandler
from prometheus_client.registry import Collector

from service.settings import ConfigurationError

VERSION = "0.2.0"

REQUEST_SECONDS = 2
"""How long a whole request may take, from the connection to the last byte of the answer."""
MOST_SCRAPERS = 4
"""How many are answered at once. For one more, the one that has taken longest is disconnected."""
PAUSE_SECONDS = 0.05
"""After each connection. A client that asks without pause costs a few percent of the interpreter's time at most."""

Figure = tuple[str, str, Mapping[str, float]]
"""A name (a counter's ends in `_total`), what it means, and the value for each receiver; "" stands for none."""


class Handler(MetricsHandler):
    """Answers one request."""

    def do_HEAD(self) -> None:
        """Answer as to a GET, without the metrics."""
        answer, self.wfile = self.wfile, io.BytesIO()
        self.do_GET()
        answer.write(b"%b\r\n\r\n" % self.wfile.getvalue().partition(b"\r\n\r\n")[0])


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Answers scrapers by IPv4 and, where there is any, by IPv6."""

    allow_reuse_address = daemon_threads = True
    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET

    def server_bind(self) -> None:
        """Listen to both with one socket."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.since: dict[Any, float] = {}  # when each connection began, the oldest first
        super().server_bind()

    def process_request(self, request: Any, address: Any) -> None:
        """Answer in a thread, and pause."""
        self.since[request] = time.monotonic()
        self.disconnect([*self.since][:-MOST_SCRAPERS])
        super().process_request(request, address)
        time.sleep(PAUSE_SECONDS)

    def service_actions(self) -> None:
        """Disconnect whoever has had its time. Called twice a second, and after each connection."""
        now = time.monotonic()
        self.disconnect([request for request, since in self.since.copy().items() if now - since > REQUEST_SECONDS])

    def disconnect(self, requests: Iterable[Any]) -> None:
        """Wake the threads that wait for these connections: they find them closed."""
        for request in requests:
            with suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def shutdown_request(self, request: Any) -> None:
        """Forget the connection, and close it."""
        self.since.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, *_: object) -> None:
        """Say nothing: a scraper that disconnects is not our problem."""


class Figures(Collector):
    """Metrics that are looked up when a scraper asks."""

    def __init__(self, name: str, look_up: Callable[[], Iterable[Figure]]) -> None:
        self.name, self.look_up = name, look_up

    def collect(self) -> Iterator[Metric]:
        """Yield the current figures."""
        for figure, meaning, values in self.look_up():
            family = CounterMetricFamily if figure.endswith("_total") else GaugeMetricFamily
            metric = family(f"{self.name}_{figure}", meaning, labels=["receiver"] if "" not in values else [])
            for receiver, value in values.items():
                metric.add_metric([receiver] if receiver else [], value)
            yield metric


def serve(port: int, name: str, look_up: Callable[[], Iterable[Figure]] = tuple) -> None:
    """Answer scrapers, as long as the process lives. Raises ConfigurationError if the port is not available."""
    Info(name, f"Version of the {name} and its interpreter").info(
        {"version": VERSION, "interpreter": f"{sys.implementation.name} {platform.python_version()}"}
    )
    REGISTRY.register(Figures(name, look_up))
    try:
        server = Server(("", port), Handler)
    except OSError as error:
        raise ConfigurationError(f"METRICS_PORT is {port} ({error.strerror}): give it a free port") from None
    Thread(target=server.serve_forever, daemon=True).start()
