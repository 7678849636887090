"""The alerter with a real broker, a real web server and a real mail server: each is told everything, at least once."""

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from email import message_from_bytes
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from kafka import KafkaConsumer, TopicPartition

from embedded import Cluster
from embedded import records as kafka_records
from embedded.cluster import free_ports
from embedded.pipeline import ROOT, Pipeline
from embedded.records import Record
from embedded.service import Service, service_command, wait_until
from harness import transaction

SECRET = "hunter2"
MINUTE = 60_000


def alert(number: int, **members: object) -> Record:
    """Return the record of an alert."""
    members = {"sources": 50, "sum": 50000, "currency": "EUR", "first": 0, "last": 1440 * MINUTE, **members}
    value = {"id": f"smurfing-{number}", "rule": "smurfing", "target": f"acct{number}", **members}
    return Record(json.dumps(value).encode(), str(value["target"]).encode())


class Web:
    """A web server that takes apprise's JSON; what it answers, and whether it does, can be changed."""

    def __init__(self) -> None:
        self.got: list[tuple[str, str]] = []
        """Subject and body of each message that was confirmed."""
        self.asked = 0
        self.status = 200
        self.before_answer: Callable[[], object] = lambda: None
        self.after_answer: Callable[[], object] = lambda: None
        self.done = Event()
        """Set at the end: who hangs is to wait for it."""
        self.port = 0
        self.open()

    def open(self) -> None:
        """Listen, on the same port as before."""
        self.done.clear()
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                web.asked += 1
                status = web.status
                web.before_answer()
                if status == 200:
                    web.got.append((message["title"], message["message"]))
                self.send_response(status)
                self.end_headers()
                web.after_answer()

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass  # the alerter has hung up

        self.server = Server(("127.0.0.1", self.port), Handler)
        self.port = self.server.server_port
        Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """Refuse connections."""
        self.done.set()
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self) -> str:
        """Its address, with a password and a token."""
        return f"json://user:{SECRET}@127.0.0.1:{self.port}/{SECRET}?+token={SECRET}&rto=60"

    @property
    def ids(self) -> list[str]:
        """The ids in the messages, in the order in which they came."""
        return re.findall(r"alert (\S+)\)", " ".join(body for _, body in self.got))


class Mail:
    """A mail server; it can refuse."""

    def __init__(self) -> None:
        self.got: list[Any] = []
        self.refuses = False
        self.controller = Controller(self, hostname="127.0.0.1", port=free_ports(1)[0])
        self.controller.start()

    async def handle_DATA(self, server: object, session: object, envelope: Any) -> str:
        """Take a mail, or refuse it."""
        if self.refuses:
            return "451 come back later"
        self.got.append(message_from_bytes(envelope.content, policy=default))
        return "250 OK"

    @property
    def url(self) -> str:
        """Its address."""
        return f"mailto://127.0.0.1:{self.controller.port}?from=alerter@example.org&to={SECRET}@example.org&format=text"


@pytest.fixture
def web() -> Iterator[Web]:
    """A web server."""
    with closing(Web()) as server:
        yield server


@pytest.fixture
def mail() -> Iterator[Mail]:
    """A mail server."""
    server = Mail()
    yield server
    server.controller.stop()


class Alerts:
    """Topics and a group of their own, and alerters that read them."""

    def __init__(self, cluster: Cluster, stack: ExitStack) -> None:
        self.pipeline, self.stack = Pipeline(cluster.bootstrap_servers), stack
        self.topic = f"{self.pipeline.name}.alerts"
        self.services: list[Service] = []
        self.pipeline.create(self.topic, partitions=2)

    def start(self, *urls: str, **more: str) -> Service:
        """Start an alerter."""
        environ = {
            "KAFKA_BROKER_URL": self.pipeline.broker_url,
            "ALERTS_TOPIC": self.topic,
            "CONSUMER_GROUP": self.pipeline.name,
            "ALERT_URLS": "\n".join(urls),
            "ALERTS_PER_MINUTE": "1000",
            **more,
        }
        self.services.append(self.stack.enter_context(Service("alerter", environ)))
        return self.services[-1]

    def write(self, *written: Record) -> None:
        """Write alerts."""
        kafka_records.write(self.pipeline.broker_url, self.topic, written)

    def committed(self, partition: int = 0) -> int:
        """Return the group's offset."""
        with closing(
            KafkaConsumer(bootstrap_servers=self.pipeline.broker_url, group_id=self.pipeline.name)
        ) as consumer:
            return consumer.committed(TopicPartition(self.topic, partition)) or 0

    def wait_committed(self, offset: int) -> None:
        """Wait until the group has come to this offset of partition 0."""
        wait_until(lambda: self.committed() == offset, 240, lambda: f"{self.committed()}, {self.services[-1].log}")


