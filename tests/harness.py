"""What only tests need; what they share with the demo and the benchmarks is in `embedded`."""

import json
import os
import re
import select
import subprocess
import sys
import urllib.request
from datetime import datetime
from pathlib import Path
from typing import NoReturn

import psutil
import pytest
from kafka.errors import KafkaError

from embedded.pipeline import ROOT, Pipeline
from embedded.records import Record
from embedded.service import Restarted, Service, wait_until

PLAIN_LINE = (
    r"transactions=\d+ legit=\d+ fraud=\d+ dead_letter=\d+ rate=\d+/s fraud=[\d.]+% lag=\d+ p50=\d+ms p99=\d+ms"
)
"""What the demo prints each second where there is no terminal."""
AUDIT = (
    r"ok      0 lost",
    r"ok      0 doubled",
    r"ok      0 on the wrong side of 900",
    r"ok      [\d,]+ dead letters, [\d,]+ malformed ones written",
    r"ok      [\d,]+ transactions written",
    r"        [\d.]+% fraud, expected 10.01%",
)
"""What the demo prints in the end."""


STARTED: list[psutil.Process] = []
"""What the test that runs has started by `start`."""


def start(module: str, *arguments: str, **options: object) -> "subprocess.Popen[str]":
    """Start one of our modules; at the end of the test it is killed, if it still runs, with all that it has started."""
    command = [sys.executable, "-m", module, *arguments]
    process = subprocess.Popen(command, **{"cwd": ROOT, "text": True} | options)  # type: ignore[call-overload]
    STARTED.append(psutil.Process(process.pid))
    return process  # type: ignore[no-any-return]


def as_text(name: str, log: str) -> str:
    """Return a log of LOG_FORMAT=json as it would be without. Fails at a line that is no object."""
    *lines, rest = log.split("\n")
    return "\n".join([*(_as_text(name, line) for line in lines), rest])


def _as_text(name: str, line: str) -> str:
    if name == "redrive" and not line.startswith("{"):  # its report, which is for people
        return line
    logged = json.loads(line)
    assert logged["service"] == name.replace("-", "_")
    time = datetime.fromisoformat(logged["time"]).astimezone()
    text = f"{time:%Y-%m-%d %H:%M:%S},{time.microsecond // 1000:03} {logged['level']} {logged['message']}"
    return text + (f"\n{logged['exception']}" if "exception" in logged else "")


def read_terminal(terminal: int) -> bytes:
    """Return what comes next from a terminal; OSError once nobody writes to it any more."""
    assert select.select([terminal], [], [], 240)[0], "nothing for four minutes"
    return os.read(terminal, 65536)


def unable(reason: str) -> NoReturn:
    """Skip for this reason, or fail where a Docker engine has been promised."""
    if os.environ.get("REQUIRE_DOCKER") == "1":
        pytest.fail(f"{reason} (REQUIRE_DOCKER=1)", pytrace=False)
    pytest.skip(reason)


def transaction(amount: object = 10, **members: object) -> bytes:
    """Return the value of a valid transaction."""
    return json.dumps({"source": "alice", "target": "bob", "amount": amount, "currency": "EUR", **members}).encode()


class NoName(str):
    """The name of a header that is none: it is not UTF-8, which Kafka's own client could not read."""

    def encode(self, *_: object) -> bytes:
        """Return what the client writes."""
        return b"\xff"


TOO_SLOW = re.compile(
    "not answered for too long|does not answer|does not get into the group|Is a broker down|UnknownMemberId| yet$"
)
"""What else a detector may say before it ends, on a busy machine."""


def wait_for_error(service: Restarted, *words: str) -> None:
    """Wait until it has ended, with exit code 1, after a single line that has all these words."""

    def errors() -> list[str]:
        return [line for line in service.log.splitlines() if " ERROR " in line]

    def is_it(line: str) -> bool:
        return all(word in line for word in words)

    wait_until(lambda: any(map(is_it, errors())), 240, lambda: f"{words} in the log:\n{service.log}")
    wait_until(lambda: bool(service.exit_codes), 60)
    service.check()
    assert not [line for line in errors() if not is_it(line) and not TOO_SLOW.search(line)], service.log
    assert "Traceback" not in service.log


def shares(pipeline: Pipeline) -> list[int]:
    """Return how many partitions each member of the group has, in order; none while the group is not stable."""
    with pipeline.admin() as admin:
        try:
            group = admin.describe_groups([pipeline.name])[pipeline.name]
        except KafkaError:  # Kafka has yet to find out who coordinates the group
            return []
    if group["group_state"] != "Stable":
        return []
    assigned = [(member["member_assignment"] or {}).get("assigned_partitions", []) for member in group["members"]]
    return sorted(sum(len(topic["partitions"]) for topic in topics) for topics in assigned)


def wait_for_shares(pipeline: Pipeline, *wanted: int) -> None:
    """Wait until the group is stable, with one member for each number, which has so many partitions."""
    wait_until(lambda: shares(pipeline) == sorted(wanted), 120, lambda: f"the shares are {shares(pipeline)}")


def wait_until_at_work(pipeline: Pipeline) -> None:
    """Write a fraud, and wait until the detector has passed it on: it has its partitions, and has seen the topics."""
    pipeline.write([Record(transaction(900))])
    pipeline.drain()


def wait_for_a_beat(heartbeat: Path, detector: Service | Restarted) -> None:
    """Make the heartbeat look old, and wait until that has changed."""
    os.utime(heartbeat, (0, 0))
    wait_until(lambda: heartbeat.stat().st_mtime > 0, 120, lambda: detector.log)


def scrape(port: int) -> dict[str, float]:
    """Return each sample by its name and labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    samples = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in samples}


def memory_peak_mb(service: Service) -> float:
    """Return the largest resident memory of a process so far."""
    for line in Path(f"/proc/{service.process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmHWM")
