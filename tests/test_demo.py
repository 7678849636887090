"""The demo, run as a user would: its audit, in a pipe and in a terminal, and an audit that fails."""

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import ROOT

AUDIT = ("ok      0 lost", "ok      0 doubled", "ok      0 on the wrong side of 900", "transactions written")


def demo(*arguments: str, folder: Path = ROOT, **options: object) -> subprocess.Popen[str]:
    """Start the demo."""
    return subprocess.Popen(
        [sys.executable, "-m", "demo", *arguments],
        cwd=folder,
        text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} | options,  # type: ignore[call-overload]
    )


def processes() -> set[str]:
    """Return the command lines of the services and the JVMs that run now, with their ids."""
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return {line for line in listed.splitlines() if re.search(r"python\S* app\.py|QuorumPeerMain|kafka\.Kafka", line)}


def test_in_a_pipe_it_prints_plain_lines_and_a_true_audit() -> None:
    """A line a second, the audit, exit code 0; fraud, lag and latency are in the lines; no process is left."""
    before = processes()
    process = demo("--duration", "8")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "\x1b" not in output
    lines = re.findall(r"^transactions=\d+ .*fraud=[\d.]+% lag=\d+ p50=\d+ms p99=\d+ms$", output, re.MULTILINE)
    assert len(lines) >= 5
    for text in AUDIT:
        assert text in output
    written = int(re.search(r"([\d,]+) transactions written", output)[1].replace(",", ""))  # type: ignore[index]
    assert written > 5000
    dead, malformed = re.search(r"(\d+) dead letters, (\d+) malformed", output).groups()  # type: ignore[union-attr]
    assert dead == malformed > "2"
    assert processes() == before


def test_in_a_terminal_it_shows_the_live_view_until_ctrl_c() -> None:
    """With no end set it runs until Ctrl-C, which stops it in order: the audit follows, and exit code 0."""
    before = processes()
    ours, theirs = pty.openpty()
    process = demo("--duration", "0", stdin=theirs, stdout=theirs, stderr=theirs, env=os.environ | {"TERM": "xterm"})
    os.close(theirs)
    output = b""
    while b"newest frauds" not in output:
        output += os.read(ours, 65536)
        assert process.poll() is None, output
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    while True:
        try:
            output += os.read(ours, 65536)
        except OSError:  # the other side is closed
            break
    assert process.wait(60) == 0, output
    text = output.decode()
    for expected in ("\x1b[", "streaming.transactions.fraud", "detector lag", "p99", *(line[8:] for line in AUDIT)):
        assert expected in text
    assert processes() == before


DECIDE = "        answer, reason = decide(value)\n"


@pytest.mark.parametrize(
    ("file", "old", "new", "verdict"),
    [
        ("rule.py", "FRAUD_AMOUNT = 900", "FRAUD_AMOUNT = 800", "on the wrong side of 900"),
        ("app.py", DECIDE, f"        if record.offset % 9 == 0:\n            continue\n{DECIDE}", "lost"),
    ],
)
def test_a_wrong_detector_fails_the_audit(tmp_path: Path, file: str, old: str, new: str, verdict: str) -> None:
    """A detector that misroutes, or loses, makes the audit say so, and the exit code 1."""
    for name in ("demo", "embedded", "generator", "detector"):
        shutil.copytree(ROOT / name, tmp_path / name)
    source = tmp_path / "detector" / file
    assert old in source.read_text()
    text = source.read_text().replace(old, new).replace("sent, strict=True)", "sent)")
    source.write_text(text)
    process = demo("--duration", "5", folder=tmp_path)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1, output
    assert re.search(rf"WRONG +[1-9][\d,]* {verdict}", output), output


def test_watching_nothing_says_so() -> None:
    """Where no Kafka answers, `watch` says so in a line and ends with exit code 1."""
    process = demo("watch", "--broker", "127.0.0.1:1")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert output.count("\n") == 1
    assert "127.0.0.1:1" in output
