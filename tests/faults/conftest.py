"""How many rounds, with which seed, and the table at the end."""

import os
import random
import statistics

import pytest

from faults.trial import Verdict

ROUNDS = int(os.environ.get("ROUNDS") or 1)
SEED = int(os.environ.get("SEED") or random.randrange(10**6))
VERDICTS: list[Verdict] = []


@pytest.fixture
def seed() -> int:
    """Where the random moments come from."""
    return SEED


@pytest.fixture
def rounds() -> int:
    """How often each fault is inflicted."""
    return ROUNDS


@pytest.fixture
def verdicts() -> list[Verdict]:
    """Where a test adds its verdict for the table."""
    return VERDICTS


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print a row for each fault."""
    if not VERDICTS:
        return
    terminalreporter.section(f"faults (ROUNDS={ROUNDS} SEED={SEED})")
    rows: list[tuple[object, ...]] = [
        (
            "fault",
            "rounds",
            "records",
            "lost",
            "doubled",
            "misrouted",
            "disordered",
            "hanging",
            "recovery (s)",
            "at most",
        )
    ]
    for v in VERDICTS:
        counts = (v.fault, v.rounds, v.checked, v.lost, v.doubled, v.misrouted, v.disordered, v.hanging)
        times = v.recoveries or [0]
        rows.append((*counts, f"{statistics.median(times):.1f}", f"{max(times):.1f}"))
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows, strict=True)]
    for name, *numbers in rows:
        cells = (str(number).rjust(width) for number, width in zip(numbers, widths[1:], strict=True))
        terminalreporter.write_line("  ".join((str(name).ljust(widths[0]), *cells)))
