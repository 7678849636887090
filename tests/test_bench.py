"""The benchmark, run as from a shell, but small: its results are right and complete, however fast they are."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.drain import Drain, Sample, mistakes, steady
from bench.report import section
from bench.topics import Pipeline, Record
from harness import ROOT, transaction

NAMES = ("throughput", "latency", "generator", "scale")
ALWAYS_THERE = ("detector, CPython", "tutorial's loop")
PEERS = {
    "Faust": "faust",
    "Quix Streams": "quixstreams",
    "aiokafka, send()": "aiokafka",
    "aiokafka, batches": "aiokafka",
    "confluent-kafka": "confluent_kafka",
    "Kafka Streams": "",
}


def bench(*arguments: object) -> "subprocess.Popen[str]":
    """Start the benchmark."""
    return subprocess.Popen(
        [sys.executable, "-m", "bench", *map(str, arguments)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each part has measured, one after the other: side by side, detectors would miss their heartbeats."""
    folder = tmp_path_factory.mktemp("bench")
    for name in NAMES:
        with bench(name, "--quick", "--results", folder / name) as process:
            output = process.communicate(timeout=240)[0]
        assert process.returncode == 0, output
    return {name: json.loads((folder / name).read_text())[name] for name in NAMES}


@pytest.mark.parametrize("name", ["throughput", "latency"])
def test_every_candidate_has_a_figure_or_a_reason(results: dict[str, Any], name: str) -> None:
    """Ours and the tutorial's loop have been measured; a peer that is not installed is listed as such."""
    rows = {row["candidate"]: row for row in results[name]["rows"]}
    assert list(rows) == [*ALWAYS_THERE, *PEERS]
    for candidate in ALWAYS_THERE:
        assert not rows[candidate]["reason"]
        assert all(figure >= 0 for figure in rows[candidate]["medians"].values())
    for candidate, module in PEERS.items():
        if module and importlib.util.find_spec(module) is None:
            assert rows[candidate]["reason"] == "not installed"
        assert bool(rows[candidate]["medians"]) != bool(rows[candidate]["reason"])


def test_the_figures_fit_together(results: dict[str, Any]) -> None:
    """The steady part is a part of the records, and only who promises it has written transactions."""
    rows = {row["candidate"]: row["medians"] for row in results["throughput"]["rows"]}
    records = results["throughput"]["settings"]["records"]
    assert records == 30_000
    for candidate in ALWAYS_THERE:
        assert 0 < rows[candidate]["steady_records"] < records
        assert rows[candidate]["peak_mb"] > 10
    assert rows["detector, CPython"]["transaction_markers"] >= 2 * records / 20_000
    assert rows["tutorial's loop"]["transaction_markers"] == 0
    for row in results["latency"]["rows"]:
        if m := row["medians"]:
            assert m["p50_ms"] <= m["p90_ms"] <= m["p99_ms"] <= m["max_ms"]


def test_the_generator_delivers_no_more_than_asked(results: dict[str, Any]) -> None:
    """Every rate has been measured."""
    rows = results["generator"]["rows"]
    assert [row["asked"] for row in rows] == ["10", "1000", "unlimited"]
    for row in rows[:2]:
        # It makes up for a second that was lost, and the part that counts here is not much longer than one.
        assert 0 < row["delivered_per_second"] < 2.2 * float(row["asked"])


def test_detectors_share_and_take_over(results: dict[str, Any]) -> None:
    """One and two detectors on as many partitions, and three on two of which one is stopped."""
    *scaled, takeover = results["scale"]["rows"]
    assert [row["instances"] for row in scaled] == [1, 2]
    for row in scaled:
        # The first transaction of each, a quarter of the work, is not in it; that the rest was not done before all had
        # their share is what counts here, so the bound leaves room for a slow machine.
        work = row["instances"] * results["scale"]["settings"]["records_per_partition"]
        assert 0.1 * work < row["medians"]["steady_records"] < work
    assert (takeover["instances"], takeover["partitions"]) == (3, 2)
    assert takeover["medians"]["takeover_seconds"] < 30


