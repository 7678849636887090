"""Who takes part: our detector and its peers, each with its version, or why it cannot run."""

import importlib.metadata
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench import kafka_streams
from embedded import JarError
from embedded.pipeline import ROOT, Pipeline
from embedded.service import Service

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
    missing: str = ""
    """Why it cannot run here; empty where it can."""
    keeps_records: bool = True
    """Whether value, key and headers come out as they came in; else only the content of the JSON does."""
    environ: dict[str, str] = field(default_factory=dict)

    def start(self, pipeline: Pipeline, number: int = 0, **environ: str) -> Service:
        """Start an instance; the number tells it from others of the same group."""
        variables = pipeline.environ("detector", TRANSACTIONAL_ID=f"{pipeline.name}-{number}")
        return Service(self.name, variables | self.environ | environ, self.command, self.folder)


def all_candidates(download: bool, before: Path | None = None) -> list[Candidate]:
    """Return every candidate, ours first, those included that cannot run here.

    `before` is a folder with another version of the detector. Jars are downloaded only if `download` says so.
    """
    client = f"kafka-python {importlib.metadata.version('kafka-python')}"

    def ours(name: str, folder: Path = ROOT) -> Candidate:
        is_old = not (folder / "exactly_once").exists()  # before the services had an engine
        program, folder = (["app.py"], folder / "detector") if is_old else (["-m", "detector.app"], folder)
        return Candidate(name, client, "exactly once", [sys.executable, *program], folder)

    def peer(name: str, package: str, guarantee: str, *program: str) -> Candidate:
        try:
            version, missing = f"{package} {importlib.metadata.version(package)}", ""
        except importlib.metadata.PackageNotFoundError:
            version, missing = "", "not installed"
        return Candidate(name, version, guarantee, [sys.executable, *program], missing=missing)

    def step(name: str, guarantee: str, module: str) -> Candidate:
        return Candidate(name, client, guarantee, [sys.executable, "-m", f"docs.steps.{module}"], ROOT)

    try:
        streams, missing = kafka_streams.command(download), ""
    except JarError as error:
        streams, missing = [], str(error)
    return [
        ours("detector"),
        replace(ours("detector, metrics"), environ={"METRICS_PORT": "18000"}),
        *([ours(f"detector at {before.name}", before)] if before else []),
        replace(peer("tutorial's loop", "kafka-python", "none", "tutorial.py"), keeps_records=False),
        step("step 2, commits", "at least once", "step2_commits"),
        step("step 3, transactions", "exactly once", "step3_transactions"),
        peer("Quix Streams", "quixstreams", "exactly once", "quix_peer.py"),
        peer("aiokafka, send()", "aiokafka", "exactly once", "aiokafka_peer.py", "send"),
        peer("aiokafka, batches", "aiokafka", "exactly once", "aiokafka_peer.py", "batches"),
        peer("confluent-kafka", "confluent-kafka", "exactly once", "confluent_peer.py"),
        Candidate("Kafka Streams", kafka_streams.VERSION, "exactly once", streams, missing=missing),
    ]


def checkout(commit: str, folder: Path) -> Path:
    """Put the detector of a commit into a new folder of this folder, and return that. Raises RuntimeError."""
    named = subprocess.run(["git", "rev-parse", "--short", f"{commit}^0"], cwd=ROOT, capture_output=True, text=True)
    if named.returncode:
        raise RuntimeError(f"no commit {commit}: {named.stderr.strip()}")
    target = folder / named.stdout.strip()
    target.mkdir()
    subprocess.run(["sh", "-c", 'git archive "$0" | tar -x -C "$1"', commit, target], cwd=ROOT, check=True)
    return target
