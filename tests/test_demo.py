"""The demo, run as a user would: its audit, in a pipe and in a terminal, and an audit that fails."""

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
import time
import unicodedata
import uuid
from contextlib import closing
from pathlib import Path
from urllib.request import urlopen

import pytest
from rich.console import Console

from demo.__main__ import audit
from demo.observer import Observer
from detector.tests.corpus import CORPUS
from embedded import Cluster
from embedded.cluster import free_ports
from embedded.pipeline import ROOT, Pipeline
from embedded.records import Record, write
from harness import AUDIT, PLAIN_LINE, NoName, read_terminal, start, transaction

pytestmark = pytest.mark.long

MARK = f"DEMO_TEST_{uuid.uuid4().hex}"
"""A variable that every process of these demos inherits."""


def demo(*arguments: str, folder: Path = ROOT, output: int = subprocess.PIPE, **environ: str) -> subprocess.Popen[str]:
    """Start the demo, with these variables, on a terminal if its file is given."""
    streams = {"stdin": None if output == subprocess.PIPE else output, "stdout": output, "stderr": subprocess.STDOUT}
    return start("demo", *arguments, cwd=folder, env=os.environ | {MARK: "", "TERM": "xterm"} | environ, **streams)


def left_behind() -> list[str]:
    """Return the processes of these demos that run now: services, JVMs, watchdogs."""
    listed = subprocess.run(["ps", "axeww"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if MARK in line]


def test_in_a_pipe_it_prints_plain_lines_and_a_true_audit(tmp_path: Path) -> None:
    """A line a second, the ring that was found, the audit, exit code 0; no process and no file is left.

    So it does where no letter but ASCII's is known, and files are in a folder that has others in its name.
    """
    folder = tmp_path / "a проект"
    folder.mkdir()
    process = demo("--duration", "12", "--alerts", TMPDIR=str(folder), LC_ALL="C", PYTHONIOENCODING="ascii")
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert "\x1b" not in output
    assert len(re.findall(rf"^{PLAIN_LINE}$", output, re.MULTILINE)) >= 2
    (target,) = re.findall(r"50 to (launderer-\w+)", output)
    assert re.search(
        rf'The alert is in streaming.alerts: {{.*"target": "{target}", "sources": 50, "sum": 50000', output
    )
    assert re.search("Nothing about harmless-[0-9a-f]+, as it should be", output)
    for text in AUDIT:
        assert re.search(rf"^{text}$", output, re.MULTILINE), text
    written = int(re.search(r"([\d,]+) transactions written", output)[1].replace(",", ""))  # type: ignore[index]
    assert written > 100
    dead, malformed = re.search(r"(\d+) dead letters, (\d+) malformed", output).groups()  # type: ignore[union-attr]
    assert int(dead) == int(malformed) >= 1
    assert left_behind() == []
    assert list(folder.iterdir()) == []


def test_the_commands_that_it_prints_work() -> None:
    """They kill the detector and send what is no transaction while it runs: the audit holds, and knows of both."""
    process = demo("--duration", "25")
    output = ""
    assert process.stdout
    while "echo " not in output:
        output += (line := process.stdout.readline())
        assert line, output
    (kill, send) = re.findall(r"^  (kill -9 \d+|echo .*)$", output, re.MULTILINE)
    sent = subprocess.run(["bash", "-c", send], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert sent.returncode == 0, sent.stderr
    subprocess.run(["bash", "-c", kill], check=True, timeout=120)
    rest, _ = process.communicate(timeout=600)
    assert process.returncode == 0, rest
    dead, malformed = re.search(r"(\d+) dead letters, (\d+) malformed", rest).groups()  # type: ignore[union-attr]
    assert int(dead) == int(malformed) >= 2
    for text in AUDIT:
        assert re.search(rf"^{text}$", rest, re.MULTILINE), text
    assert "FRAUD_AMOUNT in detector/rule.py" in rest.split("expected")[1]


def test_in_a_terminal_it_shows_the_live_view_until_ctrl_c() -> None:
    """With no end it runs until Ctrl-C, which stops it in order: audit, exit code 0. A page shows the same.

    The terminal has Latin-1, and may be far away.
    """
    ours, theirs = pty.openpty()
    (port,) = free_ports(1)
    process = demo("--duration", "0", "--web", str(port), output=theirs, PYTHONIOENCODING="latin-1")
    os.close(theirs)
    output, started = b"", time.monotonic()
    while b"newest frauds" not in output:
        output += read_terminal(ours)
        assert process.poll() is None, output
    assert left_behind()
    with urlopen(f"http://localhost:{port}/events", timeout=120) as events:
        assert b"streaming.transactions.fraud" in events.readline()
    pictures = output.count(b"newest frauds")
    while output.count(b"newest frauds") < pictures + 20:
        output += read_terminal(ours)
    assert len(output) / (time.monotonic() - started) < 20_000  # bytes a second
    process.send_signal(signal.SIGINT)
    while True:
        try:
            output += read_terminal(ours)
        except OSError:  # the other side is closed
            break
    assert process.wait(240) == 0, output
    text = output.decode("latin-1")
    for expected in ("\x1b[", "streaming.transactions.fraud", "detector lag", "p99"):
        assert expected in text
    for line in AUDIT:
        assert re.search(line[8:], text), line
    assert left_behind() == []


def demo_with_rule(folder: Path, old: str, new: str) -> tuple[int, str]:
    """Run the demo with something else in the rule, and return its exit code and what it has printed."""
    for name in ("demo", "embedded", "generator", "detector", "exactly_once", "service"):
        shutil.copytree(ROOT / name, folder / name)
    rule = folder / "detector" / "rule.py"
    assert old in rule.read_text()
    rule.write_text(rule.read_text().replace(old, new))
    process = demo("--duration", "10", folder=folder)
    output, _ = process.communicate(timeout=600)
    return process.returncode, output


def test_a_wrong_detector_fails_the_audit(tmp_path: Path) -> None:
    """A detector that misroutes makes the audit say so, and the exit code 1."""
    exit_code, output = demo_with_rule(tmp_path, ">= FRAUD_AMOUNT", ">= FRAUD_AMOUNT - 100")
    assert exit_code == 1, output
    assert re.search(r"WRONG +[1-9][\d,]* on the wrong side of 900", output), output


def test_the_limit_is_the_rules(tmp_path: Path) -> None:
    """With another limit in the rule, and nowhere else, the audit holds, and expects what follows from it."""
    exit_code, output = demo_with_rule(tmp_path, "FRAUD_AMOUNT = 900", "FRAUD_AMOUNT = 750")
    assert exit_code == 0, output
    assert "ok      0 on the wrong side of 750" in output
    share, expected = re.findall(r"^ +([\d.]+)% fraud, expected ([\d.]+)%$", output, re.MULTILINE)[0]
    assert expected == f"{25_001 / 99_901:.2%}"[:-1]
    assert abs(float(share) - float(expected)) < 3


LEGIT, FRAUD, BAD = (Record(value) for value in (transaction(899.99), transaction(900), b"not a transaction"))


@pytest.mark.parametrize(
    ("legit", "fraud", "dead_letter", "wrong"),
    [
        ([LEGIT], [FRAUD], [BAD], []),
        ([], [FRAUD], [BAD], ["1 lost"]),
        ([LEGIT], [FRAUD, FRAUD], [BAD], ["1 doubled"]),
        ([LEGIT, FRAUD], [], [BAD], ["1 on the wrong side of 900"]),
        ([LEGIT, BAD], [FRAUD], [], ["1 on the wrong side of 900", "0 dead letters, 1 malformed ones written"]),
        ([LEGIT._replace(value=LEGIT.value + b" ")], [FRAUD], [BAD], ["1 lost", "1 doubled"]),
    ],
)
def test_the_audit_finds(
    pipeline: Pipeline, legit: list[Record], fraud: list[Record], dead_letter: list[Record], wrong: list[str]
) -> None:
    """A record that is lost, doubled, changed or in the wrong topic makes the audit fail, and say so."""
    pipeline.write([LEGIT, FRAUD, BAD])
    for topic, records in ((pipeline.legit, legit), (pipeline.fraud, fraud), (pipeline.dead_letter, dead_letter)):
        pipeline.create(topic)
        write(pipeline.broker_url, topic, records)
    console = Console(record=True, width=100)
    with closing(Observer(pipeline, from_start=True)) as observer:
        observer.read_to_end()
        assert audit(observer, console, malformed=1) == (not wrong)
    assert re.findall(r"WRONG +(.*\S)", console.export_text()) == wrong


def test_the_audit_follows_references(pipeline: Pipeline) -> None:
    """A dead letter that only refers to the input, be it unreadable there or not, is no loss; a second one is one."""
    own = Pipeline(pipeline.broker_url)
    own.create(own.transactions, *own.outputs)
    own.write([Record(bytes(2**21)), Record(b"large in its way"), BAD, Record(None)], compression_type="gzip")

    def letter(offset: int) -> Record:
        errors = {"exception": "RecordTooLarge", "message": "too large", "offset": str(offset)}
        return Record(None, headers=tuple((f"__streams.errors.{k}", v.encode()) for k, v in errors.items()))

    def audited() -> list[int]:
        with closing(Observer(own, from_start=True)) as observer:
            observer.read_to_end()
            assert observer.skipped == 1
            assert observer.last_skipped.startswith(f"{own.transactions}[0] offset 0: too large: 2,097,")
            return [observer.lost, observer.doubled, observer.misrouted]

    assert audited() == [4, 0, 0]
    write(own.broker_url, own.dead_letter, [letter(0), letter(1), BAD, Record(None)])
    assert audited() == [0, 0, 0]
    write(own.broker_url, own.dead_letter, [letter(1)])
    assert audited() == [0, 1, 0]


@pytest.mark.parametrize("module", ["demo", "demo.attack", "demo.dashboard"])
def test_bad_configuration_is_said_in_a_line(module: str) -> None:
    """What says how to get into Kafka is read as the services read it: exit code 2, and which variable is wrong."""
    ended = subprocess.run(
        [sys.executable, "-m", module, *(["watch"] if module == "demo" else [])],
        cwd=ROOT,
        env=os.environ | {"KAFKA_BROKER_URL": "127.0.0.1:1", "KAFKA_SECURITY_PROTOCOL": "SASL_SSL"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 2
    assert re.fullmatch("(error:|.* ERROR) KAFKA_SASL_MECHANISM is not set.*\n", ended.stdout + ended.stderr)


def test_watching_nothing_says_so() -> None:
    """Where no Kafka answers, `watch` says so in a line and ends with exit code 1."""
    process = demo("watch", "--broker", "127.0.0.1:1")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert output.count("\n") == 1
    assert "127.0.0.1:1" in output


HOSTILE = (
    {"source": "[/x]", "target": "[bold red]markup[/]"},
    {"amount": int("9" * 401)},
    {"source": "\x1b]52;c;aGVsbG8=\x07", "target": "\x1b[2J\x9b31m"},
    {"source": "\ud800 alone", "target": "\u202eright to left\u2028"},
    {"source": "x" * 100_000, "currency": "EURO" * 1000},
    {"source": ["not", {"text": None}], "amount": float("inf")},
)
"""Members of transactions; every one of them is in the fraud topic, whoever has written it there."""


def test_hostile_values_are_shown_as_text(cluster: Cluster) -> None:
    """Whatever is in the topics, the view goes on, and the terminal gets no control character out of a record."""

    pipeline = Pipeline.of_compose(cluster.bootstrap_servers)
    pipeline.create(pipeline.transactions, *pipeline.outputs, partitions=1)
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (50, 100))
    process = demo("watch", "--broker", pipeline.broker_url, output=theirs)
    os.close(theirs)
    output = b""

    def read_until(text: str) -> None:
        nonlocal output
        deadline = time.monotonic() + 240
        while text.encode() not in output:
            assert process.poll() is None, output
            assert time.monotonic() < deadline, output[-20_000:]
            output += read_terminal(ours)

    read_until("newest frauds")
    corpus = [Record(case.value) for case in CORPUS]
    for topic in (pipeline.transactions, *pipeline.outputs):
        write(pipeline.broker_url, topic, corpus)
    write(
        pipeline.broker_url, pipeline.fraud, [Record(transaction(**{"amount": 950, **members})) for members in HOSTILE]
    )
    read_until("[/x]")
    write(pipeline.broker_url, pipeline.fraud, [Record(transaction(950, source="after them"))])
    read_until("after them")
    unnamed = ((NoName("name"), b"\xff"),)
    write(pipeline.broker_url, pipeline.dead_letter, [Record(b"x", headers=unnamed)])
    write(pipeline.broker_url, pipeline.fraud, [Record(transaction(950, source="without name"), headers=unnamed)])
    read_until("without name")
    assert b"skipped" not in output
    write(pipeline.broker_url, pipeline.fraud, [Record(bytes(2**21))], compression_type="gzip")
    read_until("skipped: 1, the last in streaming.transactions.fraud[0]")
    write(pipeline.broker_url, pipeline.fraud, [Record(transaction(950, source="in the end"), timestamp=2**63 - 1)])
    read_until("in the end")
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 0
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.decode())  # what the view itself tells the terminal
    assert {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl")} <= {"\r", "\n"}
    for expected in ("[bold red]markup[/]", "1.00e+401", "\ufffd]52;c;aGVsbG8=\ufffd", "x" * 20 + "…", "Infinity"):
        assert expected in text
