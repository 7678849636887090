"""Monitoring beside the two services: what Prometheus finds and asks, and that the page is served."""

import json
import re
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

import pytest
import yaml

from compositions.engine import check_engine, containers, run, unable
from compositions.stack import Stack, only_v2
from embedded.pipeline import ROOT
from embedded.service import wait_until

FOLDER = ROOT / "compose" / "monitoring"
RULES = yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"][0]["rules"]
NAMES = [rule["alert"] for rule in RULES]
TESTS = yaml.safe_load((FOLDER / "rules.test.yml").read_text())["tests"]
DASHBOARD = json.loads((FOLDER / "grafana" / "dashboard.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
"""What the panels of Grafana ask Prometheus."""
MONITORED = "-f docker-compose.yml -f compose/monitoring.yml"
PAGE, PROMETHEUS = 8080, 9090


def ask(path: str) -> Any:
    """Return the data of an answer of Prometheus'; none while it does not answer."""
    try:
        with urlopen(f"http://127.0.0.1:{PROMETHEUS}/api/v1/{path}", timeout=10) as answer:
            return json.load(answer)["data"]
    except OSError:
        return {}


@pytest.fixture
def monitored(stack: Stack) -> Iterator[Stack]:
    """The services, two detectors among them, with monitoring."""
    for port in (PAGE, PROMETHEUS):
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if listener.connect_ex(("127.0.0.1", port)) == 0:
                unable(f"port {port} of this machine is taken: end what has it")
    try:
        stack.quiet(f"{MONITORED} up -d --build --scale detector=2")
        stack.note()
        yield stack
    finally:
        stack.compose(f"{MONITORED} rm --force --stop --volumes dashboard prometheus")
        stack.compose("up -d")


@only_v2
def test_everything_is_found_and_asked(monitored: Stack) -> None:
    """Prometheus scrapes each replica and has every rule; it knows what rules and panels ask; the page has figures."""

    def targets() -> list[tuple[str, str]]:
        return sorted((t["labels"]["job"], t["health"]) for t in ask("targets").get("activeTargets", []))

    expected = [("detector", "up"), ("detector", "up"), ("generator", "up"), ("prometheus", "up")]
    wait_until(lambda: targets() == expected, 240, lambda: str(targets()))
    assert [rule["name"] for group in ask("rules")["groups"] for rule in group["rules"]] == NAMES
    for metric in sorted(set(re.findall(r"\b(?:detector|generator|process)_\w+", str([r["expr"] for r in RULES])))):
        wait_until(lambda m=metric: ask(f"query?query={quote(m)}").get("result"), 240, lambda m=metric: m)

    monitored.wait_healthy("broker", "zookeeper", "generator", "detector", "detector", "dashboard", "prometheus")
    with urlopen(f"http://localhost:{PAGE}/", timeout=10) as answer:
        assert "Fraud detection, live" in answer.read().decode()
    with urlopen(f"http://localhost:{PAGE}/events", timeout=10) as events:
        figures = json.loads(events.readline().removeprefix(b"data: "))
    assert {topic["name"]: topic["rate"] > 0 for topic in figures["topics"]} == {
        "transactions": True,
        "legit": True,
        "fraud": True,
        "dead_letter": False,
    }

    for container in containers("dashboard", "prometheus"):
        host = container["HostConfig"]
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert 0 < host["Memory"] <= 512 * 1024**2
        assert 0 < host["PidsLimit"] <= 256
        assert {binding["HostIp"] for ports in host["PortBindings"].values() for binding in ports} == {"127.0.0.1"}
        assert run(f"docker exec {container['Id']} id -u").strip() != "0"

    monitored.kafka("kafka-console-producer --topic queueing.transactions", before="echo no transaction |")
    for query in QUERIES:
        wait_until(lambda q=query: ask(f"query?query={quote(q)}").get("result"), 240, lambda q=query: q)


def test_compose_takes_the_overlay(stack: Stack) -> None:
    """Either version of Compose reads it, and the one with Grafana, without a complaint."""
    stack.quiet(f"{MONITORED} config -q")
    stack.quiet(f"{MONITORED} -f compose/grafana.yml config -q")


def test_the_rules_pass_their_own_tests() -> None:
    """Promtool, out of the pinned image, finds that each fires when it should, and only then."""
    check_engine("docker")
    (image,) = re.findall(r"^FROM (\S+)", (FOLDER / "Dockerfile").read_text(), re.M)
    promtool = f"docker run --rm --network none -v {FOLDER}:/rules:ro -w /rules --entrypoint promtool {image}"
    run(f"{promtool} check config --syntax-only prometheus.yml")
    assert "SUCCESS" in run(f"{promtool} test rules rules.test.yml")


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_a_rule_is_tested_and_says_what_to_do(rule: dict[str, Any]) -> None:
    """It fires in one test and not in another moment; its action names a section of the documentation."""
    cases = [case for test in TESTS for case in test.get("alert_rule_test", []) if case["alertname"] == rule["alert"]]
    assert {bool(case["exp_alerts"]) for case in cases} == {True, False}
    file, anchor = re.search(r"(docs/\S+)#(\S+)$", rule["annotations"]["action"]).groups()  # type: ignore[union-attr]
    headings = re.findall(r"^#+ (.+)$", (ROOT / file).read_text(), re.M)
    assert anchor in [heading.lower().replace(" ", "-") for heading in headings]
