"""The page of the dashboard in a real browser, on a real broker: what it shows, and what it does not let happen."""

import asyncio
import http.client
import json
import re
import socket
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from kafka import KafkaProducer
from playwright.sync_api import Browser, Page, expect, sync_playwright

import demo.page
import raw
from demo.observer import ALERTS_TOPIC
from demo.pictures import CHROMIUM, launch
from demo.web import STREAMS, application
from detector.tests.corpus import CORPUS
from embedded import Broker, Cluster
from embedded.cluster import free_ports
from embedded.pipeline import ROUTES, Pipeline
from embedded.records import Record, write
from embedded.service import Service, wait_until
from harness import NoName, memory_peak_mb, transaction, unable

CHARTS = 4 + len(ROUTES)
"""Fraud share, lag, latency, and one for each topic."""
MOST_MB = 200
"""What the dashboard may take, whatever is written; Compose allows 256."""
SCRIPT = "<script>document.title='hacked'</script><img src=x onerror=\"document.title='hacked'\">"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    expect.set_options(timeout=120_000)
    with sync_playwright() as playwright:
        if not Path(CHROMIUM or playwright.chromium.executable_path).exists():
            unable("not installed: chromium, or what '.venv/bin/playwright install chromium' installs")
        with launch(playwright) as running:
            yield running


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """A broker of this file's own, which it can take away."""
    with Cluster() as cluster:
        yield cluster.brokers[0]


@pytest.fixture(scope="module")
def pipeline(broker: Broker) -> Pipeline:
    """Topics on it."""
    fresh = Pipeline(f"127.0.0.1:{broker.port}")
    fresh.create(fresh.transactions, *fresh.outputs)
    return fresh


@pytest.fixture(scope="module")
def port(pipeline: Pipeline) -> Iterator[int]:
    """The port of the dashboard, a process as in production."""
    (free,) = free_ports(1)
    environ = pipeline.environ("detector", WEB_PORT=str(free))
    with Service("dashboard", environ, (sys.executable, "-m", "demo.dashboard")) as dashboard:
        wait_until(lambda: get(free, "/health")[0] == 200, 120, lambda: dashboard.log)
        yield free
        assert memory_peak_mb(dashboard) < MOST_MB
        assert dashboard.stop() == 0, dashboard.log
        assert "Traceback" not in dashboard.log


@pytest.fixture
def page(browser: Browser, port: int) -> Iterator[Page]:
    """The page, at work. Whatever it writes to the console, violations of its policy included, fails the test."""
    with closing(browser.new_context(viewport={"width": 1200, "height": 900})) as context:
        context.set_default_timeout(120_000)
        opened = context.new_page()
        said: list[str] = []
        opened.on("console", lambda message: said.append(message.text))
        opened.on("pageerror", lambda error: said.append(str(error)))
        opened.goto(f"http://localhost:{port}/")
        expect(opened.locator("#state")).to_have_text("live")
        expect(opened.locator("#transactions-rate")).to_be_visible()
        yield opened
        assert said == []
        assert opened.title() == "Fraud detection, live"


