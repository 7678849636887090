"""Ends the JVMs of a cluster and deletes its folder, however the process that owns them ends.

A small process of its own reads the process ids of the JVMs from a pipe. When the owner says so, or is gone (even by
SIGKILL, since the system then closes the pipe), it kills them and deletes the folder. This needs nothing but POSIX.

Not covered: a SIGKILL of the watchdog itself; children that the owner forks without exec, since they hold the pipe open
until they end too; a SIGKILL of the owner in the instant between the start of a JVM and the line that tells of it.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Self


class Watchdog:
    """The owner's end of the pipe, for a `with` block; `folder` is new, and deleted in the end."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="embedded-kafka-"))
        # A session of its own, or the terminal's Ctrl-C would end the watchdog before its work is done.
        self._process = subprocess.Popen(
            [sys.executable, "-I", __file__, str(self.folder)],
            stdin=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )

    def add(self, pid: int) -> None:
        """Watch this process too."""
        self._tell(f"+{pid}")

    def remove(self, pid: int) -> None:
        """Forget this process: it has ended, and its id may soon be another's."""
        self._tell(f"-{pid}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Kill all watched processes and delete the folder; return when this is done."""
        self._tell("end")
        self._process.communicate(timeout=120)

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())


def _watch(folder: str) -> None:
    pids: set[int] = set()
    for line in sys.stdin:
        if line == "end\n":
            break
        (pids.add if line[0] == "+" else pids.discard)(int(line[1:]))
    for pid in pids:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # each leads a group of its own
    # A JVM that is just ending may still add a file: try again until the folder is gone.
    for _ in range(100):
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.exists(folder):
            break
        time.sleep(0.05)


if __name__ == "__main__":
    _watch(sys.argv[1])
