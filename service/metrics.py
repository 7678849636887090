"""Metrics for Prometheus, if METRICS_PORT is set. docs/monitoring.md says what each means."""

import platform
import socketserver
import sys
import time
from threading import Thread
from typing import Any

from prometheus_client import Info
from prometheus_client.exposition import MetricsHandler

from service.settings import ConfigurationError

VERSION = "0.2.0"

REQUEST_SECONDS = 1
"""How long a scraper may keep silent."""

PAUSE_SECONDS = 0.05
"""After each answer. A client that asks without pause costs a few percent of the interpreter's time at most."""


class Handler(MetricsHandler):
    """Answers one request."""

    timeout = REQUEST_SECONDS


class Server(socketserver.TCPServer):
    """Answers one scraper at a time."""

    allow_reuse_address = True

    def process_request(self, *request: Any) -> None:
        """Answer, and pause."""
        super().process_request(*request)
        time.sleep(PAUSE_SECONDS)

    def handle_error(self, *request: object) -> None:
        """Say nothing: a scraper that disconnects is not our problem."""


def serve(port: int, name: str) -> None:
    """Answer scrapers, as long as the process lives. Raises ConfigurationError if the port is not available."""
    Info(name, f"Version of the {name} and its interpreter").info(
        {"version": VERSION, "interpreter": f"{sys.implementation.name} {platform.python_version()}"}
    )
    try:
        server = Server(("", port), Handler)
    except OSError as error:
        raise ConfigurationError(f"METRICS_PORT is {port} ({error.strerror}): give it a free port") from None
    Thread(target=server.serve_forever, daemon=True).start()