def get(port: int, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
    """Return status, headers and body of an answer; status 0 where nothing listens."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()
        except OSError:
            return 0, {}, ""


def figures_of(port: int) -> dict[str, Any]:
    """Return what a page that opens now is sent first."""
    with urlopen(f"http://localhost:{port}/events", timeout=60) as events:
        return json.loads(events.readline().removeprefix(b"data: "))  # type: ignore[no-any-return]


def number(page: Page, id: str) -> float:
    """Return the number that an element shows."""
    return float(page.locator(f"#{id}").inner_text().split()[0].replace(",", ""))


def test_so_many_streams_and_no_more() -> None:
    """Also if all are asked for at once; one that ends leaves its place to another."""
    page, granted = demo.page.Page("a broker"), list[int]()
    headers = [(b"host", b"localhost")]
    scope = {"type": "http", "method": "GET", "path": "/events", "headers": headers, "query_string": b""}

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(1000)
        return {}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            granted.append(message["status"])

    async def all_at_once() -> None:
        serve = application(page)
        asking = [asyncio.ensure_future(serve(scope, receive, send)) for _ in range(STREAMS + 20)]
        while len(granted) < len(asking):
            await asyncio.sleep(0.01)
        for one in asking:
            one.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    asyncio.run(all_at_once())
    assert (granted.count(200), granted.count(503), page.streams) == (STREAMS, 20, 0)


def test_a_fraud_is_shown_within_two_seconds(page: Page, pipeline: Pipeline) -> None:
    """From the producer's acknowledgement until the browser shows it, at best: a busy machine may delay some."""
    seconds = []
    with closing(KafkaProducer(bootstrap_servers=pipeline.broker_url)) as producer:
        while not seconds or (min(seconds) > 2 and len(seconds) < 20):
            name = uuid.uuid4().hex[:12]
            producer.send(pipeline.fraud, transaction(987.65, source=name)).get(60)
            start = time.monotonic()
            row = page.locator("#fraud tr", has_text=name)
            expect(row).to_be_visible(timeout=120_000)
            seconds.append(time.monotonic() - start)
            assert row.locator("td").all_inner_texts()[1:] == ["987.65", "EUR", name, "bob"]
    assert min(seconds) <= 2


def test_figures_and_charts_move(page: Page, pipeline: Pipeline) -> None:
    """Records, rate and fraud share follow what is written, and each chart draws it."""
    before = {name: number(page, f"{name}-records") for name in ("transactions", "legit", "fraud", "dead_letter")}
    pictures = page.locator(".chart canvas")
    assert pictures.count() == CHARTS
    drawn = [picture.evaluate("canvas => canvas.toDataURL()") for picture in pictures.all()]
    pipeline.write([Record(transaction(10))] * 100)
    for topic, value, count in (
        (pipeline.legit, transaction(10), 90),
        (pipeline.fraud, transaction(900), 9),
        (pipeline.dead_letter, b"nothing", 1),
    ):
        write(pipeline.broker_url, topic, [Record(value)] * count)
    for name, count in (("transactions", 100), ("legit", 90), ("fraud", 9), ("dead_letter", 1)):
        expect(page.locator(f"#{name}-records")).to_have_text(f"{before[name] + count:,.0f}")
    legit, fraud = number(page, "legit-records"), number(page, "fraud-records")
    expect(page.locator("#share")).to_have_text(f"{100 * fraud / (legit + fraud):.2f} %")
    expect(page.locator("#expected")).to_have_text("expected 10.01 %")

    def rate() -> float:
        pipeline.write([Record(transaction(10))] * 10)
        return number(page, "transactions-rate")

    wait_until(lambda: rate() > 0, 120)
    for picture, before_it in zip(pictures.all(), drawn, strict=True):
        wait_until(lambda p=picture, b=before_it: p.evaluate("canvas => canvas.toDataURL()") != b, 120)


def test_a_detector_that_commits_nothing_is_named(page: Page, pipeline: Pipeline) -> None:
    """Here is none at all: a banner says so, and the lag is what was written."""
    pipeline.write([Record(transaction(10))])
    expect(page.locator("#banner")).to_contain_text("The detector commits nothing, and records wait")
    wait_until(lambda: number(page, "lag") == pipeline.lag() > 0, 120)


def test_nothing_out_of_a_record_does_anything(page: Page, pipeline: Pipeline) -> None:
    """Values of the corpus and scripts, in every topic, header and member, are shown as text or not at all."""
    corpus = [Record(case.value) for case in CORPUS]
    for topic in (pipeline.transactions, *pipeline.outputs):
        write(pipeline.broker_url, topic, corpus)
    hostile = [transaction(950, **{name: SCRIPT}) for name in ("source", "target", "currency")]
    hostile += [transaction(float("inf")), transaction(int("9" * 401)), transaction(950, source="\u202eright to left")]
    write(pipeline.broker_url, pipeline.fraud, [Record(value) for value in hostile])
    reason = ("__streams.errors.message", SCRIPT.encode())
    letters = [Record(SCRIPT.encode(), headers=((NoName("name"), b"\xff"), reason))]
    place = {"exception": "RecordTooLarge", "topic": "in", "partition": "3", "offset": "5"}
    letters += [Record(None, headers=(reason, *((f"__streams.errors.{k}", v.encode()) for k, v in place.items())))]
    write(pipeline.broker_url, pipeline.dead_letter, letters)
    cell = page.locator("#dead_letter tr").nth(1).locator("td")
    expect(cell.nth(2)).to_have_text(SCRIPT[:80] + "…")
    expect(cell.nth(1)).to_have_text(SCRIPT)
    cell = page.locator("#dead_letter tr").first.locator("td")
    expect(cell.nth(2)).to_have_text("only in in[3] offset 5")
    expect(cell.nth(1)).to_have_text(SCRIPT)
    write(pipeline.broker_url, pipeline.fraud, [Record(bytes(2**21))], compression_type="gzip")
    expect(page.locator("#since")).to_contain_text(f"1 skipped, the last in {pipeline.fraud}[0] offset")
    expect(page.locator("#since")).to_contain_text("too large: 2,097,")
    expect(page.locator("#fraud")).to_contain_text(SCRIPT[:20] + "…")
    expect(page.locator("#fraud")).to_contain_text("\ufffdright to left")
    expect(page.locator("#fraud")).to_contain_text("Infinity")
    assert page.locator("main script, main img, header script, header img").count() == 0


def test_alerts_are_shown_once_their_topic_exists(page: Page, pipeline: Pipeline) -> None:
    """The newest alerts have a table of their own, which is not there without them; scripts in them are text."""
    expect(page.locator("#alerts-section")).to_be_hidden()
    pipeline.create(ALERTS_TOPIC)
    write(pipeline.broker_url, pipeline.fraud, [Record(transaction(950))])
    alert = {"id": "1", "rule": "smurfing", "target": SCRIPT, "sources": 50, "sum": 50000, "currency": "EUR"}
    alert |= {"first": 1_700_000_000_000, "last": "never"}
    large = {"id": "2", "rule": "amount", "source": "a", "target": "b", "amount": 2000, "currency": "EUR", "time": 0}
    values = [json.dumps(alert).encode(), json.dumps(large).encode(), b"[" * 10_000, b'"amount"', b"{}"]
    write(pipeline.broker_url, ALERTS_TOPIC, [Record(value) for value in values])
    expect(page.locator("#alerts tr")).to_have_count(5)
    expect(page.locator("#alerts-records")).to_have_text("5")
    expect(page.locator("#alerter-lag")).to_have_text("5")
    expect(page.locator("#banner")).to_contain_text("The alerter commits nothing, and alerts wait for it")
    expect(page.locator("#smurfing-lag")).to_have_text(f"{pipeline.count(pipeline.fraud):,}")
    expect(page.locator("#banner")).to_contain_text("The smurfing detector commits nothing, and frauds wait for it")
    texts = page.locator("#alerts tr").last.locator("td").all_inner_texts()
    assert texts[1:] == ["smurfing", SCRIPT[:40] + "…", "50", "50000", "EUR", "2023-11-14 22:13:20Z", "never"]
    texts = page.locator("#alerts tr").nth(3).locator("td").all_inner_texts()
    assert texts[1:] == ["amount", "b", "1", "2000", "EUR", *["1970-01-01 00:00:00Z"] * 2]


def test_bombs_cost_no_memory(page: Page, pipeline: Pipeline) -> None:
    """A record of 60 MB, compressed to 60 kB, is passed over wherever it is; what follows is shown."""
    before = number(page, "dead_letter-records")
    values = (bytes(60_000_000), b"[" + b"[]," * 300_000 + b"0]")
    bomb = raw.batch([(0, raw.content(value)) for value in values], "gzip")
    with pipeline.admin() as admin:
        if ALERTS_TOPIC not in admin.list_topics():
            pipeline.create(ALERTS_TOPIC)
    with raw.wire(pipeline.broker_url) as wire:
        for topic in (pipeline.transactions, *pipeline.outputs, ALERTS_TOPIC):
            wire.produce(topic, bomb)
    write(pipeline.broker_url, pipeline.dead_letter, [Record(b"after the bombs")])
    expect(page.locator("#dead_letter")).to_contain_text("after the bombs")
    expect(page.locator("#dead_letter-records")).to_have_text(f"{before + 3:,.0f}")
    expect(page.locator("#since")).to_contain_text("too large: 60,000,006 bytes")


def test_nine_tabs(browser: Browser, port: int, pipeline: Pipeline) -> None:
    """All load and go on, also when the one that has the stream is hidden or closed; together they have one stream."""

    def write_and_see(hidden: Page | None = None) -> None:  # which draws nothing
        name = uuid.uuid4().hex[:12]
        write(pipeline.broker_url, pipeline.fraud, [Record(transaction(950, source=name))])
        for page in [page for page in tabs if page is not hidden]:
            expect(page.locator("#fraud")).to_contain_text(name)
            expect(page.locator("#state")).to_have_text("live")

    with closing(browser.new_context()) as context:
        tabs = [context.new_page() for _ in range(9)]
        for page in tabs:
            page.goto(f"http://localhost:{port}/")
        write_and_see()
        having = [page for page in tabs if page.evaluate("source !== null")]
        assert len(having) == 1
        hide = "Object.defineProperty(document, 'hidden', {get: () => %s, configurable: true})"
        having[0].evaluate(f"{hide % 'true'}; document.dispatchEvent(new Event('visibilitychange'))")
        write_and_see(having[0])
        assert having[0].evaluate("source === null")
        (owner,) = [page for page in tabs if page.evaluate("source !== null")]
        tabs.remove(owner)
        owner.close()
        having[0].evaluate(f"{hide % 'false'}; document.dispatchEvent(new Event('visibilitychange'))")
        write_and_see()
        lengths = {page.evaluate("rows.length > 1 && new Set(rows.map(String)).size === rows.length") for page in tabs}
        assert lengths == {True}


def test_topics_that_change_are_followed(broker: Broker) -> None:
    """Partitions that are added count, and so does a topic that is created again; that it is missing is said."""
    own = Pipeline(f"127.0.0.1:{broker.port}")
    own.create(own.transactions, *own.outputs)
    (port,) = free_ports(1)
    command = (sys.executable, "-m", "demo.dashboard")

    def records(name: str) -> int:
        return next(topic["records"] for topic in figures_of(port)["topics"] if topic["name"] == name)  # type: ignore[no-any-return]

    def texts() -> list[str]:
        return [problem["text"] for problem in figures_of(port)["problems"]]

    with Service("dashboard", own.environ("detector", WEB_PORT=str(port)), command) as dashboard, own.admin() as admin:
        wait_until(lambda: "topics" in (figures_of(port) if get(port, "/health")[0] else {}), 120)
        own.write([Record(transaction(10))])
        wait_until(lambda: records("transactions") == 1, 120, lambda: dashboard.log)
        admin.create_partitions({own.transactions: 3})
        wait_until(lambda: len(admin.describe_topics([own.transactions])[0]["partitions"]) == 3, 120)
        wait_until(lambda: own.write([Record(transaction(10), partition=2)] * 5) is None, 120)
        wait_until(lambda: records("transactions") == 6, 120, lambda: str(figures_of(port)))
        wait_until(lambda: figures_of(port)["lags"]["detector"] == 6, 120)

        write(own.broker_url, own.legit, [Record(transaction(10))] * 3)
        wait_until(lambda: records("legit") == 3, 120)
        admin.delete_topics([own.legit])
        wait_until(lambda: f"There is no topic {own.legit}" in texts(), 120, lambda: str(texts()))
        assert own.legit not in admin.list_topics()
        wait_until(lambda: own.create(own.legit) is None, 120)
        write(own.broker_url, own.legit, [Record(transaction(10))] * 2)
        wait_until(lambda: records("legit") == 5, 120, lambda: str(figures_of(port)))
        wait_until(lambda: f"There is no topic {own.legit}" not in texts(), 120)
        admin.delete_topics([own.legit])
        wait_until(lambda: own.create(own.legit) is None, 120)  # at once
        write(own.broker_url, own.legit, [Record(transaction(10))] * 4)
        wait_until(lambda: records("legit") == 9, 120, lambda: str(figures_of(port)))
        assert not [text for text in texts() if "answer" in text]
        dashboard.check()


def test_a_broker_that_goes_away_and_comes_back(page: Page, pipeline: Pipeline, broker: Broker) -> None:
    """A banner says so and the figures are called stale; afterwards all goes on, and nothing was missed."""
    before = number(page, "legit-records")
    broker.kill()
    expect(page.locator("#banner")).to_contain_text(f"Kafka does not answer at {pipeline.broker_url}")
    expect(page.locator("#state")).to_contain_text("stale: figures of")
    broker.start()
    broker.wait_ready()
    write(pipeline.broker_url, pipeline.legit, [Record(transaction(10))] * 7)
    expect(page.locator("#legit-records")).to_have_text(f"{before + 7:,.0f}")
    expect(page.locator("#state")).to_have_text("live")
    expect(page.locator("#banner")).not_to_contain_text("does not answer")


PHONE = {
    **{"title": "x" * 249, "expected_share": 0.1, "share": 0.1, "p50": 1, "p99": 1, "started": 0, "skipped": 1},
    **{"last_skipped": "x" * 400, "lags": {"detector": 0, "smurfing": 1, "alerter": 1}, "alert_count": 1},
    "fraud": [{"at": 0, "amount": "1.00e+401", "currency": "EUR…", "source": "x" * 20 + "…", "target": "y" * 20 + "…"}],
    "alerts": [{"at": 0, **dict.fromkeys(("rule", "target", "sources", "sum", "currency", "first", "last"), "x" * 41)}],
    "dead_letter": [],
}
"""Figures with the longest of everything, and no dead letter."""


def test_keyboard_phone_and_dark(page: Page) -> None:
    """Tab reaches the button and every table, visibly; Pause holds the figures; a phone shows all at once."""
    reached = []
    for _ in range(10):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("document.activeElement.id || document.activeElement.getAttribute('aria-labelledby')")
        )
        if reached[-1]:
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert {"pause", "frauds-name", "dead-name"} <= set(reached)
    page.locator("#pause").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#state")).to_have_text("paused")
    page.keyboard.press("Enter")
    expect(page.locator("#state")).to_have_text("live")
    page.set_viewport_size({"width": 360, "height": 740})
    page.evaluate("figures => { isPaused = true; show(figures); }", PHONE | {"topics": page.evaluate("newest.topics")})
    page.evaluate("document.querySelectorAll('#topics h3').forEach(topic => { topic.textContent = 'x'.repeat(249); })")
    wait_until(lambda: page.evaluate("document.documentElement.scrollWidth") <= 360, 120)
    cut = "[...document.querySelectorAll('.scroll')].filter(region => region.scrollWidth > region.clientWidth).length"
    assert page.evaluate(cut) == 0
    names = "[...document.querySelectorAll('#fraud td')].map(cell => getComputedStyle(cell, '::before').content)"
    assert page.evaluate(names) == ['"read at"', '"amount"', '"currency"', '"source"', '"target"']
    expect(page.locator("#dead_letter")).to_have_text("none yet")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light


