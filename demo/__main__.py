"""`python -m demo`: Kafka, generator and detector for a while, watched live, then an audit of every transaction.

`python -m demo watch`: the same view on a pipeline that runs already.
"""

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing, nullcontext
from functools import partial

from kafka import KafkaProducer
from kafka.errors import KafkaError
from rich.console import Console

from demo.attack import BROKER_HELP, is_ready, running_pipeline, see, send
from demo.observer import ALERTER_GROUP, ALERTS_TOPIC, EXPECTED_SHARE, SMURFING_GROUP, Observer
from demo.page import Page
from demo.view import watch
from demo.web import PORT, PageError, serving
from detector.rule import FRAUD_AMOUNT
from embedded import Cluster, JarError, ServerError
from embedded.pipeline import Pipeline
from embedded.service import Restarted, Service, ServiceError, wait_until
from service.settings import ConfigurationError

RATE = os.environ.get("TRANSACTIONS_PER_SECOND") or "1000"
WEB_HELP = f"show it as a page as well, at http://localhost:{PORT} unless another port is given"
RING_SECONDS = 5
"""How long the view is shown before the rings are sent."""
TITLE = f"{RATE} transactions/s, and a malformed one every two seconds"
MALFORMED = (
    b"not JSON at all",
    b'{"source": "alice", "target": "bob", "amount": "950", "currency": "EUR"}',
    b'{"source": "alice", "target": "bob", "amount": -5, "currency": "EUR"}',
    b'{"source": "alice", "amount": 950, "currency": "EUR"}',
    b'{"source": "alice", "target": "bob", "amount": 950, "currency": "EUR", "amount": 1}',
)


WHAT_ONE_SEES = """
Below, each topic has a count: all transactions, and what the detector has sent to each of its topics.
Lag is what it has yet to read; p50 and p99 are the time from a record's creation to a reader.
In another terminal, in this folder, you may now

  kill -9 {pid}

to kill the detector, which is then started again, or send a record that is no transaction:

  echo nonsense | {python} -m embedded kafka-console-producer --bootstrap-server {broker} --topic {topic}
"""
WHAT_NEXT = """
To try next: set another FRAUD_AMOUNT in detector/rule.py; the audit holds with that as well.
`make demo DURATION=0` runs until Ctrl-C, with time to kill the detector, or to send what is no transaction."""


