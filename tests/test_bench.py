"""The benchmark, run as from a shell, but small: its results are right and complete, however fast they are."""

import json
import re
import subprocess
import sys
from array import array
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

from bench.candidates import Candidate, all_candidates
from bench.drain import Drain, Sample
from bench.inputs import STREAMS, Sums
from bench.machine import Usage
from bench.report import BEGIN, END, section, write_failover
from detector.rule import decide
from embedded.pipeline import ROOT
from embedded.records import Record
from harness import transaction

pytestmark = pytest.mark.long

SHAPED = ("large", "odd", "dead")
STEPS = ("tutorial's loop", "step 2, commits", "step 3, transactions")
ALWAYS_THERE = ("detector", "detector, metrics", *STEPS)
PEERS = {
    "Quix Streams": "quixstreams",
    "aiokafka, send()": "aiokafka",
    "aiokafka, batches": "aiokafka",
    "confluent-kafka": "confluent-kafka",
    "Kafka Streams": "",
}


def bench(*arguments: object) -> str:
    """Run the benchmark, and return what it has printed."""
    command = [sys.executable, "-m", "bench", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of each part, one after the other: side by side, detectors would miss their heartbeats."""
    path = tmp_path_factory.mktemp("bench") / "results.json"
    bench("throughput", "--quick", "--stream", "usual", "--results", path)
    shaped = [option for name in SHAPED for option in ("--stream", name)]
    bench("throughput", "--quick", *shaped, "--only", "metrics", "--results", path)
    bench("latency", "--quick", "--only", "metrics", "--results", path)
    bench("scale", "--quick", "--results", path)
    bench("failover", "--quick", "--only", "metrics", "--results", path)
    return path


@pytest.fixture(scope="module")
def results(file: Path) -> dict[str, Any]:
    """What was measured."""
    return json.loads(file.read_text())


BUSY = "everything was committed at once: more records are needed|has ended with exit code 1"
"""Why there may be no figures, on a machine that is busy with other things."""


def is_measured(row: dict[str, Any]) -> bool:
    """Return whether there are figures, and see that they are positive; if not, that the reason is one of `BUSY`."""
    assert not row["reason"] or re.search(BUSY, row["reason"]), row
    assert all(figure > 0 for figure in row["medians"].values()), row
    return not row["reason"]


def rows(results: dict[str, Any], part: str) -> dict[str, dict[str, Any]]:
    """Return the rows of a part by the names of their candidates."""
    return {row["candidate"]: row for row in results[part]["rows"]}


def test_every_candidate_has_a_figure_or_a_reason(results: dict[str, Any]) -> None:
    """What needs no other library has been measured; a peer that is not installed is listed as such."""
    measured = rows(results, "throughput-usual")
    assert set(measured) == {*ALWAYS_THERE, *PEERS}
    have_figures = [is_measured(measured[candidate]) for candidate in ALWAYS_THERE]
    assert any(have_figures)
    for candidate, package in PEERS.items():
        assert bool(measured[candidate]["medians"]) != bool(measured[candidate]["reason"])
        if package:
            try:
                version(package)
            except PackageNotFoundError:
                assert measured[candidate]["reason"] == "not installed"


@pytest.mark.parametrize("stream", SHAPED)
def test_other_streams_come_out_unchanged_too(results: dict[str, Any], stream: str) -> None:
    """Keys, headers and dead letters have been looked up, and so there are figures."""
    measured = rows(results, f"throughput-{stream}")
    is_measured(measured["detector, metrics"])
    assert results[f"throughput-{stream}"]["settings"]["records"] == 45_000


def test_the_streams_are_what_they_say() -> None:
    """Records are valid, some with a key and headers, but for those that are to be malformed."""
    values = [transaction(amount) for amount in (10, 900, 1.5)]
    made = {name: [make(n, v) for n, v in enumerate(values)] for name, (_, make) in STREAMS.items() if make}
    dead = made.pop("dead")
    for records in made.values():
        assert [decide(record.value).route for record in records] == ["legit", "fraud", "legit"]
    assert [len(made[name][1].headers) for name in ("spring", "traced", "nested", "turn", "large")] == [1, 1, 0, 1, 8]
    assert all(record.key for name in ("spring", "traced", "large") for record in made[name])
    assert len(json.loads(made["large"][0].value or b"")) == 10
    _, odd = STREAMS["odd"]
    assert odd
    routes = [decide(odd(n, values[0]).value).route for n in range(100)]
    assert [n for n, route in enumerate(routes) if route == "dead_letter"] == [7]
    assert odd(57, values[0]).value != values[0]
    assert [record.value for record in dead] == [
        values[0][:-1],
        b'{"source": "alice", "target": "bob", "currency": "EUR", "amount": "900"}',
        b'{"source": "alice", "target": "bob", "currency": "EUR"}',
    ]


def test_latency_has_its_cost_and_the_cold_start(results: dict[str, Any]) -> None:
    """The figures fit together, for each candidate and the generator."""
    measured = list(filter(is_measured, rows(results, "latency").values()))
    assert measured
    for row in measured:
        m = row["medians"]
        assert 0 < m["p50_ms"] <= m["p90_ms"] <= m["p99_ms"] <= m["max_ms"], row
        assert m["cpu_percent"] > 0
        assert m["generator_cpu_percent"] > 0
        assert m["cold_seconds"] > 0
        assert m["starts"] >= 1


def test_detectors_share_and_take_over(results: dict[str, Any]) -> None:
    """One and two detectors on as many partitions, and two of which one is stopped; every record has been looked up."""
    measured = rows(results, "scale")
    assert list(measured) == ["1 on 1", "2 on 2", "2 on 2, one of them stopped"]
    *shared, takeover = measured.values()
    have_figures = [is_measured(row) for row in shared]
    assert any(have_figures)
    assert not is_measured(takeover) or takeover["medians"]["takeover_seconds"] < 120


def test_a_broker_of_three_is_killed(file: Path, results: dict[str, Any], tmp_path: Path) -> None:
    """One reads how long the outputs stood still, in a page that has more; every record has been looked up."""
    (row,) = results["failover-kafka4"]["rows"]
    if row["reason"]:
        assert re.search(BUSY, row["reason"]), row
    else:
        assert row["medians"]["killed_first"] == row["medians"]["killed_median"] > 0
    (page := tmp_path / "clusters.md").write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_failover(file, page)
    before, table, after = re.split(f"{BEGIN}|{END}", page.read_text())
    assert (before, after) == ("before\n", "\nafter\n")
    assert "| detector, metrics" in table
    assert "old" not in table


def test_the_report_is_a_page(file: Path, results: dict[str, Any], tmp_path: Path) -> None:
    """Every part, every candidate, the versions and the date are on it."""
    page = tmp_path / "performance.md"
    bench("report", "--results", file, "--page", page)
    text = page.read_text()
    assert text.startswith("# Performance\n")
    for expected in (
        *ALWAYS_THERE,
        *PEERS,
        "Kafka 4",
        "Java 21",
        results["scale"]["date"],
        "takeover",
        "cold start",
    ):
        assert expected in text
    assert len(results) == 4 + len(SHAPED)
    assert text.count("\n## ") == 4  # the shapes are in one table
    for name in SHAPED:
        assert STREAMS[name][0] in text


def test_a_report_of_nothing_says_so(tmp_path: Path) -> None:
    """Without results there is no page, and a line says what to do."""
    with pytest.raises(AssertionError, match="measure something first"):
        bench("report", "--results", tmp_path / "none.json", "--page", tmp_path / "page.md")
    assert not (tmp_path / "page.md").exists()


def test_what_failed_is_in_the_report() -> None:
    """A candidate that failed is named with its reason, not left out."""
    row = {"candidate": "a peer", "version": "", "guarantee": "none", "medians": {}, "reason": "first line\nmore\nlast"}
    settings = {"records": 1, "rounds": 1, "records_per_partition": 1, "rate": 1}
    for part in ("throughput-usual", "scale"):
        assert "No figures of a peer: first line last" in section(part, settings, [row])


OURS = all_candidates(download=False)[0]
LEGIT, FRAUD, DEAD = (Record(value) for value in (transaction(1), transaction(900), b"not a transaction"))


def summed(candidate: Candidate, **outputs: list[Record]) -> Sums:
    """Return the checksums of what is in the outputs."""
    found = Sums(candidate)
    for route, records in outputs.items():
        found.add(records, route)
    return found


def checked(candidate: Candidate, **outputs: list[Record]) -> str:
    """Return what is wrong with the outputs, where one record of each route has come in."""
    expected = Sums(candidate)
    expected.add([LEGIT, FRAUD, DEAD])
    try:
        summed(candidate, **outputs).check(expected)
    except RuntimeError as error:
        return str(error)
    return ""


ERRORS = (("__streams.errors.offset", b"2"),)


@pytest.mark.parametrize(
    ("legit", "fraud", "dead_letter", "said"),
    [
        ([LEGIT], [FRAUD], [DEAD], ""),
        ([LEGIT], [FRAUD], [DEAD._replace(headers=ERRORS)], ""),
        ([], [FRAUD], [DEAD], "legit has 0 records instead of 1"),
        ([LEGIT, LEGIT], [FRAUD], [DEAD], "legit has 2 records instead of 1"),
        ([LEGIT, FRAUD], [], [DEAD], "fraud has 0 records instead of 1"),
        ([LEGIT], [], [DEAD, FRAUD], "dead_letter has 2 records instead of 1"),
        ([FRAUD], [LEGIT], [DEAD], "fraud has a record that is not as it came in"),
        ([LEGIT._replace(value=LEGIT.value + b" ")], [FRAUD], [DEAD], "legit has a record that is not as it came in"),
        ([LEGIT._replace(key=b"k")], [FRAUD], [DEAD], "legit has a record that is not as it came in"),
        ([LEGIT._replace(headers=(("a", b""),))], [FRAUD], [DEAD], "legit has a record that is not as it came in"),
        ([LEGIT._replace(timestamp=5)], [FRAUD], [DEAD], "legit has a record that is not as it came in"),
        ([LEGIT._replace(partition=1)], [FRAUD], [DEAD], "legit has 0 records instead of 1"),
    ],
)
def test_it_sees_what_a_candidate_does_wrong(
    legit: list[Record], fraud: list[Record], dead_letter: list[Record], said: str
) -> None:
    """A record that is lost, doubled, in the wrong topic or changed makes a candidate's speed worth nothing."""
    found = checked(OURS, legit=legit, fraud=fraud, dead_letter=dead_letter)
    assert found.startswith(said)
    assert bool(found) == bool(said)


def test_order_counts() -> None:
    """Two records that have changed places are not as they came in."""
    one, two = LEGIT, LEGIT._replace(value=transaction(2))
    with pytest.raises(RuntimeError, match="not in its place"):
        summed(OURS, legit=[two, one]).check(summed(OURS, legit=[one, two]))


def test_where_only_the_content_counts_the_bytes_may_differ() -> None:
    """The tutorial's loop writes the JSON anew; another amount is another transaction all the same."""
    loop = replace(OURS, keeps_records=False)
    anew = LEGIT._replace(value=LEGIT.value + b" ", timestamp=5)
    assert checked(loop, legit=[anew], fraud=[FRAUD], dead_letter=[DEAD]) == ""
    other = LEGIT._replace(value=transaction(2))
    assert checked(loop, legit=[other], fraud=[FRAUD], dead_letter=[DEAD]) != ""


def test_the_steady_rate_leaves_out_start_and_markers() -> None:
    """From the first sample with records to the first with all; a marker after each two records counts for nothing."""
    drain = Drain.__new__(Drain)  # no cluster, and no candidate at work
    drain.peak_mb = 99
    drain.offsets = {"legit": array("q", (0, 1, 3, 4, 6, 7)), "fraud": array("q")}  # type: ignore[dict-item]

    def sample(seconds: float, end: int, cpu_seconds: float) -> Sample:
        ends = {"legit": end, "fraud": 0}
        return Sample(seconds, ends, Usage(cpu_seconds, 10 * seconds))  # type: ignore[arg-type]

    drain.samples = [sample(1, 0, 1), sample(2, 3, 2), sample(3, 6, 2.5), sample(4, 9, 3), sample(9, 10, 9)]
    figures = drain.figures()
    assert figures["records_per_second"] == 4 / 2
    assert figures["cpu_us_per_record"] == 1e6 / 4
    assert (figures["mb_at_half"], figures["mb_at_end"], figures["peak_mb"]) == (30, 40, 99)
    samples = drain.samples
    for at_once in samples[:1] + samples[3:], [samples[0], sample(2, 3, 2), sample(2.005, 10, 2)]:
        drain.samples = at_once
        with pytest.raises(RuntimeError, match="more records"):
            drain.figures()
