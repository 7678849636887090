"""Several detectors that share the partitions of a topic; and one too many, which waits until another is stopped."""

import re
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, closing

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import CoordinatorNotAvailableError, KafkaError

from bench.candidates import Candidate, Process, generator, running
from bench.drain import drain, mistakes, steady
from bench.results import Row, row
from bench.topics import Pipeline, create, fill, read
from embedded import Cluster

TIMEOUT = 300.0
"""Seconds for anything at the most."""

RATE = 1000
"""Transactions a second while an instance is stopped."""


def measure(detector: Candidate, most: int, runs: int, records: int) -> tuple[Row, list[Row]]:
    """Return the settings and a row for 1, 2, ... detectors, each with so many records, and one for the takeover."""
    with Cluster() as cluster:
        broker_url = cluster.bootstrap_servers
        transactions = f"{uuid.uuid4().hex[:8]}.transactions"
        fill(broker_url, transactions, most * records)
        values = [record.value for record in read(broker_url, transactions)]
        measured: list[list[Row]] = [[] for _ in range(most + 1)]
        for run in range(1, runs + 1):
            for number, results in enumerate(measured, 1):
                try:
                    if number > most:
                        result = _takeover(broker_url, detector, most)
                    else:
                        result = _run(broker_url, detector, values[: number * records], number)
                    figures = "  ".join(f"{name}={figure:,.1f}" for name, figure in result.items())
                    text = f"every record is right: {figures}"
                except (RuntimeError, KafkaError) as error:
                    result = {
                        "error": str(error) if isinstance(error, RuntimeError) else f"the benchmark's own: {error!r}"
                    }
                    text = f"FAILED: {result['error']}"
                results.append(result)
                print(f"[{run}/{runs}] {number} detector(s) on {min(number, most)} partition(s): {text}", flush=True)
    rows = []
    for number, results in enumerate(measured, 1):
        shared = row(detector, results)
        rows.append({"instances": number, "partitions": min(number, most), **shared})
    return {"records_per_partition": records, "runs": runs, "rate": RATE}, rows


def _run(broker_url: str, detector: Candidate, values: list[bytes], count: int) -> Row:
    """Measure so many detectors on as many partitions, which share the values evenly.

    The records are written in a transaction that is committed when every detector has its partition. So all of them
    have all of their work at once; else the first would have done most of it before the last has joined.
    """
    pipeline = Pipeline(broker_url, f"{uuid.uuid4().hex[:8]}.transactions", count)
    create(broker_url, pipeline.transactions, partitions=count)
    producer = KafkaProducer(
        bootstrap_servers=broker_url,
        transactional_id=pipeline.transactions,
        transaction_timeout_ms=int(TIMEOUT * 1000),
        batch_size=256 * 1024,  # as the generator writes them
        linger_ms=5,
    )
    with pipeline.created(), closing(producer), closing(KafkaAdminClient(bootstrap_servers=broker_url)) as admin:
        producer.init_transactions()
        producer.begin_transaction()
        for number, value in enumerate(values):
            producer.send(pipeline.transactions, value, partition=number % count)
        producer.flush()

        def ready() -> bool:
            if _shares(admin, pipeline) != [1] * count:
                return False
            producer.commit_transaction()
            return True

        shared = drain(detector, pipeline, len(values), TIMEOUT, count, ready)
        wrong = mistakes(read(broker_url, pipeline.transactions), shared.outputs, detector.same_bytes)
        if wrong:
            raise RuntimeError(f"the outputs are wrong: {wrong}")
        part = steady(pipeline, shared)
    return {
        "records_per_second": part.records / part.seconds,
        "cpu_us_per_record": part.cpu / part.records * 1e6,
        "cores_busy": part.cpu / part.seconds,
        "steady_seconds": part.seconds,
        "steady_records": part.records,
    }


