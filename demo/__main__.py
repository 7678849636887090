"""`python -m demo`: Kafka, generator and detector for a while, watched live, then an audit of every transaction.

`python -m demo watch`: the same view on a pipeline that runs already.
"""

import argparse
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from kafka import KafkaAdminClient, KafkaProducer
from kafka.errors import KafkaError
from rich.console import Console

from demo.observer import FRAUD_AMOUNT, Observer
from demo.view import EXPECTED_SHARE, render, watch
from embedded import Cluster, JarError, ServerError

ROOT = Path(__file__).parent.parent
GROUP = "fraud-detector"
RATE = os.environ.get("TRANSACTIONS_PER_SECOND") or "1000"
TOPICS = {
    "transactions": "queueing.transactions",
    "legit": "streaming.transactions.legit",
    "fraud": "streaming.transactions.fraud",
    "dead_letter": "streaming.transactions.dead-letter",
}
MALFORMED = (
    b"not JSON at all",
    b'{"source": "alice", "target": "bob", "amount": "950", "currency": "EUR"}',
    b'{"source": "alice", "target": "bob", "amount": -5, "currency": "EUR"}',
    b'{"source": "alice", "amount": 950, "currency": "EUR"}',
    b'{"source": "alice", "target": "bob", "amount": 950, "currency": "EUR", "amount": 1}',
)


@contextmanager
def service(name: str, broker_url: str, **environ: str) -> Iterator[subprocess.Popen[str]]:
    """Run a service as a process, as in production, and stop it by SIGTERM at the end of the block at the latest."""
    environ |= {"KAFKA_BROKER_URL": broker_url, "CONSUMER_GROUP": GROUP}
    environ |= {f"{role.upper()}_TOPIC": topic for role, topic in TOPICS.items()}
    with tempfile.TemporaryFile("w+") as log:
        # A session of its own: Ctrl-C is for the demo, which stops its services one after the other.
        process = subprocess.Popen(
            [sys.executable, "app.py"],
            cwd=ROOT / name,
            env=os.environ | environ,
            stdout=log,
            stderr=log,
            text=True,
            start_new_session=True,
        )
        try:
            yield process
            stop(process)
        finally:
            process.kill()
            if process.wait() != 0:
                log.seek(0)
                print(f"The {name} ended with exit code {process.returncode}. Its log:\n{log.read()}", file=sys.stderr)


def stop(process: subprocess.Popen[str]) -> None:
    """Stop a service in order, as Compose does."""
    process.terminate()
    process.wait(60)


def wait_for_topics(broker_url: str, detector: subprocess.Popen[str]) -> None:
    """Wait until the detector has created its topics. Raises RuntimeError where it ends instead."""
    with closing(KafkaAdminClient(bootstrap_servers=broker_url)) as admin:
        while not set(TOPICS.values()) <= set(admin.list_topics()):
            if detector.poll() is not None:
                raise RuntimeError("the detector has ended")
            time.sleep(0.1)


def run(console: Console, duration: float, svg: str | None) -> bool:
    """Run everything for so many seconds (0: until Ctrl-C), and return whether the audit holds."""
    console.print("Starting Kafka ...")
    with (
        Cluster() as cluster,
        service("detector", cluster.bootstrap_servers) as detector,
        service("generator", cluster.bootstrap_servers, TRANSACTIONS_PER_SECOND=RATE) as generator,
        closing(KafkaProducer(bootstrap_servers=cluster.bootstrap_servers)) as malformed,
    ):
        wait_for_topics(cluster.bootstrap_servers, detector)
        with closing(Observer(cluster.bootstrap_servers, TOPICS, GROUP, from_start=True)) as observer:
            started = time.monotonic()
            sent = 0

            def tick() -> bool:
                nonlocal sent
                elapsed = time.monotonic() - started
                if elapsed > 2 * (sent + 1):  # one every two seconds
                    malformed.send(TOPICS["transactions"], MALFORMED[sent % len(MALFORMED)], key=b"%d" % sent)
                    sent += 1
                for process, name in ((generator, "generator"), (detector, "detector")):
                    if process.poll() is not None:
                        raise RuntimeError(f"the {name} has ended")
                return not duration or elapsed < duration

            try:
                watch(observer, console, f"{RATE} transactions/s, and a malformed one every two seconds", tick)
            except KeyboardInterrupt:
                pass
            if svg:
                save_picture(observer, svg)
            console.print(
                "Stopping the generator, letting the detector drain, and checking every record ...", soft_wrap=True
            )
            stop(generator)
            malformed.flush()
            while observer.lag_now():
                observer.poll(0.25)
            stop(detector)
            observer.read_to_end()
            return audit(observer, console, sent)


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


def save_picture(observer: Observer, path: str) -> None:
    """Write the live view, as it is now, as a picture."""
    recorder = Console(record=True, width=100, file=open(os.devnull, "w"))  # noqa: SIM115 (as long as the process)
    recorder.print(render(observer, f"{RATE} transactions/s, and a malformed one every two seconds"))
    recorder.save_svg(path, title="make demo")


def main() -> int:
    """Return the exit code: 0 where the audit holds, 1 where it does not or something failed."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("command", nargs="?", choices=["run", "watch"], default="run")
    parser.add_argument("--duration", type=float, default=20, help="seconds, 0 for until Ctrl-C (default: 20)")
    parser.add_argument("--broker", default="localhost:29092", help="what to watch (default: localhost:29092)")
    parser.add_argument("--svg", help="write a picture of the live view to this file")
    arguments = parser.parse_args()
    # Whatever ends the demo, the blocks that stop its processes are left in order.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    console = Console()
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # what matters raises
    try:
        if arguments.command == "run":
            return 0 if run(console, arguments.duration, arguments.svg) else 1
        with closing(Observer(arguments.broker, TOPICS, GROUP, from_start=False)) as observer:
            watch(observer, console, f"{arguments.broker}, since now", lambda: True)
    except (KafkaError, LookupError, RuntimeError, JarError, ServerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
