"""Dead letters that go back to the input: which, as what, and that whatever else lies among them stops nothing."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from kafka import TopicPartition

import adversary
import raw
import strict
from embedded import Cluster
from embedded.pipeline import ROOT, Pipeline
from embedded.records import Record
from embedded.service import Service, surroundings
from harness import transaction
from test_limits import configure

ATTEMPT = b"__streams.redrive.attempt"
MENDED = (sys.executable, str(Path(__file__).parent / "mended" / "app.py"))
Content = tuple[int, bytes]
"""A record's timestamp, and its bytes from the key to the last header."""


def environ(pipeline: Pipeline, **more: str) -> dict[str, str]:
    """Return the variables of a redrive."""
    return pipeline.environ("detector", TRANSACTIONAL_ID=pipeline.name) | {"CONSUMER_GROUP": ""} | more


def redrive(pipeline: Pipeline, **more: str) -> str:
    """Run it to its end, and return what it prints."""
    command = [sys.executable, "-m", "redrive.app"]
    variables = {**surroundings(), **environ(pipeline, **more)}
    ended = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stdout + ended.stderr


def detect(pipeline: Pipeline, command: tuple[str, ...] = ()) -> None:
    """Run a detector until it has nothing to do."""
    with Service("detector", pipeline.environ("detector"), command) as detector:
        pipeline.drain()
        assert detector.stop() == 0


def letter(reason: str, where: Pipeline, offset: object, exception: str, partition: object = 0) -> bytes:
    """Return the content of a dead letter without a value, as the detector writes one, or others do."""
    said = [exception, reason, where.transactions, str(partition), str(offset)]
    names = ("exception", "message", "topic", "partition", "offset")
    return raw.content(
        None, None, [(b"__streams.errors." + n.encode(), v.encode()) for n, v in zip(names, said, strict=True)]
    )


def text_amount(amount: int, **more: object) -> bytes:
    """Return a transaction that only the mended rule takes."""
    return transaction(str(amount), **more)


def with_attempt(
    value: bytes | None, key: bytes | None, headers: list[tuple[bytes, bytes | None]], attempt: int
) -> bytes:
    """Return the content that a record has after so many attempts."""
    return raw.content(value, key, [*headers, (ATTEMPT, b"%d" % attempt)])


def test_after_a_rule_was_mended_each_goes_to_its_topic(cluster: Cluster) -> None:
    """As it was, with a header more: a dry run changes nothing, a second run takes nothing, a limit ends circles."""
    pipeline = Pipeline(cluster.bootstrap_servers, partitions=2)
    pipeline.create(pipeline.transactions)
    odd: list[tuple[bytes, bytes | None]] = [(b"\xff", None), (b"__streams.errors.message", b"of another"), (b"a", b"")]
    records: list[tuple[int, bytes | None, bytes | None, list[tuple[bytes, bytes | None]]]] = [
        (1000, text_amount(950, n=0), b"key", odd),
        (5, text_amount(10, n=1), None, []),
        (2**62, text_amount(900, n=2), b"", [(b"h", bytes([n])) for n in range(120)]),
        (1001, b"not JSON", None, odd),
        (1002, None, b"tombstone", []),
        (1003, transaction(10), None, odd),
    ]
    with raw.wire(pipeline.broker_url) as broker:

        def found(topic: str) -> list[list[Content]]:
            return [broker.records(topic, partition) for partition in range(2)]

        batch = raw.batch([(time, raw.content(*content)) for time, *content in records])
        for partition in range(2):
            broker.produce(pipeline.transactions, batch, partition)
        detect(pipeline)
        letters, before = found(pipeline.dead_letter), found(pipeline.transactions)
        assert [len(there) for there in letters] == [5, 5]

        dry = redrive(pipeline)
        for line in ("6  amount is missing or no number: would", "2  no value: would", "2  not JSON: would"):
            assert line in dry, dry
        selected = redrive(pipeline, REASON="not JSON", PARTITION="1", SINCE="1970-01-01T00:00:01Z")
        assert "1  not JSON: would go" in selected
        assert "3  amount is missing or no number: not selected" in selected
        assert (found(pipeline.dead_letter), found(pipeline.transactions)) == (letters, before)
        with pipeline.admin() as admin:
            assert (
                admin.list_group_offsets("fraud-redrive")["fraud-redrive"]
                .keys()
                .isdisjoint({TopicPartition(pipeline.dead_letter, 0)})
            )

        said = redrive(pipeline, WRITE="1")
        assert "redriven=10 staying=0 unselected=0" in said, said
        again = [(time, with_attempt(*content, 1)) for time, *content in records[:5]]  # type: ignore[arg-type]
        assert found(pipeline.transactions) == [there + again for there in before]
        detect(pipeline, MENDED)
        assert found(pipeline.fraud) == [[again[0], again[2]]] * 2
        assert found(pipeline.legit) == [[before[0][5], again[1]]] * 2
        back = [there[5:] for there in found(pipeline.dead_letter)]
        assert [len(there) for there in back] == [2, 2]

        assert "2  not JSON: redriven 1 times already" in redrive(pipeline)
        assert "redriven=0 staying=4 unselected=0" in redrive(pipeline, WRITE="1")
        assert found(pipeline.transactions) == [there + again for there in before]

        # FROM goes through it once more, until it has done so.
        offset = str([r.offset for batch in broker.fetch(pipeline.dead_letter) for r in strict.read(batch)][5])
        select = {"WRITE": "1", "FROM": offset, "PARTITION": "0", "ATTEMPTS": "2", "REASON": "not JSON"}
        assert "redriven=1 staying=0 unselected=6" in redrive(pipeline, **select)
        assert "redriven=0 staying=0 unselected=0" in redrive(pipeline, **select)
        second = (1001, with_attempt(b"not JSON", None, odd, 2))
        assert found(pipeline.transactions) == [before[0] + again + [second], before[1] + again]