def _shares(admin: KafkaAdminClient, pipeline: Pipeline) -> list[int]:
    """Return how many partitions each member of the group has, in ascending order."""
    try:
        group = admin.describe_groups([pipeline.name])[pipeline.name]
    except CoordinatorNotAvailableError:  # Kafka makes its topic for groups only when the first one comes
        return []
    if group["group_state"] != "Stable":
        return []
    shares = []
    for member in group["members"]:
        assigned = (member["member_assignment"] or {}).get("assigned_partitions", [])
        shares.append(sum(len(topic["partitions"]) for topic in assigned))
    return sorted(shares)


def _takeover(broker_url: str, detector: Candidate, partitions: int) -> Row:
    """Stop one of the detectors while another idles, and check every record.

    The result is the seconds from SIGTERM until records of every partition are committed by the others.
    """
    pipeline = Pipeline(broker_url, f"{uuid.uuid4().hex[:8]}.transactions", partitions)
    create(broker_url, pipeline.transactions, partitions=partitions)
    with (
        pipeline.created(),
        closing(KafkaAdminClient(bootstrap_servers=broker_url)) as admin,
        closing(KafkaConsumer(bootstrap_servers=broker_url, isolation_level="read_committed")) as observer,
        ExitStack() as stack,
    ):
        detectors = [
            stack.enter_context(running(detector, pipeline.environ | {"TRANSACTIONAL_ID": f"{pipeline.name}-{number}"}))
            for number in range(partitions + 1)
        ]
        _wait(detectors, lambda: _shares(admin, pipeline) == [0] + [1] * partitions)
        environ = pipeline.environ | {"TRANSACTIONS_PER_SECOND": str(RATE)}
        writer = stack.enter_context(running(generator(), environ))
        # Each says once in five seconds how many records it has routed.
        _wait(detectors, lambda: sum(_routed(process) > 0 for process in detectors) == partitions)
        _wait(detectors, lambda: all("rate=" in process.text for process in detectors))
        idle = next(process for process in detectors if _routed(process) == 0)
        stopped = next(process for process in detectors if process is not idle)
        others = [process for process in detectors if process is not stopped]
        begin = time.monotonic()
        stopped.stop()
        before = _ends(observer, pipeline)
        _wait(others, lambda: all(end > before[p] for p, end in _ends(observer, pipeline).items()))
        seconds = time.monotonic() - begin
        _wait(others, lambda: _routed(idle) > 0)
        writer.stop()
        source = read(broker_url, pipeline.transactions)
        _wait(others, lambda: sum(_ends(observer, pipeline).values()) >= len(source) and _quiet(observer, pipeline))
        outputs = {role: read(broker_url, topic) for role, topic in pipeline.outputs.items()}
        wrong = mistakes(source, outputs, detector.same_bytes)
        if wrong:
            raise RuntimeError(f"the outputs are wrong: {wrong}")
    return {"takeover_seconds": seconds}


def _routed(process: Process) -> int:
    counts = re.findall(r"legit=(\d+) fraud=(\d+)", process.text)
    return sum(map(int, counts[-1])) if counts else 0


def _ends(observer: KafkaConsumer, pipeline: Pipeline) -> dict[int, int]:
    """Return how far the outputs are, by the number of the partition."""
    ends: dict[int, int] = {}
    topic_ends: dict[TopicPartition, int] = observer.end_offsets(pipeline.output_partitions)
    for partition, end in topic_ends.items():
        ends[partition.partition] = ends.get(partition.partition, 0) + end
    return ends


def _quiet(observer: KafkaConsumer, pipeline: Pipeline) -> bool:
    before = _ends(observer, pipeline)
    time.sleep(1)
    return _ends(observer, pipeline) == before


def _wait(processes: list[Process], condition: Callable[[], bool]) -> None:
    """Wait until the condition holds. Raises RuntimeError if it does not in time, or a process ends."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        for process in processes:
            process.check()
        if time.monotonic() > deadline:
            raise RuntimeError("the detectors do not get there")
        time.sleep(0.02)
