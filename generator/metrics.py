"""Metrics for Prometheus, if METRICS_PORT is set. docs/monitoring.md says what each means."""

import platform
import socketserver
import sys
import time
from collections.abc import Iterator
from threading import Thread
from typing import Any

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import MetricsHandler

from report import Report
from settings import ConfigurationError

VERSION = "0.2.0"

REQUEST_SECONDS = 1
"""A slower scraper is disconnected."""

PAUSE_SECONDS = 0.05
"""After each answer. A client that asks without pause costs a few percent of the interpreter's time at most."""


class Metrics:
    """Answers scrapers with what the report has counted, in a thread of its own."""

    def __init__(self, port: int, report: Report) -> None:
        """Listen. Raises ConfigurationError if the port is not available."""
        self.report = report
        REGISTRY.register(self)
        serve(port)

    def collect(self) -> Iterator[Metric]:
        """Yield the current figures."""
        report = self.report
        versions = {"version": VERSION, "interpreter": f"{sys.implementation.name} {platform.python_version()}"}
        yield InfoMetricFamily("generator", "Version of the generator and its interpreter", value=versions)
        yield CounterMetricFamily("generator_delivered", "Transactions acknowledged", value=report.delivered)
        yield CounterMetricFamily("generator_failed", "Transactions not delivered", value=report.failed)
        yield GaugeMetricFamily("generator_in_flight", "Transactions not acknowledged yet", len(report.in_flight))
        rate = report.settings.transactions_per_second
        yield GaugeMetricFamily("generator_target_rate", "Transactions per second asked for", rate)


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


def serve(port: int) -> None:
    """Answer scrapers, as long as the process lives. Raises ConfigurationError if the port is not available."""
    try:
        server = Server(("", port), Handler)
    except OSError as error:
        raise ConfigurationError(f"METRICS_PORT is {port} ({error.strerror}): give it a free port") from None
    Thread(target=server.serve_forever, daemon=True).start()
