"""The contact with kafka-python below its public interface: each private name, by what it does.

If an update of the client breaks one, a test here says which, before the pipeline does.
"""

import errno
import inspect
import logging
import re
import ssl
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import trustme
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.errors import KafkaError, UnknownTopicOrPartitionError
from kafka.future import Future
from kafka.net.connection import KafkaConnection
from kafka.net.sasl.scram import ScramClient
from kafka.net.transport import KafkaSSLTransport
from kafka.record.default_records import DefaultRecordBatch
from kafka.structs import ConsumerGroupMetadata

from embedded import Cluster
from embedded.pipeline import ROOT, Pipeline
from embedded.records import Record
from embedded.service import wait_until
from exactly_once import kafka_python, whole_batches
from exactly_once.decoding import decode
from exactly_once.encoding import Columns, encode
from exactly_once.job import Out, Outgoing
from exactly_once.producer import Producer, seal
from exactly_once.unpacking import chunks
from exactly_once.varints import VARINT
from harness import transaction
from service import upstream
from service.identity import Identity
from service.log import THROTTLED
from service.settings import Environment
from service.stopping import Stopping

INPUT = TopicPartition("input", 0)
CONTENT = VARINT[-1] + VARINT[1] + b"x" + VARINT[0]


def start(pipeline: Pipeline, *topics: str) -> Producer:
    """Start a producer as the detector's."""
    cluster = Environment(pipeline.environ("detector")).cluster()
    return Producer(cluster, Stopping(), pipeline.name, pipeline.name, topics or [pipeline.legit])


@pytest.fixture
def producer(pipeline: Pipeline) -> Producer:
    """A producer as the detector's, which may write to one topic."""
    pipeline.create(pipeline.legit)
    return start(pipeline)


@pytest.fixture
def consumer(pipeline: Pipeline) -> Iterator[KafkaConsumer]:
    """A consumer of whole batches on the input."""
    running = KafkaConsumer(
        bootstrap_servers=pipeline.broker_url, isolation_level="read_committed", auto_offset_reset="earliest"
    )
    whole_batches.read_whole_batches(running)
    running.assign([TopicPartition(pipeline.transactions, 0)])
    yield running
    running.close()


def fetch(consumer: KafkaConsumer) -> list[whole_batches.Fetched]:
    """Return what there is, as it comes out of poll()."""
    found: list[whole_batches.Fetched] = []
    (place,) = consumer.assignment()
    deadline = time.monotonic() + 120
    while consumer.position(place) < consumer.end_offsets([place])[place]:
        assert time.monotonic() < deadline, found
        found += [record.value for records in consumer.poll(500).values() for record in records]
    return found


def values(fetched: list[whole_batches.Fetched]) -> list[bytes]:
    """Return the values of the records in the batches."""
    return [bytes(r.value or b"") for one in fetched for chunk in chunks(*one) for r in decode(chunk)]


def test_partition_records_is_looked_up_on_the_fetcher(consumer: KafkaConsumer, pipeline: Pipeline) -> None:
    """`_fetcher.PartitionRecords`: a batch comes out of poll() as one record, whose value is the batch."""
    pipeline.write([Record(transaction(n=n)) for n in range(100)], linger_ms=1000)
    fetched = fetch(consumer)
    assert len(fetched) < 10
    assert all(isinstance(one, whole_batches.Fetched) for one in fetched)
    assert values(fetched) == [transaction(n=n) for n in range(100)]


def test_a_fetch_tells_its_position(consumer: KafkaConsumer, pipeline: Pipeline) -> None:
    """The first argument of `PartitionRecords` is the offset asked for, also in the middle of a batch."""
    pipeline.write([Record(transaction(n=n)) for n in range(100)], linger_ms=1000)
    consumer.seek(TopicPartition(pipeline.transactions, 0), 42)
    fetched = fetch(consumer)
    assert fetched[0].position == 42
    assert values(fetched) == [transaction(n=n) for n in range(42, 100)]


def test_what_was_aborted_is_left_out(consumer: KafkaConsumer, pipeline: Pipeline) -> None:
    """The client still sees transaction markers and filters by them; its position passes what it left out."""
    producer = KafkaProducer(bootstrap_servers=pipeline.broker_url, transactional_id=pipeline.name)
    producer.init_transactions()
    for end in (producer.commit_transaction, producer.abort_transaction, producer.commit_transaction):
        producer.begin_transaction()
        producer.send(pipeline.transactions, end.__name__.encode(), partition=0)
        producer.flush()
        end()
    producer.close()
    assert values(fetch(consumer)) == [b"commit_transaction"] * 2
    assert consumer.position(TopicPartition(pipeline.transactions, 0)) == 6