@pytest.fixture
def alerts(cluster: Cluster) -> Iterator[Alerts]:
    """Topics of their own; whatever the alerters have printed, no secret and no traceback is in it."""
    with ExitStack() as stack:
        fresh = Alerts(cluster, stack)
        yield fresh
        for service in fresh.services:
            assert SECRET not in service.log
            assert "Traceback" not in service.log


def test_everybody_is_told(alerts: Alerts, web: Web, mail: Mail) -> None:
    """One plain sentence is the subject, on the web as in the mail; the alert's id is in the message."""
    alerter = alerts.start(web.url, mail.url)
    alerts.write(alert(1, target="DE12-3456"))
    alerts.wait_committed(1)
    sentence = "Smurfing: 50 accounts sent 50,000 EUR to DE12-3456 in 24 hours"
    assert web.got == [(sentence, f"{sentence} (alert smurfing-1)")]
    (message,) = mail.got
    assert message["Subject"] == sentence
    assert message.get_content().strip() == f"{sentence} (alert smurfing-1)"
    assert alerter.stop() == 0
    assert f"receiver 1 (json): told {sentence} (alert smurfing-1)" in alerter.log


def test_who_is_away_is_told_later(alerts: Alerts, web: Web, tmp_path: Path) -> None:
    """A receiver refuses connections, hangs, and comes back: nothing is lost, skipped or out of order meanwhile.

    The other one is told everything at once, and once. The offset stays, and so does the heartbeat.
    """
    heartbeat = tmp_path / "heartbeat"
    with closing(Web()) as other:
        web.close()
        alerts.write(*map(alert, range(5)))
        alerter = alerts.start(web.url.replace("rto=60", "rto=1"), other.url, HEARTBEAT_FILE=str(heartbeat))
        alerter.wait_for("receiver 1 (json): not confirmed, next attempt in 2 s; waiting=5")
        web.status, web.before_answer = 500, lambda: web.done.wait(30)
        web.open()
        wait_until(lambda: web.asked > 0, 120)
        refused = alerter.log.count("not confirmed")
        wait_until(lambda: alerter.log.count("not confirmed") > refused, 120)
        wait_until(lambda: len(other.got) == 5, 120)
        assert alerts.committed() == 0
        assert heartbeat.stat().st_mtime == 0
        web.status, web.before_answer = 200, lambda: None
        alerts.wait_committed(5)
        # It waits a second for an answer, so that this machine, if it is busy, may make it send an alert again.
        assert list(dict.fromkeys(web.ids)) == other.ids == [f"smurfing-{number}" for number in range(5)]
        wait_until(lambda: heartbeat.stat().st_mtime > 0, 120)
        assert alerter.stop() == 0


def test_a_mail_server_that_refuses(alerts: Alerts, mail: Mail) -> None:
    """What a mail server has refused is sent again."""
    mail.refuses = True
    alerter = alerts.start(mail.url)
    alerts.write(alert(1))
    alerter.wait_for("receiver 1 (mailto): not confirmed, next attempt in 1 s; waiting=1")
    mail.refuses = False
    alerts.wait_committed(1)
    assert len(mail.got) == 1


def test_killed_before_the_commit(alerts: Alerts, cluster: Cluster, web: Web) -> None:
    """What was confirmed, but not committed, is told again, with the same id; nothing is lost."""
    alerts.write(alert(1), alert(2))
    broker, asked, killed = cluster.brokers[0], Event(), Event()

    def freeze() -> None:
        broker.pause()  # so that no commit gets through
        web.before_answer = lambda: None
        asked.set()

    web.before_answer, web.after_answer = freeze, lambda: killed.wait(120)
    alerter = alerts.start(web.url)
    assert asked.wait(120)
    wait_until(lambda: len(web.got) == 1, 120)
    alerter.process.kill()
    broker.resume()
    killed.set()
    assert alerts.committed() == 0
    alerts.start(web.url)
    alerts.wait_committed(2)
    assert web.ids == ["smurfing-1", "smurfing-1", "smurfing-2"]