def test_a_screen_reader_finds_its_way(page: Page) -> None:
    """Landmarks, headings in order, live regions, and a name for every region, chart and button."""
    for role in ("banner", "main", "alert", "status"):
        assert page.get_by_role(role).count() == 1  # type: ignore[arg-type]
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(h => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert page.get_by_role("img", name=re.compile("over the last five minutes")).count() == CHARTS
    for name in ("Newest frauds", "Newest dead letters"):
        assert page.get_by_role("region", name=name).count() >= 1
    assert page.get_by_role("button", name="Pause").count() == 1


def test_the_page_reconnects(browser: Browser, pipeline: Pipeline) -> None:
    """With its server gone it calls its figures stale, and goes on by itself once there is one again."""
    (port,) = free_ports(1)
    command = (sys.executable, "-m", "demo.dashboard")
    environ = pipeline.environ("detector", WEB_PORT=str(port))
    with closing(browser.new_context()) as context:
        page = context.new_page()
        with Service("dashboard", environ, command):
            wait_until(lambda: get(port, "/health")[0] == 200, 120)
            page.goto(f"http://localhost:{port}/")
            expect(page.locator("#state")).to_have_text("live")
        expect(page.locator("#state")).to_contain_text("stale")
        with Service("dashboard", environ, command):
            expect(page.locator("#state")).to_have_text("live")


def test_answers_are_strict_and_read_only(port: int) -> None:
    """A strict content security policy, no cookies, no other methods, no files but the page's, no other host names."""
    for path in ("/", "/page.js", "/nothing"):
        _, headers, _ = get(port, path)
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert not {"set-cookie", "server"} & set(headers)
    assert get(port, "/../page.py")[0] == get(port, "/..%2fpage.py")[0] == 404
    assert get(port, "/", Host="evil.example")[0] == 400
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("POST", "/events")
        assert connection.getresponse().status == 405


def test_slow_and_many_clients_hold_up_nobody(port: int) -> None:
    """Clients that take nothing cost nobody time; beyond a number of them others are refused, until they have gone."""

    def status() -> int:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
            connection.request("GET", "/events")
            return connection.getresponse().status

    silent = []
    try:
        for _ in range(45):
            client = socket.create_connection(("127.0.0.1", port))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            client.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            silent.append(client)
        wait_until(lambda: status() == 503, 120)
        assert get(port, "/")[0] == 200
    finally:
        for client in silent:
            client.close()
    wait_until(lambda: status() == 200, 120)


def test_idle_connections_hold_up_nobody(port: int) -> None:
    """Clients that send no request, or one byte by byte, change nothing for others, and are disconnected in time."""
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(64)]
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(8)]
    try:
        assert get(port, "/")[0] == get(port, "/health")[0] == 200

        def is_over(client: socket.socket) -> bool:
            try:
                client.sendall(b"G" if client in slow else b"")
                client.settimeout(0.2)
                return client.recv(1) == b""
            except TimeoutError:
                return False
            except OSError:
                return True

        for client in (*slow, *idle):
            wait_until(lambda client=client: is_over(client), 120)  # type: ignore[misc]
    finally:
        for client in (*idle, *slow):
            client.close()