def test_a_damaged_batch_is_refused(consumer: KafkaConsumer) -> None:
    """The client checks a batch's CRC before it hands it on."""
    source = inspect.getsource(Fetcher.PartitionRecords._unpack_records)
    assert source.index("batch.validate_crc()") < source.index("for record in batch")


def test_a_batch_keeps_its_bytes_in_buffer() -> None:
    """`DefaultRecordBatch._buffer` is the whole batch as it came, until it is iterated over."""
    (output,) = encode(Columns.of([(0, 5, CONTENT)]), 1000)
    batch = DefaultRecordBatch(memoryview(output.data))
    assert batch._buffer == output.data


def outgoing(*timestamps: int, topic: str, first: int = 0) -> Outgoing:
    """Return a batch of small records, from the offset `first` of the input on."""
    rows = ((n, timestamp, CONTENT) for n, timestamp in enumerate(timestamps, first))
    (batch,) = encode(Columns.of(rows), 10**6)
    return Outgoing(TopicPartition(topic, 0), batch, INPUT)


def commit(producer: Producer, *batches: Outgoing) -> None:
    """Write batches in one transaction."""
    producer.commit(Out({}, ConsumerGroupMetadata(producer.group), {}, batches=list(batches)))


def open_transaction(producer: Producer, *batches: Outgoing) -> None:
    """Begin a transaction that nobody ends, and write batches in it."""
    for one in batches:
        producer.seal(one)

    async def begin() -> None:
        await producer.begin({one.target for one in batches})
        await producer.brokers.write(batches, producer.coordinator[1])

    producer.brokers.run(begin(), 60)


def timestamps(pipeline: Pipeline) -> list[int]:
    """Return those of the committed records, in order."""
    return [record.timestamp for record in pipeline.read(pipeline.legit)]


def test_a_sealed_batch_is_one_that_the_client_reads() -> None:
    """The header has all that makes it part of a transaction, and its checksum is right."""
    batch = outgoing(5, 9, topic="any").batch
    seal(batch, 2**40, 7, 2**31 - 1)
    found = DefaultRecordBatch(memoryview(batch.data))
    assert found.validate_crc()
    assert (found.records_count, found.last_offset, found.first_timestamp, found.max_timestamp) == (2, 1, 5, 9)
    assert (found.producer_id, found.producer_epoch, found.base_sequence) == (2**40, 7, 2**31 - 1)
    assert found.is_transactional
    assert not found.is_control_batch
    assert [record.value for record in found] == [b"x", b"x"]


def test_batches_of_a_partition_keep_their_order(producer: Producer, pipeline: Pipeline) -> None:
    """Several of them, of several records each: their sequence numbers have no gap, also where they begin anew."""
    producer.sequences[TopicPartition(pipeline.legit, 0)] = 2**31 - 5
    ends = [(0, 3), (3, 4), (4, 9), (9, 11)]
    commit(producer, *(outgoing(*range(*end), topic=pipeline.legit) for end in ends))
    commit(producer, outgoing(11, topic=pipeline.legit))
    assert timestamps(pipeline) == list(range(12))
    assert producer.sequences[TopicPartition(pipeline.legit, 0)] == 7


def test_a_batch_that_is_sent_twice_is_there_once(producer: Producer, pipeline: Pipeline) -> None:
    """As after a connection that broke before the answer: the leader knows it by its sequence number."""
    one = outgoing(1, 2, topic=pipeline.legit)
    open_transaction(producer, one)
    producer.brokers.run(producer.brokers.write([one], producer.coordinator[1]), 60)
    producer.brokers.run(producer.end(is_commit=True), 60)
    assert timestamps(pipeline) == [1, 2]


def test_what_a_predecessor_left_open_is_aborted(producer: Producer, pipeline: Pipeline) -> None:
    """And its epoch is over: a write of its that arrives late is refused, and no part of the next transaction."""
    old, late = outgoing(1, topic=pipeline.legit), outgoing(2, topic=pipeline.legit)
    open_transaction(producer, old)
    successor = start(pipeline)
    producer.seal(late)
    with pytest.raises(KafkaError, match=r"offset 0 of input\[0\]: InvalidProducerEpochError"):
        producer.brokers.run(producer.brokers.write([late], producer.coordinator[1]), 60)
    commit(successor, outgoing(3, topic=pipeline.legit))
    with pytest.raises(KafkaError, match=r"ProducerFenced|InvalidProducerEpoch"):
        commit(producer, outgoing(4, topic=pipeline.legit))
    assert timestamps(pipeline) == [3]