def test_what_is_only_in_the_input(pipeline: Pipeline) -> None:
    """It is read from there: what an output refused goes, in pieces; what is too large or gone is reported."""
    small = {"max_message_bytes": "16384"}
    pipeline.create(pipeline.legit, **small)
    values = [transaction(10, n=n, text="x" * 900_000) for n in range(10)]
    pipeline.write([Record(b"gone".ljust(2**21))], compression_type="gzip")
    pipeline.write([Record(transaction(10, text="x" * 20_000))])  # will be gone
    pipeline.write([Record(bytes(2**21))], compression_type="gzip")
    pipeline.write([Record(value, b"key", timestamp=n) for n, value in enumerate(values)])
    detect(pipeline)
    assert [record.value for record in pipeline.read(pipeline.dead_letter)] == [None] * 13
    with pipeline.admin() as admin:
        admin.delete_records({TopicPartition(pipeline.transactions, 0): 2})
    configure(pipeline, pipeline.legit, max_message_bytes="8388608")
    dry = redrive(pipeline)
    assert "10  too large: would go" in dry
    assert "2  too large: not in the input any more" in dry
    assert "1  too large: too large: 2,097," in dry
    with Service("redrive", environ(pipeline, WRITE="1")) as job:
        assert job.wait() == 0, job.log
        assert "redriven=10 staying=3 unselected=0" in job.log
        assert "[0]: 2 dead letters stay, from offset 0 on: not in the input any more" in job.log
    detect(pipeline)
    passed = pipeline.read(pipeline.legit)
    assert [record.value for record in passed] == values
    assert [record.timestamp for record in passed] == list(range(10))
    assert {(record.key, record.headers) for record in passed} == {(b"key", ((ATTEMPT.decode(), b"1"),))}
    assert len(pipeline.read(pipeline.dead_letter)) == 13


def test_garbage_stops_nothing(pipeline: Pipeline) -> None:
    """What others have written among the dead letters stays, whatever it is, and all else goes."""
    pipeline.create(*pipeline.outputs, max_message_bytes="10000000")
    pipeline.write([Record(transaction(10)), Record(b"first")])
    detect(pipeline)
    odd = ["-1", "0", "1", "x", "9" * 30, "9" * 18, "\u0661", ""]
    hostile = [
        *(letter("too large", pipeline, offset, "RecordTooLarge") for offset in odd),
        *(letter("too large", pipeline, 0, "RecordTooLarge", partition) for partition in odd),
        letter("cannot be read\x1b[2J", pipeline, 0, "CorruptRecord"),
        raw.content(b"no headers"),
        raw.content(b"x", None, [(ATTEMPT, b"9" * 100_000)] * 3),
        raw.content(b"x", None, [(b"__streams.errors.exception", None)] * 7),
    ]
    with raw.wire(pipeline.broker_url) as broker:
        for content in hostile:
            broker.produce(pipeline.dead_letter, raw.batch([(0, content)]))
        for batch in adversary.hostile().values():
            broker.offer(pipeline.dead_letter, batch)
        broker.offer(pipeline.dead_letter, raw.batch([(0, raw.content(bytes(2**27)))], "gzip"))
    pipeline.write([Record(b"last")])
    detect(pipeline)
    assert "\x1b" not in redrive(pipeline)
    with Service("redrive", environ(pipeline, WRITE="1")) as job:
        assert job.wait() == 0, job.log
        assert "Traceback" not in job.log
        assert " ERROR " not in job.log
    redriven = Counter(r.value for r in pipeline.read(pipeline.transactions) if dict(r.headers).get(ATTEMPT.decode()))
    assert redriven == {b"first": 1, b"last": 1}


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"FROM": "x"}, "FROM is 'x': give it a whole number, or leave it out"),
        ({"SINCE": "yesterday"}, "SINCE is 'yesterday': give it a time such as"),
        ({"WRITE": "yes"}, "WRITE is 'yes': give it 1, or leave it out"),
        ({"WRITE": "1", "UNTIL": "2026-13-01"}, "UNTIL is '2026-13-01'"),
        ({"KAFKA_BROKER_URL": "here"}, "KAFKA_BROKER_URL: address 1, 4 characters, is none"),
    ],
)
def test_bad_configuration(variables: dict[str, str], said: str) -> None:
    """Exit code 2, and a line that says what to give."""
    given = {**surroundings(), **Pipeline("localhost:1").environ("detector"), **variables}
    command = [sys.executable, "-m", "redrive.app"]
    ended = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 2, ended
    assert said in ended.stderr