def test_no_more_messages_than_allowed(alerts: Alerts, web: Web) -> None:
    """Of three a minute the last is a summary of all that waits; what comes later waits, and survives a restart."""
    alerts.write(*map(alert, range(30)))
    alerter = alerts.start(web.url, ALERTS_PER_MINUTE="3")
    alerts.wait_committed(30)
    assert [subject.split(":")[0] for subject, _ in web.got] == ["Smurfing", "Smurfing", "28 alerts"]
    assert web.ids == [f"smurfing-{number}" for number in range(10)]
    place = f"from {alerts.topic}[0] offset 10 to {alerts.topic}[0] offset 29"
    assert web.got[2][1].endswith(f"\nAnd 20 more, {place}")
    alerts.write(*map(alert, range(30, 35)))
    ticks = alerter.log.count("\n")
    assert alerter.stop() == 0
    assert alerts.committed() == 30
    assert len(web.got) == 3
    assert alerter.log.count("\n") == ticks + 1
    alerts.start(web.url)
    alerts.wait_committed(35)
    assert web.ids[10:] == [f"smurfing-{number}" for number in range(30, 35)]


HOSTILE = [
    b"",
    None,
    b"\xff",
    b"no JSON",
    b"[" * 100_000,
    b"null",
    b'"id"',
    b'{"id": "x"}',
    alert(0, sources="50").value,
    alert(0, sum=True).value,
    alert(0, target=["x"]).value,
    b'{"id":"x","rule":"x","target":"x","sources":1,"currency":"EUR","first":1,"last":2,"sum":NaN}',
    b'{"id":"x","rule":"x","target":"x","sources":' + b"9" * 5000 + b',"currency":"EUR","first":1,"last":2,"sum":1}',
]


def test_whatever_a_record_says(alerts: Alerts, web: Web, mail: Mail) -> None:
    """What is no alert is logged by its position, and passed over. No value becomes a header, markup or a long text."""
    bad = "x\r\nBcc: all@example.org\r\n\r\n<b>@everyone</b> [a](http://b.c) \x1b]52;c;aGk=\x07 \u202e" + "y" * 10_000
    extreme = alert(1, sum=10**400, sources=-1, last=10**400)
    nasty = [alert(4, id=bad, rule=bad, target=bad, currency=bad)] * 20
    alerts.write(*map(Record, HOSTILE), extreme, *nasty)
    alerter = alerts.start(web.url, mail.url, ALERTS_PER_MINUTE="3")
    alerts.wait_committed(len(HOSTILE) + 1 + len(nasty))
    for offset in range(len(HOSTILE)):
        assert f" WARNING {alerts.topic}[0]: passed over offset {offset}: no " in alerter.log
    assert web.got[0][0] == "Smurfing: -1 accounts sent 1.00e+400 EUR to acct1 in 1.16e+392 days"
    assert len(web.got) == len(mail.got) == 3
    for (subject, body), message in zip(web.got, mail.got, strict=True):
        assert re.fullmatch(r"[\w :,.+�…-]+", subject)
        assert re.fullmatch(r"[\w :,.+�…()\[\]\n-]+", body)
        assert len(subject) < 200
        assert len(body) < 2000
        assert message["Subject"] == subject
        assert message["Bcc"] is None
        assert message.get_content().split() == body.split()
    assert all(len(line) < 2500 for line in alerter.log.splitlines())
    assert "\x1b" not in alerter.log


def test_frauds_from_an_amount_on(alerts: Alerts, web: Web) -> None:
    """With ALERT_AMOUNT, frauds of that and more are told as well, by their position; all others are passed by."""
    alerts.pipeline.create(alerts.pipeline.fraud)
    amounts = [transaction(999.99), transaction(1000), b"no fraud", transaction(10**400), transaction(900)]
    kafka_records.write(alerts.pipeline.broker_url, alerts.pipeline.fraud, map(Record, amounts))
    alerter = alerts.start(web.url, FRAUD_TOPIC=alerts.pipeline.fraud, ALERT_AMOUNT="1000")
    alerts.write(alert(7))
    wait_until(lambda: len(web.got) == 3, 120, lambda: alerter.log)
    assert sorted(web.ids) == ["fraud-0-1", "fraud-0-3", "smurfing-7"]
    assert ("Fraud: alice sent 1,000 EUR to bob", "Fraud: alice sent 1,000 EUR to bob (alert fraud-0-1)") in web.got
    assert f"{alerts.pipeline.fraud}[0]: passed over offset 2: no " in alerter.log
    assert alerter.stop() == 0


