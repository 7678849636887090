"""What the tests cost, and which of them are unstable."""

from collections import Counter

import pytest

SECONDS = Counter[str]()
"""Of each test, with what it sets up."""
FAILED_BEFORE = set[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Remember what has failed in the run before."""
    FAILED_BEFORE.update(config.cache.get("cache/lastfailed", {}) if config.cache else {})


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up what a test takes before, in and after itself."""
    SECONDS[report.nodeid] += report.duration  # type: ignore[assignment]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the ten slowest tests, the sums of the ten slowest files, and after a second try what is unstable."""
    files = Counter[str]()
    for test, seconds in SECONDS.items():
        files[test.partition("::")[0]] += seconds
    for title, found in (("slowest tests", SECONDS), ("slowest files", files)):
        terminalreporter.section(f"{title}, {sum(found.values()):.0f} s in all")
        for name, seconds in found.most_common(10):
            terminalreporter.write_line(f"{seconds:6.1f} s  {name}")
    unstable = [report.nodeid for report in terminalreporter.getreports("passed") if report.nodeid in FAILED_BEFORE]
    if config.getoption("lf", False) and unstable:  # the second try of .ci/run
        terminalreporter.section(f"{len(unstable)} unstable tests, which failed before and pass now")
        terminalreporter.write_line("\n".join(unstable))
