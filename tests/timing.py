"""What the tests cost: how long each file takes, the slowest tests, and the longest of the files."""

from collections import Counter

import pytest

SECONDS = Counter[str]()
"""Of each test, with what it sets up."""


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up what a test takes before, in and after itself."""
    SECONDS[report.nodeid] += report.duration  # type: ignore[assignment]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the ten slowest tests, and the sums of the ten slowest files."""
    files = Counter[str]()
    for test, seconds in SECONDS.items():
        files[test.partition("::")[0]] += seconds
    for title, found in (("slowest tests", SECONDS), ("slowest files", files)):
        terminalreporter.section(f"{title}, {sum(found.values()):.0f} s in all")
        for name, seconds in found.most_common(10):
            terminalreporter.write_line(f"{seconds:6.1f} s  {name}")