def test_an_end_that_a_broker_forgot_is_told_again() -> None:
    """`get_connection` has another one once a broker was away. What was committed stays so, although the next fails."""
    with Cluster(config={"transaction.partition.verification.enable": "false"}) as cluster:
        pipeline, small = Pipeline(cluster.bootstrap_servers), "small"
        pipeline.create(pipeline.legit)
        pipeline.create(small, max_message_bytes="200")
        producer, forgotten = start(pipeline, pipeline.legit, small), outgoing(2, topic=pipeline.legit)
        commit(producer, outgoing(1, topic=pipeline.legit))
        producer.seal(forgotten)  # as if its partition had never learned of the commit
        producer.brokers.run(producer.brokers.write([forgotten], producer.coordinator[1]), 60)
        cluster.brokers[0].kill()
        cluster.brokers[0].start()
        cluster.brokers[0].wait_ready()
        with pytest.raises(KafkaError, match="MessageSizeTooLarge"):
            commit(producer, outgoing(*range(50), topic=small))
        start(pipeline, pipeline.legit, small)  # aborts what has failed
        assert timestamps(pipeline) == [1, 2]


def test_a_start_that_fails_forgets_nothing() -> None:
    """By its new epoch the coordinator forgets how the last transaction ended: what may fail comes before that."""
    with Cluster(config={"transaction.partition.verification.enable": "false"}) as cluster:
        pipeline = Pipeline(cluster.bootstrap_servers)
        pipeline.create(pipeline.legit)
        producer, forgotten = start(pipeline), outgoing(2, topic=pipeline.legit)
        commit(producer, outgoing(1, topic=pipeline.legit))
        wait_until(lambda: timestamps(pipeline) == [1], 60)
        producer.seal(forgotten)  # as if its partition had never learned of the commit
        producer.brokers.run(producer.brokers.write([forgotten], producer.coordinator[1]), 60)

        def fail(*_: object) -> None:
            raise KafkaError("no leader yet")

        with patch("exactly_once.producer.open_partitions", fail), pytest.raises(KafkaError, match="no leader yet"):
            start(pipeline)
        start(pipeline)
        assert timestamps(pipeline) == [1, 2]


def test_a_batch_that_is_refused(pipeline: Pipeline) -> None:
    """An error says which record it is, by its place in the input, and what to look at."""
    small = f"{pipeline.name}.small"
    pipeline.create(small, max_message_bytes="200")
    with pytest.raises(KafkaError, match=r"offset 7 of input\[0\]: MessageSizeTooLarge.*, see max.message.bytes of"):
        commit(start(pipeline, small), outgoing(*range(50), topic=small, first=7))


def test_a_batch_that_nobody_takes() -> None:
    """Without an answer until the deadline, an error says so."""
    with Cluster() as cluster:
        pipeline = Pipeline(cluster.bootstrap_servers)
        pipeline.create(pipeline.legit)
        producer, one = start(pipeline), outgoing(2, topic=pipeline.legit)
        open_transaction(producer, outgoing(1, topic=pipeline.legit))
        producer.seal(one)
        cluster.brokers[0].pause()
        with pytest.raises(KafkaError, match=r"does not take the record at offset 0 .*KafkaTimeoutError"):
            producer.brokers.run(producer.brokers.write([one], producer.coordinator[1]), 3)
        with pytest.raises(KafkaError, match="no success with EndTxnRequest: KafkaTimeoutError"):
            producer.brokers.run(producer.end(is_commit=True), 1)


def test_offsets_go_with_the_transaction(producer: Producer, pipeline: Pipeline) -> None:
    """They are committed with the batches, and fenced by the generation."""
    group = KafkaConsumer(bootstrap_servers=pipeline.broker_url, group_id=pipeline.name, enable_auto_commit=False)
    group.subscribe([pipeline.transactions])
    wait_until(lambda: group.poll(100) == {} and bool(group.assignment()), 120)
    (place,) = group.assignment()
    member = group.group_metadata()
    producer.commit(Out({place: 7}, member, {}))
    wait_until(lambda: group.committed(place) == 7, 120)  # visible once the broker has written the marker
    with pytest.raises(KafkaError, match="IllegalGeneration"):
        producer.commit(Out({place: 8}, member._replace(generation_id=member.generation_id + 1), {}))
    group.close()


def test_brokers_tell_where_they_are(cluster: Cluster) -> None:
    """`_manager.cluster`: the addresses are those that the brokers advertise."""
    admin = KafkaAdminClient(bootstrap_servers=cluster.bootstrap_servers)
    try:
        assert kafka_python.advertised_addresses(admin) == [f"127.0.0.1:{cluster.brokers[0].port}"]
    finally:
        admin.close()


