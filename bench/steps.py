"""The table of docs/from-the-tutorial.md, made from what the fault suite and the benchmark have found."""

import json
from pathlib import Path
from typing import Any

from bench.report import table
from embedded.pipeline import ROOT

PAGE, FAULTS = ROOT / "docs/from-the-tutorial.md", ROOT / "docs/steps/faults.json"
STEPS = {
    "1": ("1, the loop", "tutorial's loop"),
    "2": ("2, commits", "step 2, commits"),
    "3": ("3, transactions", "step 3, transactions"),
    "4": ("4, the engine", "detector"),
}
"""The heading of each step's column, and its name in the benchmark."""
KINDS = {
    "malformed records": "one record in twenty is malformed",
    "hostile values": "values of every hostile kind",
    "detector killed": "the program is killed",
    "detector killed at commit before": "it is killed right before a commit",
    "detector killed at commit after": "it is killed right after one",
    "detector stopped": "it is stopped in order",
    "zombie": "it stands still, and another takes over",
    "rescale": "instances come and go",
    "broker restarted": "the broker is restarted",
    "broker killed": "the broker is killed",
    "broker paused": "the broker stands still",
    "network cut, slow, half-open": "the network is cut, slow, half-open",
    "one broker of three killed": "one broker of three is killed",
    "one broker of three restarted": "one broker of three is restarted",
    "one broker of three frozen": "one broker of three stands still",
}
"""What the fault suite inflicts, by the names of its tests, and how the table calls it; what is not here comes last."""
WRONG = {"lost": "lost", "doubled": "doubled", "hanging": "stuck"}
"""What a verdict counts, and how the table calls it."""
DRAIN = {"records_per_second": ("drain, records/s", ",.0f"), "cpu_us_per_record": ("CPU, µs/record", ",.1f")}


def block(results: Path) -> str:
    """Return the table: a row for each fault, then the figures of the benchmark whose results these are."""
    faults: dict[str, dict[str, dict[str, Any]]] = json.loads(FAULTS.read_text())
    measured: dict[str, Any] = json.loads(results.read_text())
    lines = [["what happens", *(heading for heading, _ in STEPS.values())]]
    for fault in sorted(faults, key=lambda name: [*KINDS, name].index(name)):
        lines.append([KINDS.get(fault, fault), *(_cell(faults[fault].get(step)) for step in STEPS)])
    drained = {row["candidate"]: row["medians"] for row in measured.get("throughput-usual", {}).get("rows", ())}
    for figure, (heading, form) in DRAIN.items():
        figures = [drained.get(name, {}).get(figure) for _, name in STEPS.values()]
        lines.append([heading, *(format(found, form) if found else "-" for found in figures)])
    dates = [verdict["date"] for steps in faults.values() for verdict in steps.values()]
    said = f"`make test-steps` inflicted the faults on {max(dates)}. Each cell says of how many records."
    return f"{table(lines, labels=1)}\n\n{said}"


def _cell(verdict: dict[str, Any] | None) -> str:
    if not verdict:
        return "-"
    wrong = [f"{verdict[name]:,} {said}" for name, said in WRONG.items() if verdict[name]]
    return f"{' and '.join(wrong) or '0'} of {verdict['checked']:,}"