def test_the_report_replaces_its_part_of_the_readme(results: dict[str, Any], tmp_path: Path) -> None:
    """What is between the markers is new, what is around them is as it was; without markers it says so."""
    (tmp_path / "results.json").write_text(json.dumps(results))
    readme = tmp_path / "README.md"
    arguments = ("--results", tmp_path / "results.json", "--readme", readme, "--docs", tmp_path / "docs")
    readme.write_text("# Before\n<!-- bench -->\nold figures\n<!-- /bench -->\nAfter\n")
    process = bench("report", *arguments)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    text = readme.read_text()
    assert text.startswith("# Before\n<!-- bench -->\n")
    assert text.endswith("\n<!-- /bench -->\nAfter\n")
    assert "old figures" not in text
    for expected in (
        *ALWAYS_THERE,
        *PEERS,
        "not installed",
        "Kafka 3.9",
        "Java 21",
        f"{results['throughput']['date']}",
    ):
        assert expected in text
    if importlib.util.find_spec("matplotlib"):
        assert {path.name for path in (tmp_path / "docs").iterdir()} == {f"{name}.svg" for name in NAMES}
    readme.write_text("no markers")
    process = bench("report", *arguments)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "no markers" in output
    assert readme.read_text() == "no markers"


def test_what_failed_is_in_the_report() -> None:
    """A candidate, a number of detectors or a takeover that failed is named with its reason, not left out."""
    failed = {"medians": {}, "reason": "ended with exit code 1: first line\nlast line"}
    rows = [{"candidate": "a peer", "version": "", "guarantee": "none", **failed}]
    throughput = {"settings": {"records": 1, "record_bytes": 90, "runs": 1}, "rows": rows}
    settings = {"records_per_partition": 1, "runs": 1, "rate": 1}
    scale = {"settings": settings, "rows": [{"instances": n, "partitions": 1, **failed} for n in (1, 2)]}
    text = section({"throughput": throughput, "scale": scale})
    assert text.count("ended with exit code 1: first line last line") == 3


LEGIT, FRAUD = Record(0, 0, 0, transaction(1)), Record(0, 1, 0, transaction(900))


@pytest.mark.parametrize(
    ("legit", "fraud", "dead_letters", "said"),
    [
        ([LEGIT], [FRAUD], [], ""),
        ([], [FRAUD], [], "1 missing in legit"),
        ([LEGIT, LEGIT], [FRAUD], [], "1 too many in legit"),
        ([LEGIT, FRAUD], [], [], "1 too many in legit, 1 missing in fraud"),
        ([LEGIT], [], [FRAUD], "1 missing in fraud, 1 too many in dead-letter"),
        ([LEGIT._replace(value=LEGIT.value + b" ")], [FRAUD], [], "1 missing in legit, 1 too many in legit"),
    ],
)
def test_it_sees_what_a_candidate_does_wrong(
    legit: list[Record], fraud: list[Record], dead_letters: list[Record], said: str
) -> None:
    """A record that is lost, doubled, in the wrong topic or changed makes a candidate's speed worth nothing."""
    outputs = {"legit": legit, "fraud": fraud, "dead-letter": dead_letters}
    assert mistakes([LEGIT, FRAUD], outputs, same_bytes=True) == said


def test_where_only_the_content_counts_the_bytes_may_differ() -> None:
    """The tutorial's loop writes the JSON anew; another amount is another transaction all the same."""
    outputs = {"legit": [LEGIT._replace(value=LEGIT.value + b" ")], "fraud": [FRAUD], "dead-letter": []}
    assert mistakes([LEGIT, FRAUD], outputs, same_bytes=False) == ""
    outputs["legit"] = [LEGIT._replace(value=transaction(2))]
    assert mistakes([LEGIT, FRAUD], outputs, same_bytes=False) != ""


def test_the_steady_rate_leaves_out_start_and_markers() -> None:
    """From the first sample with records to the first with all; a marker after each two records counts for nothing."""
    pipeline = Pipeline("", "")
    legit, *others = pipeline.output_partitions

    def sample(time: float, end: int, cpu: float) -> Sample:
        return Sample(time, {legit: end, **dict.fromkeys(others, 0)}, cpu)

    seen = Drain(started=100.0, ready=100.0)
    seen.samples = [sample(101, 0, 1), sample(102, 3, 2), sample(103, 6, 2.5), sample(104, 9, 3), sample(109, 10, 9)]
    records = [LEGIT._replace(offset=offset) for offset in (0, 1, 3, 4, 6, 7)]
    seen.outputs = {"legit": records, "fraud": [], "dead-letter": []}
    part = steady(pipeline, seen)
    assert (part.records, part.seconds, part.cpu, part.startup, part.markers) == (4, 2, 1, 2, 3)
    seen.ready = 102.5
    assert steady(pipeline, seen).records == 2
    seen.ready = 105.0
    with pytest.raises(RuntimeError, match="more records"):
        steady(pipeline, seen)
