"""Docker, Compose and make as their user calls them, and what the engine says of our containers."""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
from collections.abc import Collection
from typing import Any

from embedded.pipeline import ROOT
from harness import unable

PROJECT = "fraudtest"
"""The tests' own Compose project."""
NETWORK = "kafka-network"
HOST_PORT = 29092
V2, V1 = "docker compose", "docker-compose"
KAFKA = "-f docker-compose.kafka.yml"
SERVICES = ("detector", "generator")
CLUSTER = ("broker", "zookeeper")


def clean_environment() -> dict[str, str]:
    """Return our environment without what the caller's shell, or a make that runs the tests, says to Compose."""
    files = [*ROOT.glob("docker-compose*.yml"), *ROOT.glob("compose/*.yml")]
    variables = {name for file in files for name in re.findall(r"\$\{(\w+)", file.read_text())}
    variables |= {"KRAFT", "THREE_BROKERS", "SECURE", "MONITORING", "GRAFANA", "ALERTS"}
    clean = {k: v for k, v in os.environ.items() if k not in variables and not re.match("COMPOSE|MAKE|MFLAGS|TOPIC", k)}
    # In a narrow terminal v1 breaks the names of containers.
    ours = {"COMPOSE_PROJECT_NAME": PROJECT, "COLUMNS": "250", "COMPOSE_HTTP_TIMEOUT": "600"}
    return clean | ours | {"TRANSACTIONS_PER_SECOND": "250"}  # a quarter of the work that these tests cause


def run(command: str, code: int = 0) -> str:
    """Run a command line of a user's in the project's folder, see that it ends with this code, and return its output.

    The output comes without colours, and with a line of its own for each that would be written over the one before.
    """
    ended = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=ROOT,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1200,
        check=False,
    )
    assert ended.returncode == code, f"{command}: exit code {ended.returncode}\n{ended.stdout}"
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", ended.stdout).replace("\r", "\n")


def complaints(output: str) -> list[str]:
    """Return the warnings and errors in what Compose has printed."""
    # Not those in the lines of a build, which are pip's and the like.
    words = r"^(?!#\d+ ).*\b(warn|warning|error|failed|deprecated|obsolete|orphan)\b"
    return [line for line in output.splitlines() if re.search(words, line, re.I)]


def inspect(kind: str, names: Collection[str]) -> list[dict[str, Any]]:
    """Return what the engine says of those of these containers, volumes, ... that exist."""
    command = ["docker", kind, "inspect", *names]
    return (
        json.loads(subprocess.run(command, capture_output=True, timeout=60, check=False).stdout or "[]")
        if names
        else []
    )


def containers(*names: str) -> list[dict[str, Any]]:
    """Return what the engine says of our containers, running or not: of all, or of those of these services."""
    ids = run(f"docker ps --all --quiet --filter label=com.docker.compose.project={PROJECT}").split()
    return [container for container in inspect("container", ids) if not names or service(container) in names]


def service(container: dict[str, Any]) -> str:
    """Return the name of the container's service."""
    return str(container["Config"]["Labels"]["com.docker.compose.service"])


def passes_its_check(container: dict[str, Any]) -> bool:
    """Return whether the container's health check succeeds now; the engine itself runs it every 15 seconds."""
    kind, *words = container["Config"]["Healthcheck"]["Test"]
    check = ["sh", "-c", *words] if kind == "CMD-SHELL" else words
    asked = subprocess.run(["docker", "exec", container["Id"], *check], capture_output=True, timeout=60, check=False)
    return asked.returncode == 0


def log(container: dict[str, Any]) -> str:
    """Return what the container has printed since its last start."""
    return run(f"docker logs --since {container['State']['StartedAt']} {container['Id']}")


# --- what the tests need ---


def succeeds(command: str) -> bool:
    """Return whether the command can be run and ends well."""
    return subprocess.run(shlex.split(command), capture_output=True, timeout=60, check=False).returncode == 0


def check_installed(*tools: str) -> None:
    """Skip where one of these commands is missing."""
    missing = [tool for tool in tools if not shutil.which(tool)]
    if missing:
        unable(f"not installed: {' and '.join(missing)}")


def check_engine(command: str) -> None:
    """Skip where no engine answers or this Compose is missing."""
    check_installed("docker", "make")
    if not succeeds("docker info"):
        unable("no Docker engine answers 'docker info'")
    if command == V2 and not succeeds("docker compose version"):
        unable("not installed: Compose v2 ('docker compose')")
    # Docker's own packages have a v2 under the name of v1.
    if command == V1 and not (shutil.which(V1) and run("docker-compose version --short").startswith("1.")):
        unable("not installed: Compose v1 ('docker-compose' 1.x)")


def check_unused() -> None:
    """Skip where others use the network or the port."""
    others = run(f"docker ps --all --filter network={NETWORK} --format '{{{{.Names}}}}'").split()
    if others:
        unable(f"others use the network {NETWORK} ({', '.join(others)}): 'make down' first")
    with socket.socket() as listener:
        # Without it, connections that ended a moment ago would count, too.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", HOST_PORT))
        except OSError:
            unable(f"port {HOST_PORT} of this machine is taken: 'make down' first, or end what has it")
