"""The services of compose/alerts.yml beside the others: a ring is found, and told."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from compositions.engine import containers, run, service
from compositions.stack import Stack
from embedded.pipeline import ROOT, Pipeline

FILES = "-f docker-compose.yml -f compose/alerts.yml --project-directory ."


@pytest.fixture
def alerts(stack: Stack, pipeline: Pipeline) -> Iterator[Stack]:
    """The stack with both services; they go again at the end."""
    try:
        stack.make("up ALERTS=1")
        yield stack
    finally:
        stack.note()
        stack.compose(f"{FILES} rm --stop --force smurfing alerter")


def test_an_attack_is_told(alerts: Stack) -> None:
    """`make attack` shows the alert about 50 accounts, none about 49, and the sentence in the alerter's log."""
    alerts.wait_healthy("smurfing", "alerter")
    output = alerts.make("attack")
    (target,) = re.findall(r"50 to (launderer-\w+)", output)
    assert re.search(
        rf'The alert is in streaming.alerts: {{.*"target": "{target}", "sources": 50, "sum": 50000', output
    )
    assert re.search("Nothing about harmless-[0-9a-f]+, as it should be", output)
    assert re.search(rf"this log .*: told Smurfing: 50 accounts sent 50,000 EUR to {target} in \d+ second", output)
    for container in containers("smurfing", "alerter"):
        host = container["HostConfig"]
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert host["Memory"] < 1024**3
        assert host["PidsLimit"] == 64
        assert container["Config"]["User"] == "10001:10001"
        assert container["RestartCount"] == 0
    (used,) = [
        float(line.split()[1].rstrip("%"))
        for line in run("docker stats --no-stream --format '{{.Name}} {{.MemPerc}}'").splitlines()
        if "alerter" in line
    ]
    assert used < 60
    for name in ("smurfing", "alerter"):
        alerts.quiet(f"{FILES} stop {name}")
    ends = {service(container): container["State"]["ExitCode"] for container in containers("smurfing", "alerter")}
    assert ends == {"smurfing": 0, "alerter": 0}


def test_addresses_in_a_file(alerts: Stack, tmp_path: Path) -> None:
    """ALERT_URLS_FILE is mounted from a folder that is closed to others; the documented test of it works."""
    folder = tmp_path / "private"
    folder.mkdir(mode=0o700)
    file = folder / "urls"
    file.write_text("json://127.0.0.1:9/ json://127.0.0.1:10/\n")
    file.chmod(0o644)
    alerts.quiet(f"{FILES} up -d alerter", before=f"ALERT_URLS_FILE={file}")
    alerts.wait_for("alerter", r"telling receiver 1 \(json\), receiver 2 \(json\)")
    (documented,) = re.findall(r"exec alerter (sh -c '.*')$", (ROOT / "docs/alerts.md").read_text(), re.M)
    output = alerts.compose(f"{FILES} exec -T alerter {documented} || true")
    assert output.count("A Connection error occurred sending JSON notification to 127.0.0.1") == 2
