"""The table of docs/from-the-tutorial.md, made from what the fault suite and the benchmark have found."""

import json
from pathlib import Path
from typing import Any

from bench.report import table
from embedded.pipeline import ROOT

PAGE, FAULTS = ROOT / "docs/from-the-tutorial.md", ROOT / "docs/steps/faults.json"
BEGIN, END = "<!-- written by `python -m bench report` -->", "<!-- up to here -->"
STEPS = {
    "1": ("1, the loop", "tutorial's loop"),
    "2": ("2, commits", "step 2, commits"),
    "3": ("3, transactions", "step 3, transactions"),
    "4": ("4, the engine", "detector"),
}
"""The heading of each step's column, and its name in the benchmark."""
WRONG = {"lost": "lost", "doubled": "doubled", "hanging": "partitions stuck"}
"""What a verdict counts, and how the table calls it."""
DRAIN = {"records_per_second": ("drain, records/s", ",.0f"), "cpu_us_per_record": ("CPU, µs/record", ",.1f")}


def block(results: Path) -> str:
    """Return the table: a row for each fault, then the figures of the benchmark whose results these are."""
    faults: dict[str, dict[str, dict[str, Any]]] = json.loads(FAULTS.read_text())
    measured: dict[str, Any] = json.loads(results.read_text())
    lines = [["what happens", *(heading for heading, _ in STEPS.values())]]
    for fault in sorted(faults, key=lambda name: ("malformed" not in name, name)):
        lines.append([fault, *(_cell(faults[fault].get(step)) for step in STEPS)])
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


def write(results: Path, page: Path = PAGE) -> None:
    """Write the table into the page, between the two marks."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{block(results)}\n\n{END}{after}")
    print(f"Wrote the table of {page}")
