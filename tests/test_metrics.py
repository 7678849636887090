"""The metrics of both services, as a scraper sees them."""

import http.client
import os
import re
import socket
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from threading import Event, Thread

import pytest

from embedded import records
from embedded.pipeline import ROOT, Pipeline
from embedded.records import Record
from embedded.service import Service, wait_until
from harness import scrape, transaction

pytestmark = pytest.mark.long

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
INFO = re.compile(rf'(detector|generator)_info{{interpreter="cpython 3[.0-9]+",version="{VERSION}"}}')


@pytest.fixture
def port() -> int:
    """A free port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def detector(pipeline: Pipeline, port: int) -> Iterator[Service]:
    """A detector with metrics, that has routed 100 legit, 10 fraudulent and 3 dead records."""
    pipeline.write([Record(transaction(10, n=n)) for n in range(100)])
    pipeline.write([Record(transaction(900, n=n)) for n in range(10)])
    pipeline.write([Record(b"{"), Record(b"\xff"), Record(b"[")])
    with pipeline.service("detector", METRICS_PORT=str(port)) as service:
        pipeline.drain()
        yield service


def test_the_detector_counts_what_it_has_committed(detector: Service, pipeline: Pipeline, port: int) -> None:
    """Records by route, dead letters by reason, transactions and their ages, the lag, and the version."""
    wait_until(lambda: scrape(port).get('detector_records_total{route="dead_letter"}') == 3.0, 120)
    samples = scrape(port)
    assert samples['detector_records_total{route="legit"}'] == 100
    assert samples['detector_records_total{route="fraud"}'] == 10
    assert samples['detector_dead_letters_total{reason="not JSON"}'] == 2
    assert samples['detector_dead_letters_total{reason="not UTF-8"}'] == 1
    lag = f'detector_lag_records{{partition="0",topic="{pipeline.transactions}"}}'
    wait_until(lambda: scrape(port).get(lag) == 0, 120)
    transactions = samples["detector_transactions_total"]
    assert transactions >= 1
    assert samples["detector_transaction_seconds_count"] == transactions == samples["detector_batch_records_count"]
    assert samples["detector_batch_records_sum"] == 113
    assert 0 < samples["detector_record_age_seconds_sum"] < 600 * samples["detector_record_age_seconds_count"]
    assert 0 < samples["detector_transaction_seconds_sum"] < 60
    assert samples["detector_last_commit_timestamp_seconds"] > 1.7e9
    assert samples["detector_last_progress_timestamp_seconds"] > 1.7e9
    assert any(INFO.fullmatch(name) for name in samples)
    assert detector.stop() == 0


def test_the_generator_counts_what_it_has_delivered(pipeline: Pipeline, port: int) -> None:
    """Transactions delivered, failed and in flight, the rate asked for, and the version."""
    with pipeline.service("generator", METRICS_PORT=str(port), TRANSACTIONS_PER_SECOND="50") as generator:
        generator.wait_for("Starting")
        wait_until(lambda: generator.check() is None and delivered(port) > 0, 120)
        samples = scrape(port)
        assert samples["generator_failed_total"] == 0
        assert 0 <= samples["generator_in_flight"] <= 10_000
        assert samples["generator_target_rate"] == 50
        assert any(INFO.fullmatch(name) for name in samples)
        assert generator.stop() == 0


def delivered(port: int) -> float:
    """Return how much the generator says it has delivered; nothing while it does not listen yet."""
    try:
        return scrape(port)["generator_delivered_total"]
    except OSError:
        return 0


def test_a_hostile_scraper_holds_nothing_up(detector: Service, pipeline: Pipeline, port: int) -> None:
    """Connections that ask for nothing, for nonsense, or go away: the pipeline goes on, and others get their answer."""
    idle = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(5)]
    idle[0].sendall(b"\x00\xff nonsense\r\n\r\n")
    idle[1].sendall(b"GET /metrics HTTP/1.1\r\n")
    idle[2].close()
    pipeline.write([Record(transaction(10, n=n)) for n in range(100)])
    pipeline.drain()
    wait_until(lambda: scrape(port)['detector_records_total{route="legit"}'] == 200, 120)
    for connection in idle:
        connection.close()
    assert "Traceback" not in detector.log
    assert detector.stop() == 0


def test_a_scraper_that_is_slow_without_end(detector: Service, port: int) -> None:
    """Whoever sends a byte now and then is disconnected, and others are answered meanwhile, however many these are."""
    slow = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(10)]
    ended = Event()

    def drip() -> None:
        for connection in slow:
            with suppress(OSError):
                connection.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
        while not ended.wait(0.2):
            for connection in slow:
                with suppress(OSError):
                    connection.sendall(b"x")

    thread = Thread(target=drip, daemon=True)
    thread.start()
    assert scrape(port)["detector_transactions_total"] >= 1
    for connection in slow:
        with suppress(ConnectionError):
            assert connection.recv(1) == b""  # it has been disconnected, though it goes on sending
    ended.set()
    thread.join()
    assert scrape(port)["detector_transactions_total"] >= 1
    assert len(os.listdir(f"/proc/{detector.process.pid}/task")) < 20


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="there is no IPv6 here")
def test_both_versions_of_ip_and_a_head(detector: Service, port: int) -> None:
    """A scraper comes by either; to a HEAD the answer is the same without the metrics."""
    for address in ("127.0.0.1", "::1"):
        for method in ("GET", "HEAD"):
            asked = http.client.HTTPConnection(address, port, timeout=60)
            asked.request(method, "/metrics")
            answer = asked.getresponse()
            assert answer.status == 200
            assert answer.getheader("Content-Type").startswith("text/plain")
            assert (b"detector_records_total" in answer.read()) == (method == "GET")
            asked.close()


def test_the_lag_of_each_topic(pipeline: Pipeline, port: int) -> None:
    """A service that reads two topics has a lag in both; what it has written is counted."""
    pipeline.create(pipeline.fraud)
    topics = {"CANDIDATES_TOPIC": f"{pipeline.name}.candidates", "ALERTS_TOPIC": f"{pipeline.name}.alerts"}
    environ = pipeline.environ("detector", **topics, METRICS_PORT=str(port), ALERT_AMOUNT="1000")
    with Service("smurfing", environ) as service:
        records.write(pipeline.broker_url, pipeline.fraud, [Record(transaction(1000)), Record(transaction(900))])
        service.wait_for("frauds=2 candidates=1 alerts=1 lag=0")
        samples = scrape(port)
        for topic in (pipeline.fraud, topics["CANDIDATES_TOPIC"]):
            assert samples[f'smurfing_lag_records{{partition="0",topic="{topic}"}}'] == 0
        for route, count in {"frauds": 2, "candidates": 1, "alerts": 1}.items():
            assert samples[f'smurfing_records_total{{route="{route}"}}'] == count
        assert service.stop() == 0


@pytest.mark.parametrize("name", ["detector", "generator"])
def test_a_port_that_is_taken_is_bad_configuration(name: str, pipeline: Pipeline) -> None:
    """Exit code 2 at once, with the port and what to do."""
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pipeline.service(name, METRICS_PORT=str(port)) as service:
            assert service.wait() == 2
    assert f"METRICS_PORT is {port} (Address already in use): give it a free port" in service.log


@pytest.mark.parametrize("name", ["detector", "generator"])
def test_without_a_port_nothing_is_imported(name: str, pipeline: Pipeline) -> None:
    """Who does not ask for metrics does not load the library for them."""
    environment = pipeline.environ(name, PYTHONPROFILEIMPORTTIME="1")
    with Service(name, environment) as service:
        service.read = str  # the profile's lines are no objects
        service.wait_for("rate=")  # it is at work
        assert "kafka" in service.log
        assert "prometheus" not in service.log


def test_the_lag_of_many_partitions(pipeline: Pipeline) -> None:
    """The ends of forty partitions are asked for at once, though a connection takes only some requests at a time."""
    many = Pipeline(pipeline.broker_url, partitions=40)
    many.create(many.transactions)
    many.write([Record(transaction(n=n), partition=n) for n in range(40)])
    with many.restarted("detector") as detector:
        many.drain()
        detector.wait_for("legit=40 fraud=0 dead_letter=0 lag=0")
        assert "the broker that leads it does not answer" not in detector.log