@pytest.mark.parametrize("kind", [KafkaConsumer, KafkaAdminClient])
def test_asking_for_a_topic_does_not_create_it(kind: type, pipeline: Pipeline) -> None:
    """`_manager.cluster` has the option by which a broker creates what is asked for."""
    cluster = Environment(pipeline.environ("detector")).cluster()
    asking = kafka_python.connect(kind, cluster, Stopping())
    missing = f"{pipeline.name}.missing"
    if kind is KafkaConsumer:
        asking.assign([TopicPartition(missing, 0)])
        asking.poll(1000)
    else:
        connections, _ = kafka_python.network(asking)
        with suppress(UnknownTopicOrPartitionError):
            connections.run(connections.cluster.set_topics, [missing])
    with closing(KafkaAdminClient(bootstrap_servers=pipeline.broker_url)) as admin:
        assert missing not in admin.list_topics()
    asking.close()


def test_the_client_tells_how_it_checks_certificates(tmp_path: Path) -> None:
    """`_build_ssl_context`: refusal.py accepts the certificates that the client accepts, and no others."""
    authority = trustme.CA()
    file = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(file))
    given = {"ssl_cafile": str(file), "ssl_check_hostname": False}
    context = KafkaSSLTransport._build_ssl_context({**KafkaSSLTransport.DEFAULT_CONFIG, **given})
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, False)
    assert len(context.get_ca_certs()) == 1


def test_each_connection_asks_which_cluster_it_leads_to(cluster: Cluster) -> None:
    """`_initialize`, and our setting in DEFAULT_CONFIG: each connection tells who is there before its first request."""
    told = []

    class Listening(Identity):
        def check(self, id: str, address: str) -> None:
            told.append((id, address))

    config = {"bootstrap_servers": cluster.bootstrap_servers, upstream.IDENTITY: Listening()}
    for kind in (KafkaAdminClient, KafkaConsumer, KafkaProducer):
        told.clear()
        client: Any = kind(**config)
        client.close()
        assert told
        assert {address for _, address in told} == {cluster.bootstrap_servers}
    with closing(KafkaAdminClient(bootstrap_servers=cluster.bootstrap_servers)) as admin:
        assert {id for id, _ in told} == {admin.describe_cluster()["cluster_id"]}


def test_leaders_are_asked_for_again_after_any_error(cluster: Cluster) -> None:
    """`ClusterMetadata._refresh_loop`: what a connection that is gone raises does not end it."""
    with closing(KafkaConsumer(bootstrap_servers=cluster.bootstrap_servers, metadata_max_age_ms=200)) as client:
        metadata: Any = client._client._manager.cluster
        ask, asked = metadata.metadata_request, list[int]()

        def fail_at_first() -> Any:
            asked.append(len(asked))
            if len(asked) == 1:
                raise OSError(errno.ENOTCONN, "not connected")
            return ask()

        metadata.metadata_request = fail_at_first
        wait_until(lambda: len(asked) > 3, 60)  # a client whose coroutine has ended asks once


def test_what_is_committed_is_what_kafka_says_now(pipeline: Pipeline) -> None:
    """`_offset_fetch_futures`: an answer that came when nobody waited any more is that of no later question."""
    place = TopicPartition(pipeline.transactions, 0)
    with closing(KafkaConsumer(bootstrap_servers=pipeline.broker_url, group_id=pipeline.name)) as asking:
        asking.assign([place])
        asking.commit({place: OffsetAndMetadata(7, "", -1)})
        late: Any = Future()
        late.success({place: OffsetAndMetadata(3, "", -1)})
        asking._coordinator._offset_fetch_futures[frozenset([place])] = late
        assert asking.committed(place) == 7


def test_a_user_with_a_comma_and_an_equals_sign() -> None:
    """`ScramClient.__init__`: they are escaped, as RFC 5802 has it."""
    first = ScramClient("svc,fraud=1", "=2C", "SCRAM-SHA-512").first_message()
    assert first.startswith(b"n,,n=svc=2Cfraud=3D1,r=")


def test_the_client_says_that_a_quota_holds_it_back() -> None:
    """In its log, by the line that service/log.py knows."""
    source = inspect.getsource(KafkaConnection._maybe_throttle)
    assert f'"{THROTTLED}"' in source
    assert logging.getLogger(KafkaConnection.__module__).name == "kafka.net.connection"


def test_every_private_name_is_in_one_module() -> None:
    """Names of others with an underscore are in three modules, except for two of them; and so is the base class."""
    found = {
        (str(file.relative_to(ROOT)), name)
        for room in ("detector", "smurfing", "alerter", "generator", "exactly_once", "service")
        for file in (ROOT / room).glob("*.py")
        for name in re.findall(r"\b(?!self\b|os\b|cls\b)\w+\.(_(?!replace\b)[a-z]\w*)", file.read_text())
        if file.name not in ("kafka_python.py", "whole_batches.py", "upstream.py")
    }
    assert found == {("service/refusal.py", "_build_ssl_context"), ("generator/delivery.py", "_metadata")}
    assert issubclass(whole_batches._PartitionRecords, Fetcher.PartitionRecords)