def test_two_instances_share_the_partitions(alerts: Alerts, web: Web) -> None:
    """A second one takes over a partition while the first waits for its receiver; nothing is lost, one is enough."""
    web.status = 500
    first = alerts.start(web.url)
    alerts.write(*(alert(number)._replace(partition=number % 2) for number in range(10)))
    first.wait_for("waiting=10")
    second = alerts.start(web.url)
    second.wait_for("waiting=5")
    first.wait_for("waiting=5")
    web.status = 200
    wait_until(lambda: alerts.committed(0) == alerts.committed(1) == 5, 240, lambda: first.log + second.log)
    assert {*web.ids} == {f"smurfing-{number}" for number in range(10)}
    assert first.stop() == second.stop() == 0


def test_a_signal_while_a_receiver_hangs(alerts: Alerts, web: Web) -> None:
    """It ends in order all the same: exit code 0, and what was not confirmed is not committed."""
    web.before_answer = lambda: web.done.wait(30)
    alerter = alerts.start(web.url.replace("rto=60", "rto=3"))
    alerts.write(alert(1))
    wait_until(lambda: web.asked > 0, 120)
    assert alerter.stop() == 0
    assert alerts.committed() == 0


def test_without_an_address_the_log_is_told(alerts: Alerts) -> None:
    """Where nobody is named, the alert is in the log."""
    alerter = alerts.start()
    alerts.write(alert(1))
    alerter.wait_for("told Smurfing: 50 accounts sent 50,000 EUR to acct1 in 24 hours (alert smurfing-1)")
    alerts.wait_committed(1)


def test_addresses_in_a_file(alerts: Alerts, web: Web, tmp_path: Path) -> None:
    """ALERT_URLS_FILE names a file that holds them, separated by spaces, lines or commas."""
    file = tmp_path / "urls"
    file.write_text(f"{web.url}, {web.url}\n")
    alerter = alerts.start(ALERT_URLS_FILE=str(file))
    alerts.write(alert(1))
    alerts.wait_committed(1)
    assert web.ids == ["smurfing-1"] * 2
    assert alerter.stop() == 0


@pytest.mark.parametrize(
    ("variable", "value", "remedy"),
    [
        ("KAFKA_BROKER_URL", "broker", "host:port"),
        ("KAFKA_SECURITY_PROTOCOL", "TLS", "SASL_SSL"),
        ("ALERTS_TOPIC", "", "not set"),
        ("ALERTS_TOPIC", "an alert", "name of a topic"),
        ("ALERT_AMOUNT", "many", "number above 0"),
        ("ALERT_AMOUNT", "1000", "FRAUD_TOPIC is not set"),
        ("ALERTS_PER_MINUTE", "0", "whole number above 0"),
        ("CONSUMER_GROUP", "an alerter", "without spaces"),
        ("HEARTBEAT_FILE", "/no/such/folder/heartbeat", "a folder that exists"),
        ("ALERT_URLS_FILE", "/no/such/file", "a file that can be read"),
        ("ALERT_URLS", f"json://localhost/{SECRET} nosuch://{SECRET}", "address 2 of 2"),
        ("ALERT_URLS", f"{SECRET}, json://localhost", "address 1 of 2"),
        ("ALERT_URLS", f"json://[{SECRET}", "address 1 of 1"),
    ],
)
def test_bad_configuration(variable: str, value: str, remedy: str) -> None:
    """Exit code 2 at once, and one line that names the variable and the remedy, and no secret."""
    environ = {**os.environ, "KAFKA_BROKER_URL": "localhost:1", "ALERTS_TOPIC": "streaming.alerts", variable: value}
    ended = subprocess.run(
        service_command("alerter"),
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert remedy in ended.stderr
    assert variable in ended.stderr or remedy.startswith("FRAUD_TOPIC")
    assert SECRET not in ended.stderr
