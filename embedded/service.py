"""A service of the pipeline as a process: started as in production, waited for, and stopped."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from kafka.errors import AuthorizationError, KafkaError

ROOT = Path(__file__).parent.parent
FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 0.1, 2.0
"""Before a service is started again: as in Docker, the pause doubles unless the service has run for ten seconds."""

SETTINGS = re.compile(
    "(ALERTS?|AWS|KAFKA|SMURFING|TRANSACTIONS|WEB)_.*|.*_TOPIC|CONSUMER_GROUP|HEARTBEAT_FILE|LOG_FORMAT|METRICS_PORT|TRANSACTIONAL_ID"
    "|WRITE|FROM|TO|PARTITION|SINCE|UNTIL|REASON|ATTEMPTS"
)
"""Variables that our programs read."""


class ServiceError(Exception):
    """A service has ended that should not have; the message ends with the last lines of its log."""


class Service:
    """A service as a process; killed at the end of the `with` block."""

    def __init__(self, name: str, environ: Mapping[str, str], command: Sequence[str] = (), folder: Path = ROOT) -> None:
        """Start the one of this name, or a command in a folder. Its settings are these, and no others."""
        self.name = name
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the service)
        self.process = subprocess.Popen(
            command or service_command(name),
            cwd=folder,
            env=surroundings() | dict(environ),
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # keeps the terminal's Ctrl-C away: whoever has started it also stops it
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Kill it if it still runs."""
        self.process.kill()
        self.process.wait()

    @property
    def log(self) -> str:
        """What it has printed so far."""
        # The process writes at the position that both share, so this must not move it as read() would.
        file = self._log.fileno()
        return os.pread(file, os.fstat(file).st_size, 0).decode(errors="replace")

    def check(self) -> None:
        """Raise ServiceError if it has ended."""
        if self.process.poll() is not None:
            tail = "\n".join(self.log.splitlines()[-15:])
            raise ServiceError(f"{self.name} has ended with exit code {self.process.returncode}:\n{tail}")

    def wait_for(self, text: str, seconds: float = 120) -> None:
        """Wait until it has printed the text. Raises ServiceError if it ends without it, and TimeoutError."""

        def printed() -> bool:
            has_ended = self.process.poll() is not None  # checked first: its last output may arrive meanwhile
            if text not in self.log and has_ended:
                self.check()
            return text in self.log

        wait_until(printed, seconds, lambda: f"{text!r} in the log:\n{self.log}")

    def wait(self, seconds: float = 120) -> int:
        """Wait for its end, and return the exit code. Raises TimeoutError."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.name} still runs after {seconds} s:\n{self.log}") from None

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = 60) -> int:
        """Send it a signal, and return the exit code. Raises TimeoutError."""
        self.process.send_signal(number)
        return self.wait(seconds)


def surroundings() -> dict[str, str]:
    """Return the environment without what a developer's shell may have set for another Kafka, or for Compose."""
    return {name: value for name, value in os.environ.items() if not SETTINGS.fullmatch(name)}


def service_command(name: str) -> list[str]:
    """Return how a service is started in the repository's root."""
    return [sys.executable, "-m", f"{name}.app"]


class Restarted:
    """A service that is started again when it ends by itself, as with Compose's `restart: unless-stopped`.

    In a `with` block, it is killed for good at the end.
    """

    def __init__(self, start: Callable[[], Service]) -> None:
        self.service = start()
        self.exit_codes: list[int] = []
        self._start = start
        self._logs: list[str] = []
        self._wanted = True
        self._thread = threading.Thread(target=self._restart, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end(signal.SIGKILL)

    @property
    def pid(self) -> int:
        """The id of the process that runs now."""
        return self.service.process.pid

    @property
    def log(self) -> str:
        """What all its processes have printed."""
        return "".join([*self._logs, self.service.log])

    def check(self, *allowed: int) -> None:
        """Raise ServiceError if it has ended with another exit code than these, or 1: as when Kafka is too slow."""
        if set(self.exit_codes) - {1, *allowed}:
            raise ServiceError(f"{self.service.name} has ended with the exit codes {self.exit_codes}:\n{self.log}")

    def wait_for(self, text: str, seconds: float = 120) -> None:
        """Wait until one of its processes has printed the text. Raises TimeoutError."""
        wait_until(lambda: text in self.log, seconds, lambda: f"{text!r} in the log:\n{self.log}")

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it for good with a signal, and return the exit code. Raises TimeoutError."""
        self._wanted = False
        self._thread.join()
        if number != signal.SIGKILL:
            if self.service.process.poll() is not None:
                self._logs.append(self.service.log)
                self.service = self._start()
            self.service.wait_for("Starting with")  # a signal that comes before Python handles it is not answered
        return self.service.stop(number)

    def _restart(self) -> None:
        started, pause = time.monotonic(), FIRST_PAUSE_SECONDS
        while self._wanted:
            if self.service.process.poll() is None:
                time.sleep(0.02)
                continue
            self.exit_codes.append(self.service.process.returncode)
            pause = FIRST_PAUSE_SECONDS if time.monotonic() - started > 10 else min(2 * pause, LAST_PAUSE_SECONDS)
            time.sleep(pause)
            if self._wanted:
                self._logs.append(self.service.log)
                started, self.service = time.monotonic(), self._start()


def wait_until(condition: Callable[[], bool], seconds: float, describe: Callable[[], str] = str) -> None:
    """Wait until the condition holds. Raises TimeoutError, with the description, if it does not within the time.

    A KafkaError that the condition raises means "not yet": a broker that has just started, or is busy, answers later.
    One about a permission is raised at once.
    """

    def holds() -> bool:
        try:
            return condition()
        except KafkaError as error:
            if isinstance(error, AuthorizationError) or time.monotonic() > deadline:
                raise
            return False

    asked = time.monotonic()
    deadline = asked + seconds
    while not holds():
        now = time.monotonic()
        if now > deadline:
            raise TimeoutError(f"not within {seconds} s: {describe()}")
        time.sleep(min(1, max(0.05, now - asked)))  # what takes long to find out is asked less often
        asked = time.monotonic()