class Malformed:
    """Writes a malformed transaction every two seconds."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.producer = KafkaProducer(bootstrap_servers=pipeline.broker_url, **pipeline.access)
        self.topic = pipeline.transactions
        self.started = time.monotonic()
        self.sent = 0

    def send_if_due(self) -> None:
        """Write the next one if it is time for it."""
        if time.monotonic() - self.started > 2 * (self.sent + 1):
            self.producer.send(self.topic, MALFORMED[self.sent % len(MALFORMED)], key=b"%d" % self.sent)
            self.sent += 1

    def close(self) -> None:
        """Wait until all are delivered, and disconnect."""
        self.producer.flush()
        self.producer.close()


class Attack:
    """The two services of `make up ALERTS=1`, and the rings of `make attack`."""

    def __init__(self, pipeline: Pipeline, stack: ExitStack) -> None:
        """Start the services, which end with the stack, and wait until they are ready. Raises TimeoutError."""
        self.pipeline, self.receivers = pipeline, ("", "")
        environ = pipeline.environ("detector", ALERTS_TOPIC=ALERTS_TOPIC)
        find = partial(Service, "smurfing", environ | {"CONSUMER_GROUP": SMURFING_GROUP})
        tell = partial(Service, "alerter", environ | {"CONSUMER_GROUP": ALERTER_GROUP})
        self.services = [stack.enter_context(Restarted(service)) for service in (find, tell)]
        wait_until(lambda: is_ready(pipeline), 120, lambda: self.services[0].log)
        self.started = time.monotonic()

    def send_if_due(self) -> None:
        """Send the rings once, after some seconds."""
        if not self.receivers[0] and time.monotonic() - self.started > RING_SECONDS:
            self.receivers = send(self.pipeline)

    def see(self) -> None:
        """Print what has become of the rings. Raises LookupError if that is wrong, TimeoutError and KafkaError."""
        see(self.pipeline, *(self.receivers if self.receivers[0] else send(self.pipeline)))


def run(
    console: Console,
    seconds: float,
    port: int = 0,
    alerts: bool = False,
    at_the_end: Callable[[Observer], None] = lambda _: None,
) -> bool:
    """Run everything for this many seconds (0: until Ctrl-C), and return whether the audit holds.

    With a port there is a page. What is to happen at the end happens while all is still running.
    """
    page = Page(TITLE)
    with serving(page, "127.0.0.1", port) if port else nullcontext(), Cluster() as cluster:
        pipeline = Pipeline.of_compose(cluster.bootstrap_servers)
        with (
            pipeline.restarted("detector") as detector,
            pipeline.service("generator", TRANSACTIONS_PER_SECOND=RATE) as generator,
        ):
            wait_for_topics(pipeline, detector)
            where = {"pid": detector.pid, "broker": pipeline.broker_url, "topic": pipeline.transactions}
            console.out(WHAT_ONE_SEES.format(python=os.path.relpath(sys.executable), **where), highlight=False)
            with closing(Observer(pipeline, from_start=True)) as observer, ExitStack() as stack:
                with closing(Malformed(pipeline)) as malformed:
                    attack = Attack(pipeline, stack) if alerts else None
                    senders = (malformed, attack) if attack else (malformed,)
                    checks: list[Callable[[], None]] = [generator.check, partial(detector.check, -signal.SIGKILL)]
                    checks += [service.check for service in attack.services] if attack else []
                    show(observer, console, seconds, senders, checks, page)
                    if attack:
                        attack.see()
                at_the_end(observer)
                console.out("Stopping the generator, letting the detector drain, and checking every record ...")
                if generator.stop():
                    generator.check()
                while observer.lag_now():
                    observer.poll(0.25)
                    detector.check(-signal.SIGKILL)
                detector.end()
                observer.read_to_end()
                others = sum(count for value, count in observer.malformed.items() if value not in MALFORMED)
                return audit(observer, console, malformed.sent + others)


def wait_for_topics(pipeline: Pipeline, detector: Restarted) -> None:
    """Wait until the detector has created its topics. Raises ServiceError if it ends instead."""
    with pipeline.admin() as admin:
        while not {pipeline.transactions, *pipeline.outputs} <= set(admin.list_topics()):
            detector.check()
            time.sleep(0.1)


def show(
    observer: Observer,
    console: Console,
    seconds: float,
    senders: Iterable[Malformed | Attack],
    checks: Iterable[Callable[[], None]],
    page: Page,
) -> None:
    """Show the view for this many seconds (0: until Ctrl-C). Raises ServiceError if a service fails its check."""
    started = time.monotonic()

    def tick() -> bool:
        for sender in senders:
            sender.send_if_due()
        page.take(observer)
        for check in checks:
            check()
        return not seconds or time.monotonic() - started < seconds

    try:
        watch(observer, console, TITLE, tick)
    except KeyboardInterrupt:
        pass


def audit(observer: Observer, console: Console, malformed: int) -> bool:
    """Print what became of every record that was written, and return whether that is as it should be."""
    written = observer.counts["transactions"]
    checks = {
        f"{observer.lost:,} lost": observer.lost == 0,
        f"{observer.doubled:,} doubled": observer.doubled == 0,
        f"{observer.misrouted:,} on the wrong side of {FRAUD_AMOUNT}": observer.misrouted == 0,
        f"{observer.counts['dead_letter']:,} dead letters, {malformed:,} malformed ones written": (
            observer.counts["dead_letter"] == malformed
        ),
        f"{written:,} transactions written": written > 0,
    }
    for text, holds in checks.items():
        console.print(f"[green]ok[/]      {text}" if holds else f"[red]WRONG[/]   {text}", highlight=False)
    console.print(f"        {observer.fraud_share:.2%} fraud, expected {EXPECTED_SHARE:.2%}", highlight=False)
    return all(checks.values())


def main() -> int:
    """Return the exit code: 0 if the audit holds, 1 if it does not or something failed, 2 for bad configuration."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("command", nargs="?", choices=["run", "watch"], default="run")
    parser.add_argument("--duration", type=float, default=20, help="seconds, 0 for until Ctrl-C (default: 20)")
    parser.add_argument("--broker", help=f"what to watch {BROKER_HELP}")
    parser.add_argument("--web", type=int, nargs="?", const=PORT, default=0, metavar="PORT", help=WEB_HELP)
    parser.add_argument(
        "--alerts", action="store_true", help="run the services of ALERTS=1 too, and let them find a ring"
    )
    arguments = parser.parse_args()
    # However the demo ends, it leaves the blocks that stop its processes in the normal way.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # not every terminal has every letter
    console = Console()
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # whatever matters is raised
    try:
        if arguments.command == "run":
            if arguments.web:
                console.print(f"The page is at http://localhost:{arguments.web}", highlight=False)
            console.print("Starting Kafka ...")
            if not run(console, arguments.duration, arguments.web, arguments.alerts):
                return 1
            console.out(WHAT_NEXT, highlight=False)
            return 0
        pipeline = running_pipeline(arguments.broker)
        with closing(Observer(pipeline, from_start=False)) as observer:
            watch(observer, console, f"{pipeline.broker_url}, since now", lambda: True)
    except ConfigurationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (KafkaError, LookupError, TimeoutError, JarError, PageError, ServerError, ServiceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
