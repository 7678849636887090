"""A row for each fault at the end of a run, in whatever process it was inflicted."""

import os
import random
import statistics
from dataclasses import astuple

import pytest

from faults import steps
from faults.trial import Audit, Verdict

ROUNDS = int(os.environ.get("ROUNDS") or 1)
SEED = int(os.environ.get("SEED") or random.randrange(10**6))
os.environ["SEED"] = str(SEED)  # for the processes of pytest-xdist, so that it is the same in all of them
HEADINGS = ("fault", "rounds", "records", "lost", "doubled", "misrouted", "disordered", "hanging")
AUDIT_HEADINGS = ("smurfing", "rounds", "transfers", "expected alerts", "seen", "missing", "doubled")
VERDICTS: list[Verdict] = []
AUDITS: list[Audit] = []
Row = tuple[object, ...]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Collect the verdicts of a test that has ended."""
    if report.when == "teardown":
        VERDICTS.extend(Verdict(**value) for name, value in report.user_properties if name == "verdict")  # type: ignore[arg-type]
        AUDITS.extend(Audit(**value) for name, value in report.user_properties if name == "audit")  # type: ignore[arg-type]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print a row for each fault; those of a step of docs/steps are kept as well."""
    if steps.STEP and VERDICTS:
        steps.save(VERDICTS)
    rows: list[Row] = [(*HEADINGS, "recovery (s)", "at most")]
    for v in sorted(VERDICTS, key=lambda verdict: verdict.fault):
        counts = (v.fault, v.rounds, v.checked, v.lost, v.doubled, v.misrouted, v.disordered, v.hanging)
        times = v.recoveries or [0]
        rows.append((*counts, f"{statistics.median(times):.1f}", f"{max(times):.1f}"))
    _print(terminalreporter, "faults", rows)
    _print(terminalreporter, "smurfing", [AUDIT_HEADINGS, *sorted(map(astuple, AUDITS))])


def _print(terminalreporter: pytest.TerminalReporter, title: str, rows: list[Row]) -> None:
    if len(rows) == 1:
        return
    terminalreporter.section(f"{title} (ROUNDS={ROUNDS} SEED={SEED})")
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows, strict=True)]
    for name, *numbers in rows:
        cells = (str(number).rjust(width) for number, width in zip(numbers, widths[1:], strict=True))
        terminalreporter.write_line("  ".join((str(name).ljust(widths[0]), *cells)))
