"""Who takes part: our detector on each interpreter, and its peers, each with its version, or why it cannot run."""

import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench import streams
from bench.topics import ROOT

PEERS = Path(__file__).parent / "peers"


@dataclass(frozen=True)
class Candidate:
    """A program that does the detector's job."""

    name: str
    version: str
    guarantee: str
    """What it promises in a crash: "exactly once", "at least once" or "none"."""
    command: list[str]
    folder: Path = PEERS
    """Where it is started."""
    environ: dict[str, str] = field(default_factory=dict)
    same_bytes: bool = True
    """Whether a value comes out as it came in; else only its JSON is the same."""
    missing: str = ""
    """Why it cannot run here; empty where it can."""


def all_candidates(pypy: str | None, download: bool) -> list[Candidate]:
    """Return every candidate, those included that cannot run here. Jars are downloaded only if `download` says so."""
    kafka_python = f"kafka-python {importlib.metadata.version('kafka-python')}"
    ours = [detector("CPython", sys.executable, f"{platform.python_version()}, {kafka_python}")]
    if pypy:
        ours.append(detector("PyPy", pypy, f"{_pypy_version(pypy)}, {kafka_python}"))
    return [
        *ours,
        _python_peer("tutorial's loop", ["tutorial.py"], "kafka", "kafka-python", "none", same_bytes=False),
        _python_peer("Faust", ["faust_peer.py"], "faust", "faust-streaming", "at least once"),
        _python_peer("Quix Streams", ["quix_peer.py"], "quixstreams", "quixstreams", "exactly once"),
        _python_peer("aiokafka, send()", ["aiokafka_peer.py", "send"], "aiokafka", "aiokafka", "exactly once"),
        _python_peer("aiokafka, batches", ["aiokafka_peer.py", "batches"], "aiokafka", "aiokafka", "exactly once"),
        _python_peer("confluent-kafka", ["confluent_peer.py"], "confluent_kafka", "confluent-kafka", "exactly once"),
        _kafka_streams(download),
    ]


def detector(interpreter: str, python: str, version: str = "") -> Candidate:
    """Return our detector as a candidate, on this interpreter."""
    return Candidate(f"detector, {interpreter}", version, "exactly once", [python, "app.py"], ROOT / "detector")


def generator(python: str = sys.executable) -> Candidate:
    """Return our generator, to be run like a candidate."""
    return Candidate("generator", "", "", [python, "app.py"], ROOT / "generator")


def _pypy_version(pypy: str) -> str:
    code = "import sys; print('.'.join(map(str, sys.pypy_version_info[:3])))"
    return subprocess.run([pypy, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def _python_peer(
    name: str, program: list[str], module: str, package: str, guarantee: str, same_bytes: bool = True
) -> Candidate:
    version, missing = "", ""
    if importlib.util.find_spec(module) is None:
        missing = "not installed"
    else:
        version = f"{package} {importlib.metadata.version(package)}"
        # Installed is not enough: a library can fail to import on a Python that is too new for it.
        trial = subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True, text=True)
        if trial.returncode:
            missing = f"does not import: {trial.stderr.strip().splitlines()[-1]}"
    return Candidate(name, version, guarantee, [sys.executable, *program], same_bytes=same_bytes, missing=missing)


def _kafka_streams(download: bool) -> Candidate:
    try:
        command, missing = streams.command(download), ""
    except streams.UnavailableError as error:
        command, missing = [], str(error)
    return Candidate("Kafka Streams", streams.VERSION, "exactly once", command, missing=missing)


class Process:
    """A candidate, or a service, that runs."""

    def __init__(self, popen: subprocess.Popen[bytes], log: Path) -> None:
        self.popen = popen
        self.log = log

    @property
    def pid(self) -> int:
        """The id of its first process and of its session."""
        return self.popen.pid

    @property
    def text(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(errors="replace")

    def stop(self) -> None:
        """Stop it in order, as Compose does. Raises RuntimeError where that is not how it ends."""
        self.popen.terminate()
        if self.popen.wait(60):
            self.check()

    def check(self) -> None:
        """Raise RuntimeError, with the end of its log, if it has ended."""
        if self.popen.poll() is not None:
            tail = self.text.strip().splitlines()[-15:]
            raise RuntimeError(f"ended with exit code {self.popen.returncode}: " + "\n".join(tail))


@contextmanager
def running(candidate: Candidate, environ: dict[str, str]) -> Iterator[Process]:
    """Run a candidate as long as the block; it is killed at the end."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        log = Path(folder) / "log"
        with log.open("wb") as output:
            popen = subprocess.Popen(
                candidate.command,
                cwd=candidate.folder,
                # Faust and Kafka Streams want a folder for state, even where there is none.
                env={**os.environ, **candidate.environ, **environ, "STATE_FOLDER": folder},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the benchmark, and the meter finds the processes by it
            )
        try:
            yield Process(popen, log)
        finally:
            popen.kill()
            popen.wait()
