"""The alerter with a real broker, a real web server and a real mail server: each is told everything, at least once."""

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing, suppress
from email import message_from_bytes
from email.policy import default
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from kafka import KafkaConsumer, TopicPartition

import raw
from alerter import receivers
from alerter.alerts import Alert, visible
from alerter.receivers import Receiver
from embedded import Cluster
from embedded import records as kafka_records
from embedded.cluster import free_ports
from embedded.pipeline import ROOT, Pipeline
from embedded.records import Record
from embedded.service import Service, service_command, surroundings, wait_until
from harness import NoName, memory_peak_mb, scrape
from raw import wire

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
        self.headers: dict[str, str] = {}
        self.body_bytes = 0
        self.drips = False
        """Whether it sends its answer byte by byte."""
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
                if web.drips:
                    for byte in b"HTTP/1.0 200 OK\r\nServer: drip\r\n\r\n":
                        self.wfile.write(bytes([byte]))
                        time.sleep(0.05)
                    return
                self.send_response(status)
                for name, value in web.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                for _ in range(web.body_bytes // 2**20):
                    self.wfile.write(bytes(2**20))
                web.after_answer()

            def do_GET(self) -> None:
                web.asked += 1
                self.send_response(200)
                self.end_headers()

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

    def start(self, *urls: str, command: Sequence[str] = (), **more: str) -> Service:
        """Start an alerter."""
        environ = {
            "KAFKA_BROKER_URL": self.pipeline.broker_url,
            "ALERTS_TOPIC": self.topic,
            "CONSUMER_GROUP": self.pipeline.name,
            "ALERT_URLS": "\n".join(urls),
            "ALERTS_PER_MINUTE": "1000",
            **more,
        }
        self.services.append(self.stack.enter_context(Service("alerter", environ, command)))
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


@pytest.mark.long
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


@pytest.mark.long
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


@pytest.mark.long
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


@pytest.mark.long
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


def test_a_large_fraud(alerts: Alerts, web: Web) -> None:
    """It is told in a sentence of its own; what lacks something of it is passed over."""
    fraud = {"id": "fraud-0-1", "rule": "amount", "source": "alice", "target": "bob", "amount": 1000, "currency": "EUR"}
    alerts.write(*(Record(json.dumps(fraud | odd).encode()) for odd in ({"source": 1}, {"amount": 10**400}, {})))
    alerter = alerts.start(web.url)
    alerts.wait_committed(3)
    assert web.got == [
        (sentence, f"{sentence} (alert fraud-0-1)")
        for sentence in ("Fraud: alice sent 1.00e+400 EUR to bob", "Fraud: alice sent 1,000 EUR to bob")
    ]
    assert f"{alerts.topic}[0]: passed over offset 0: no source" in alerter.log
    assert alerter.stop() == 0


@pytest.mark.long
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_no_confirmation(alerts: Alerts, web: Web, status: int) -> None:
    """Neither is another host told, nor the same one without the alert, whatever the address says."""
    with closing(Web()) as other:
        web.status, web.headers = status, {"Location": f"http://127.0.0.1:{other.port}/"}
        alerter = alerts.start(f"{web.url}&redirect=yes")
        alerts.write(alert(1))
        alerter.wait_for("receiver 1 (json): not confirmed, next attempt in 1 s; waiting=1")
        assert other.asked == alerts.committed() == 0
        web.status = 200
        alerts.wait_committed(1)
        assert web.ids == ["smurfing-1"]
        assert other.asked == 0


@pytest.mark.long
@pytest.mark.parametrize(
    ("status", "retry_after", "pause"),
    [(429, "7", "7 s"), (503, "7", "7 s"), (429, "86400", "300 s"), (429, "soon", "1 s"), (500, "7", "1 s")],
)
def test_who_asks_for_a_pause_gets_it(alerts: Alerts, web: Web, status: int, retry_after: str, pause: str) -> None:
    """Retry-After of a 429 or a 503 counts up to five minutes."""
    web.status, web.headers = status, {"Retry-After": retry_after}
    alerter = alerts.start(web.url)
    alerts.write(alert(1))
    alerter.wait_for(f"receiver 1 (json): not confirmed, next attempt in {pause}; waiting=1")
    asked_at = time.monotonic()
    assert alerts.committed() == 0
    if pause == "7 s":
        web.status = 200
        alerts.wait_committed(1)
        assert time.monotonic() - asked_at > 5
        assert web.ids == ["smurfing-1"]


def test_a_pause_until_a_date() -> None:
    """Retry-After can also be a date, which may have passed, or be none."""
    assert 60 < receivers.asked_pause(formatdate(time.time() + 100, usegmt=True)) <= 100
    assert receivers.asked_pause(formatdate(0, usegmt=True)) == 0
    assert receivers.asked_pause("Sun, 99 Nov 2026 00:00:00 GMT") == 0
    assert receivers.asked_pause("9" * 5000) == 300


@pytest.mark.long
def test_an_answer_that_drips_in(alerts: Alerts, web: Web) -> None:
    """Who answers byte by byte is believed in the end; the other one does not wait for it."""
    with closing(Web()) as other:
        web.drips = True
        alerter = alerts.start(web.url, other.url)
        alerts.write(alert(1), alert(2))
        alerts.wait_committed(2)
        assert web.ids == other.ids == ["smurfing-1", "smurfing-2"]
        assert "not confirmed" not in alerter.log


def test_an_answer_that_never_ends(alerts: Alerts, web: Web) -> None:
    """It ends the process, with exit code 1 and a line; the next start tells it again."""
    web.before_answer = lambda: web.done.wait(60)
    program = "import alerter.receivers as r; r.ATTEMPT_SECONDS = 2; import alerter.app as a; a.main()"
    alerter = alerts.start(web.url, command=[sys.executable, "-c", program])
    alerts.write(alert(1))
    assert alerter.wait() == 1
    assert (
        "Ending, a restart continues from the committed offsets: receiver 1 (json) has neither confirmed" in alerter.log
    )
    assert alerts.committed() == 0


@pytest.mark.long
def test_who_hangs_up_is_asked_again(alerts: Alerts) -> None:
    """A receiver that closes its half of the connection, before an answer or within it, has confirmed nothing."""
    answers = [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ]
    with socket.create_server(("127.0.0.1", 0)) as server:
        alerter = alerts.start(f"json://127.0.0.1:{server.getsockname()[1]}/")
        alerts.write(alert(1))
        for answer in answers:
            assert alerts.committed() == 0
            connection, _ = server.accept()
            connection.recv(65536)
            connection.sendall(answer)
            connection.shutdown(socket.SHUT_WR)
            connection.close()
        alerts.wait_committed(1)
        assert alerter.log.count("not confirmed") == 2


def test_an_answer_of_any_size(alerts: Alerts, web: Web) -> None:
    """A receiver that answers with 2 GB confirms the alert all the same; a megabyte is read."""
    web.body_bytes = 2 * 1024**3
    alerter = alerts.start(web.url)
    alerts.write(alert(1))
    alerts.wait_committed(1)
    assert web.ids == ["smurfing-1"]
    assert memory_peak_mb(alerter) < 200


@pytest.mark.long
def test_a_redirect_of_any_size(alerts: Alerts, web: Web) -> None:
    """What leads elsewhere is read no further than what does not."""
    web.status, web.headers, web.body_bytes = 302, {"Location": "/"}, 2 * 1024**3
    alerter = alerts.start(web.url)
    alerts.write(alert(1))
    alerter.wait_for("receiver 1 (json): not confirmed, next attempt in 2 s; waiting=1")
    assert memory_peak_mb(alerter) < 200


@pytest.mark.long
def test_a_mail_server_that_talks_without_end(alerts: Alerts) -> None:
    """So much of its reply is read, and the alert is not confirmed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        alerter = alerts.start(f"mailto://127.0.0.1:{server.getsockname()[1]}?from=a@example.org&to=b@example.org")
        alerts.write(alert(1))
        connection, _ = server.accept()
        with connection, suppress(OSError):  # until it hangs up
            while True:
                connection.sendall(b"220-%b\r\n" % (b"x" * 1000))
        alerter.wait_for("receiver 1 (mailto): not confirmed, next attempt in 1 s; waiting=1")
        assert memory_peak_mb(alerter) < 200


def test_what_came_meanwhile_is_not_told_by_what_was_confirmed() -> None:
    """A topic that was created anew has another alert at the same place."""
    receiver, place = Receiver("x", lambda subject, body: None, 10), (TopicPartition("alerts", 0), 0)
    old, new = (Alert(id, "text", "place", 0) for id in ("old", "new"))
    for waiting, left in ((old, {}), (new, {place: new})):
        receiver.waiting, receiver.telling, receiver.attempt = {place: waiting}, {place: old}, Future()
        receiver.attempt.set_result(None)
        receiver.note()
        assert receiver.waiting == left


def test_no_name_is_markup() -> None:
    """A `_` stands within a name, and nowhere a chat would take it for emphasis."""
    assert visible("launderer_4f_a1") == "launderer_4f_a1"
    for name in ("__evil__", "_mule_", "a __b__ c", "é_", "_", "a_ _b", "x__y"):
        assert not re.search(r"(?<![^\W_])_|_(?![^\W_])", visible(name))
        assert len(visible(name)) == len(name)


@pytest.mark.long
def test_what_retention_took_is_told(alerts: Alerts, web: Web) -> None:
    """Alerts that Kafka has deleted before they were read are an error in the log, with their range."""
    alerts.write(alert(1))
    first = alerts.start(web.url)
    alerts.wait_committed(1)
    assert first.stop() == 0
    alerts.write(*map(alert, range(2, 7)))
    with alerts.pipeline.admin() as admin:
        admin.delete_records({TopicPartition(alerts.topic, 0): 4})
    second = alerts.start(web.url)
    alerts.wait_committed(6)
    assert web.ids == ["smurfing-1", "smurfing-5", "smurfing-6"]
    second.wait_for(f"ERROR {alerts.topic}[0]: 3 offsets are lost, from 1 on: Kafka deleted them unread")
    assert second.stop() == 0


@pytest.mark.long
def test_records_that_are_large_or_odd(alerts: Alerts, web: Web) -> None:
    """An alert of 60 MB, compressed to a few kB, is passed over, whatever the codec; a header may have any name."""
    alerts.pipeline.create(f"{alerts.topic}-b", partitions=1)
    alerts.topic += "-b"
    value = (alert(0).value or b"").replace(b"smurfing-0", b"x" * 60_000_000)
    with wire(alerts.pipeline.broker_url) as broker:
        for codec in ("gzip", "zstd", "lz4", "snappy"):
            data = raw.batch([(0, raw.content(value))], codec)
            if broker.offer(alerts.topic, data).error_code:  # lz4's and snappy's are too large for the topic
                raw_size = len(data)
                assert raw_size > 200_000
    last = alert(1)._replace(headers=((NoName("?"), b"x"),))
    alerts.write(last)
    alerter = alerts.start(web.url)
    wait_until(lambda: web.ids == ["smurfing-1"], 120, lambda: alerter.log)
    assert alerter.log.count("passed over offset") >= 2
    assert f"{alerts.topic}[0]: passed over offset 0: too large: 60," in alerter.log
    assert memory_peak_mb(alerter) < 200
    assert alerter.stop() == 0


@pytest.mark.long
def test_more_alerts_than_may_wait(alerts: Alerts, web: Web) -> None:
    """Of 100,000 alerts in a few kB no more are read than may wait, and those that are told are in order."""
    web.status = 500
    data = raw.batch([(0, raw.content(alert(n).value)) for n in range(20_000)], "zstd")
    with wire(alerts.pipeline.broker_url) as broker:
        for _ in range(5):
            broker.produce(alerts.topic, data)
    alerter = alerts.start(web.url)
    wait_until(lambda: "waiting=" in alerter.log and alerter.log.count("not confirmed") >= 4, 120, lambda: alerter.log)
    waiting = [int(number) for number in re.findall(r"waiting=(\d+)", alerter.log)]
    assert 10_000 <= waiting[-1] < 45_000
    assert memory_peak_mb(alerter) < 200
    web.status = 200
    wait_until(lambda: len(web.got) > 5, 120)
    assert web.ids == [f"smurfing-{n}" for n in range(len(web.ids))]
    assert alerter.stop() == 0


@pytest.mark.long
def test_metrics(alerts: Alerts, web: Web) -> None:
    """How much is told, refused and waiting, for each receiver, without its address."""
    (port,) = free_ports(1)
    web.status = 500
    alerter = alerts.start(web.url, METRICS_PORT=str(port))
    alerts.write(alert(1), alert(2))
    alerter.wait_for("waiting=2")
    label = '{receiver="receiver 1 (json)"}'
    wait_until(lambda: scrape(port)[f"alerter_oldest_waiting_seconds{label}"] > 1, 120)
    samples = scrape(port)
    assert samples[f"alerter_waiting{label}"] == 2
    assert samples[f"alerter_told_total{label}"] == 0
    assert samples[f"alerter_refused_total{label}"] >= 1
    assert SECRET not in str(samples)
    web.status = 200
    alerts.wait_committed(2)
    samples = scrape(port)
    assert samples[f"alerter_told_total{label}"] == 2
    assert samples[f"alerter_waiting{label}"] == samples[f"alerter_oldest_waiting_seconds{label}"] == 0
    assert alerter.stop() == 0


@pytest.mark.long
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


@pytest.mark.long
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


@pytest.mark.long
@pytest.mark.parametrize(
    ("variable", "value", "remedy"),
    [
        ("KAFKA_BROKER_URL", "broker", "host:port"),
        ("KAFKA_SECURITY_PROTOCOL", "TLS", "SASL_SSL"),
        ("ALERTS_TOPIC", "", "not set"),
        ("ALERTS_TOPIC", "an alert", "name of a topic"),
        ("METRICS_PORT", "http", "a port from 1 to 65535"),
        ("ALERTS_PER_MINUTE", "0", "whole number from 1 to 9999"),
        ("CONSUMER_GROUP", "an alerter", "without spaces"),
        ("HEARTBEAT_FILE", "/no/such/folder/heartbeat", "a folder that exists"),
        ("ALERT_URLS_FILE", f"json://user:{SECRET}@localhost", "a file that this service's user may read"),
        ("KAFKA_BROKER_URL", f"broker:9092,{SECRET}@localhost:9092", "address 2, 22 characters"),
        ("KAFKA_BROKER_URL", f"SASL_SSL://alice:{SECRET}@localhost:9092", "address 1, 39 characters"),
        ("KAFKA_SSL_PASSWORD_FILE", SECRET, "a path of 7 characters, cannot be read (No such file or directory)"),
        ("KAFKA_SSL_KEYFILE", f"-----BEGIN PRIVATE KEY-----\n{SECRET}", "no path, but a text of 35 characters"),
        ("KAFKA_SSL_KEYFILE", f"-----BEGIN PRIVATE KEY-----{SECRET}", "no path, but a text of 34 characters"),
        ("ALERTS_PER_MINUTE", "0" * 5000 + "1", "whole number from 1 to 9999"),
        ("ALERT_URLS_FILE", "/dev/zero", "more than 65,536 characters"),
        ("ALERT_URLS", f"json://localhost/{SECRET} nosuch://{SECRET}", "address 2 of 2"),
        ("ALERT_URLS", f"{SECRET}, json://localhost", "address 1 of 2"),
        ("ALERT_URLS", f"json://[{SECRET}", "address 1 of 1"),
    ],
)
def test_bad_configuration(variable: str, value: str, remedy: str) -> None:
    """Exit code 2 at once, and one line that names the variable and the remedy, and no secret."""
    environ = {**surroundings(), "KAFKA_BROKER_URL": "localhost:1", "ALERTS_TOPIC": "streaming.alerts", variable: value}
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
    assert variable in ended.stderr
    assert SECRET not in ended.stderr
