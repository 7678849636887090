"""The topics as people look at them: Kafka's console tools, `make consume`, and a client on the host."""

import json
import os
import pty
import re
import signal
import subprocess
from itertools import islice

import pytest
from kafka import KafkaConsumer

from compositions.engine import HOST_PORT, ROOT, clean_environment, containers, run
from compositions.stack import Stack, only_v2
from embedded.pipeline import Pipeline
from embedded.records import Record
from embedded.service import wait_until


def test_console_consumers_show_what_the_services_write(stack: Stack, pipeline: Pipeline) -> None:
    """Each line is JSON as in the tutorial, on its side of 900; one in ten of the input is fraud."""
    counts = {pipeline.transactions: 3000, pipeline.legit: 1000, pipeline.fraud: 100}
    amounts = {}
    for topic, count in counts.items():
        transactions = [json.loads(line) for line in stack.consume(topic, count)]
        transactions = [t for t in transactions if not t["source"].startswith("smurf-")]  # of an attack before
        for transaction in transactions:
            assert list(transaction) == ["source", "target", "amount", "currency"]
            assert re.fullmatch("[0-9A-Za-z]{12}", transaction["source"])
            assert re.fullmatch("[0-9A-Za-z]{12}", transaction["target"])
            assert transaction["currency"] == "EUR"
        amounts[topic] = [transaction["amount"] for transaction in transactions]
    assert all(1 <= amount <= 1000 for amount in amounts[pipeline.transactions])
    assert max(amounts[pipeline.legit]) < 900 <= min(amounts[pipeline.fraud])
    count = len(amounts[pipeline.transactions])
    assert count > 2000
    deviation = (count * 0.1 * 0.9) ** 0.5
    assert sum(a >= 900 for a in amounts[pipeline.transactions]) == pytest.approx(count * 0.1, abs=4 * deviation)


def test_a_malformed_value_is_in_the_dead_letter_topic(stack: Stack, pipeline: Pipeline) -> None:
    """What kafka-console-producer writes by hand arrives as it was, with headers that say where from and why."""
    stack.kafka(f"kafka-console-producer --topic {pipeline.transactions}", before="echo no transaction |")
    (line,) = stack.consume(pipeline.dead_letter, 1, "--property print.headers=true --property print.value=true")
    headers, value = line.split("\t")
    assert value == "no transaction"
    named = dict(header.removeprefix("__streams.errors.").split(":", 1) for header in headers.split(","))
    assert named.pop("partition") in "0123"
    assert named.pop("offset").isdecimal()
    assert named == {
        "exception": "InvalidTransaction",
        "message": "not JSON: Expecting value at character 0",
        "topic": pipeline.transactions,
    }


def test_a_tool_on_the_host_reads(stack: Stack, pipeline: Pipeline) -> None:
    """At localhost:29092 a client of this machine, but of no other, gets transactions."""
    consumer = KafkaConsumer(
        pipeline.transactions,
        bootstrap_servers="localhost:29092",
        auto_offset_reset="earliest",
        consumer_timeout_ms=120_000,
    )
    values = {record.value for record in islice(consumer, 1000)}
    consumer.close()
    assert len(values) == 1000
    (broker,) = containers("broker")
    bindings = [binding for port in broker["NetworkSettings"]["Ports"].values() for binding in port or ()]
    assert bindings == [{"HostIp": "127.0.0.1", "HostPort": str(HOST_PORT)}]


@only_v2  # Compose has no part in it
def test_make_consume_takes_no_memory_of_the_brokers(stack: Stack, pipeline: Pipeline) -> None:
    """It ends by itself after N records, or with whoever reads them; a topic that is not there it does not create."""
    lines = stack.make(f"consume TOPIC={pipeline.fraud} N=5", quiet=False).splitlines()
    assert len([line for line in lines if line.startswith('{"source"')]) == 5
    three = stack.make(f"consume TOPIC={pipeline.transactions}", quiet=False, after="2>/dev/null | head -n 3; true")
    assert three.count('{"source"') == 3
    (broker,) = containers("broker")
    assert "Console" not in run(f"docker top {broker['Id']}")
    assert run("docker ps --quiet --filter name=look-") == ""
    said = run("make consume TOPIC=queuing.transactions", code=2)
    assert said.startswith("There is no topic queuing.transactions, but: ")
    assert pipeline.transactions in said
    with pipeline.admin() as admin:
        assert "queuing.transactions" not in admin.list_topics()


def test_make_consume_shows_control_characters(stack: Stack, pipeline: Pipeline) -> None:
    """On a terminal `make consume` prints line by line what is legible, and obeys nothing; Ctrl-C ends it."""
    hostile = "\x1b]52;c;aGk=\x07 \u009b2J \x7f\r\x00 café 中 \U0001f600".encode() + b" \xff\x9b."
    pipeline.write([Record(hostile)])
    parent, terminal = pty.openpty()
    compose = f"COMPOSE={stack.command}"
    process = subprocess.Popen(
        ["make", compose, "consume", f"TOPIC={pipeline.dead_letter}"],
        cwd=ROOT,
        env=clean_environment() | {"COMPOSE_IGNORE_ORPHANS": "true"},
        stdin=terminal,
        stdout=terminal,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),  # the terminal becomes the one that controls it
    )
    os.close(terminal)
    output = b""
    os.set_blocking(parent, False)

    def read() -> bytes:
        nonlocal output
        try:
            output += os.read(parent, 65536)
        except (BlockingIOError, OSError):  # nothing yet; the other end is closed
            pass
        return output

    try:
        wait_until(lambda: "café".encode() in read(), 120, lambda: str(output))
        os.write(parent, b"\x03")
        wait_until(lambda: read() != b"" and process.poll() is not None, 120, lambda: str(output))
    finally:
        process.kill()
        process.wait()
        os.close(parent)
    (line,) = [line for line in output.split(b"\n") if "café".encode() in line]
    assert line.decode().rstrip("\r") == "�]52;c;aGk=� �2J ��� café 中 😀 ��."
    assert process.returncode == -signal.SIGINT
    wait_until(lambda: run("docker ps --quiet --filter name=look-") == "", 120)
