"""A JVM of the cluster as a process: started, stopped, killed, paused, and waited for."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from embedded.java import java_command
from embedded.watchdog import Watchdog

T = TypeVar("T")
READY_SECONDS = 300


class ServerError(Exception):
    """A server ended or does not answer; the message ends with the last lines of its log."""


class Server:
    """A JVM of the cluster. It keeps its port and its data from start to start."""

    def __init__(
        self,
        name: str,
        port: int,
        main_class: str,
        heap: str,
        properties: Mapping[str, str],
        class_path: Sequence[Path],
        watchdog: Watchdog,
    ) -> None:
        self.name = name
        self.port = port
        self._watchdog = watchdog
        self._log = watchdog.folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._exit_code: int | None = None
        self._file = watchdog.folder / f"{name}.properties"
        self._file.write_text("".join(f"{key}={escaped(value)}\n" for key, value in properties.items()))
        # The JVM's temporary files go into the folder too, or a killed JVM would leave them behind.
        options = [heap, "-XX:+UseG1GC", f"-Djava.io.tmpdir={watchdog.folder}"]
        self._command = java_command(main_class, str(self._file), options=options, class_path=class_path)

    @property
    def running(self) -> bool:
        """Whether the process exists; a paused one does."""
        if self._process is not None and self._process.poll() is not None:
            self._watchdog.remove(self._process.pid)
            self._exit_code = self._process.returncode
            self._process = None
        return self._process is not None

    @property
    def pid(self) -> int:
        """The process's number; 0 if there is none."""
        return self._process.pid if self.running and self._process else 0

    def start(self) -> None:
        """Start the process and return at once; `wait_ready` waits until it answers."""
        if not self.running:
            uninterrupted(self._launch)

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

    def stop(self, timeout: float = 300) -> None:
        """Shut the server down gracefully (SIGTERM) and wait up to `timeout` seconds for its end.

        Raises:
            ServerError: it still runs after that time; `kill` ends it.
        """
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)  # A paused process gets the SIGTERM only once it continues.
        self._wait_end(timeout)

    def kill(self) -> None:
        """End the process at once (SIGKILL), as a crash does."""
        self._signal(signal.SIGKILL)
        self._wait_end(timeout=60)

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

    def wait_ready(self, timeout: float = READY_SECONDS) -> None:
        """Wait up to `timeout` seconds until the server answers a request.

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
        if self.running and self._process:
            os.killpg(self._process.pid, number)  # the group, as a start may consist of two JVMs

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


def escaped(value: str) -> str:
    """Return a property's value as Java reads it, which takes such a file for Latin-1: UTF-16 in ASCII beyond that."""

    def units(character: str) -> str:
        return "".join(
            f"\\u{unit:04x}" for unit in memoryview(character.encode("utf-16-le", "surrogatepass")).cast("H")
        )

    return "".join(character if character.isascii() else units(character) for character in value)


def uninterrupted(action: Callable[[], T]) -> T:
    """Return what the action returns; Ctrl-C is raised after it, not within.

    Python raises Ctrl-C in the main thread only, which waits here for another thread. Otherwise it could come when a
    process has started and nobody knows yet that it must end.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(action).result()
