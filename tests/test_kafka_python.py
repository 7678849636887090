"""The contact with kafka-python below its public interface: each private name, by what it does.

If an update of the client breaks one, a test here says which, before the pipeline does.
"""

import inspect
import re
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
import trustme
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.errors import KafkaError, KafkaTimeoutError
from kafka.net.transport import KafkaSSLTransport
from kafka.producer.producer_batch import ProducerBatch
from kafka.record import MemoryRecordsBuilder
from kafka.record.default_records import DefaultRecordBatch
from kafka.structs import ConsumerGroupMetadata

from embedded import Cluster
from embedded.pipeline import ROOT, Pipeline
from embedded.records import Record
from embedded.service import wait_until
from exactly_once import kafka_python, whole_batches
from exactly_once.decoding import decode
from exactly_once.encoding import Columns, encode
from exactly_once.unpacking import chunks
from exactly_once.varints import VARINT
from harness import transaction
from service.settings import Environment
from service.stopping import Stopping

INPUT = TopicPartition("input", 0)
CONTENT = VARINT[-1] + VARINT[1] + b"x" + VARINT[0]


@pytest.fixture
def producer(pipeline: Pipeline) -> Producer:
    """The detector's."""
    pipeline.create(pipeline.legit)
    cluster = Environment(pipeline.environ("detector")).cluster()
    return Producer(cluster, Stopping(), pipeline.name, pipeline.name, [pipeline.transactions, pipeline.legit])


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
    while consumer.position(place) < consumer.end_offsets([place])[place]:
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


def test_what_was_aborted_is_left_out(consumer: KafkaConsumer, producer: KafkaProducer, pipeline: Pipeline) -> None:
    """The client still sees transaction markers and filters by them; its position passes what it left out."""
    for end in (producer.commit_transaction, producer.abort_transaction, producer.commit_transaction):
        producer.begin_transaction()
        producer.send(pipeline.transactions, end.__name__.encode(), partition=0)
        producer.flush()
        end()
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


def write(producer: KafkaProducer, topic: str, *timestamps: int) -> kafka_python.WrittenBatch:
    """Write a batch of small records."""
    (output,) = encode(Columns.of((n, timestamp, CONTENT) for n, timestamp in enumerate(timestamps)), 10**6)
    return kafka_python.write_whole_batch(producer, topic, 0, output)


def test_whole_batches_and_records_keep_their_order(producer: KafkaProducer, pipeline: Pipeline) -> None:
    """`_accumulator`: batches of ours go out in the order in which they were given, among those of send()."""
    producer.begin_transaction()
    written = []
    for n in range(0, 30, 3):
        written.append(write(producer, pipeline.transactions, n, n + 1))
        producer.send(pipeline.transactions, b"x", partition=0, timestamp_ms=n + 2)
    producer.flush()
    for batch in written:
        batch.check(INPUT)
    producer.commit_transaction()
    found = pipeline.read(pipeline.transactions)
    assert [record.timestamp for record in found] == list(range(30))
    assert {record.value for record in found} == {b"x"}


def test_a_partition_is_added_to_the_transaction(producer: KafkaProducer, pipeline: Pipeline) -> None:
    """`_transaction_manager`: what is aborted cannot be read, so the batch belonged to the transaction."""
    producer.begin_transaction()
    batch = write(producer, pipeline.transactions, 1)
    producer.flush()
    batch.check(INPUT)
    producer.abort_transaction()
    producer.begin_transaction()
    write(producer, pipeline.transactions, 2)
    producer.commit_transaction()
    assert [record.timestamp for record in pipeline.read(pipeline.transactions)] == [2]


def test_sequence_numbers_count_records(producer: KafkaProducer, pipeline: Pipeline) -> None:
    """`_next_offset`: the broker accepts batch after batch of several records, whose sequence numbers have no gap."""
    producer.begin_transaction()
    batches = [write(producer, pipeline.transactions, *range(size)) for size in (3, 1, 5, 2)]
    producer.commit_transaction()
    for batch in batches:
        batch.check(INPUT)
    assert [batch.produce_future.value[0] for batch in batches] == [0, 3, 4, 9]


def test_a_batch_that_is_refused_fails_and_is_not_split(producer: KafkaProducer, pipeline: Pipeline) -> None:
    """`record_count` and `produce_future`: too large a batch of several records fails, and check() says so."""
    small = f"{pipeline.name}.small"
    pipeline.create(small, max_message_bytes="200")
    producer.begin_transaction()
    batch = write(producer, small, *range(50))
    producer.flush()
    with pytest.raises(KafkaError, match="MessageSizeTooLarge"):
        batch.check(INPUT)


def test_a_batch_that_expires_fails() -> None:
    """Without an answer within delivery_timeout_ms no flush() fails: the batch's future ends, with an error in it."""
    with Cluster() as cluster:
        pipeline = Pipeline(cluster.bootstrap_servers)
        pipeline.create(pipeline.transactions)
        with transactional(pipeline) as producer:
            producer.begin_transaction()
            write(producer, pipeline.transactions, 1)
            producer.flush()  # the partition belongs to the transaction now
            cluster.brokers[0].pause()
            batch = write(producer, pipeline.transactions, 2)
            with pytest.raises(KafkaError, match="what became of a batch is not known"):
                batch.check(INPUT)
            producer.flush()
            with pytest.raises(KafkaError, match=r"\[0\] does not take the record at offset 0 .*: KafkaTimeoutError"):
                batch.check(INPUT)


def test_offsets_go_with_the_transaction(producer: KafkaProducer, pipeline: Pipeline) -> None:
    """`_transaction_manager` and `_sender`: offsets are committed with the batches, and fenced by the generation."""
    group = KafkaConsumer(bootstrap_servers=pipeline.broker_url, group_id=pipeline.name, enable_auto_commit=False)
    group.subscribe([pipeline.transactions])
    while not group.assignment():
        group.poll(100)
    (place,) = group.assignment()
    assert kafka_python.begin_with_offsets(producer, [], {place: OffsetAndMetadata(7)}, group.group_metadata()).wait(
        60_000
    )
    producer.commit_transaction()
    wait_until(lambda: group.committed(place) == 7, 120)  # visible once the broker has written the marker
    stale = group.group_metadata()._replace(generation_id=group.group_metadata().generation_id + 1)
    assert isinstance(stale, ConsumerGroupMetadata)
    with pytest.raises(KafkaError):
        kafka_python.begin_with_offsets(producer, [], {place: OffsetAndMetadata(8)}, stale).wait(60_000)
    group.close()


def test_the_builder_takes_its_records_from_buffer() -> None:
    """`_builder`: what we put into the inner builder is what it builds, header and all."""
    names = {"_buffer", "_num_records", "_last_offset", "_first_timestamp", "_max_timestamp"}
    records = MemoryRecordsBuilder(magic=2, compression_type=0, batch_size=0)
    assert all(hasattr(records._builder, name) for name in names)
    (output,) = encode(Columns.of([(0, 5, CONTENT), (1, 9, CONTENT)]), 1000)
    builder = records._builder
    builder._buffer, builder._num_records, builder._last_offset = output.data, 2, 1
    builder._first_timestamp, builder._max_timestamp = output.base_timestamp, output.max_timestamp
    records._next_offset = 2
    records.close()
    built = DefaultRecordBatch(records.buffer())
    assert built.validate_crc()
    assert (built.records_count, built.last_offset, built.first_timestamp, built.max_timestamp) == (2, 1, 5, 9)
    assert [record.value for record in built] == [b"x", b"x"]
    assert records.next_offset() == 2


def test_brokers_tell_where_they_are(cluster: Cluster) -> None:
    """`_manager.cluster`: the addresses are those that the brokers advertise."""
    admin = KafkaAdminClient(bootstrap_servers=cluster.bootstrap_servers)
    try:
        assert kafka_python.advertised_addresses(admin) == [f"127.0.0.1:{cluster.brokers[0].port}"]
    finally:
        admin.close()


@pytest.mark.parametrize("kind", [KafkaConsumer, KafkaProducer])
def test_asking_for_a_topic_does_not_create_it(kind: type, pipeline: Pipeline) -> None:
    """`_metadata` and `_manager.cluster` have the option by which a broker creates what is asked for."""
    cluster = Environment(pipeline.environ("detector")).cluster()
    asking = kafka_python.connect(
        kind, cluster, Stopping(), **({"max_block_ms": 1000} if kind is KafkaProducer else {})
    )
    missing = f"{pipeline.name}.missing"
    if kind is KafkaProducer:
        with suppress(KafkaTimeoutError):
            asking.partitions_for(missing)
    else:
        asking.assign([TopicPartition(missing, 0)])
        asking.poll(1000)
    with closing(KafkaAdminClient(bootstrap_servers=pipeline.broker_url)) as admin:
        assert missing not in admin.list_topics()
    asking.close()


def test_the_client_tells_how_it_checks_certificates(tmp_path: Path) -> None:
    """`_build_ssl_context`: the probe of refusal.py accepts the certificates that the client accepts, and no others."""
    authority = trustme.CA()
    file = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(file))
    given = {"ssl_cafile": str(file), "ssl_check_hostname": False}
    context = KafkaSSLTransport._build_ssl_context({**KafkaSSLTransport.DEFAULT_CONFIG, **given})
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, False)
    assert len(context.get_ca_certs()) == 1


def test_every_private_name_is_in_one_module() -> None:
    """Names of others with an underscore are in two modules, except for two of them; and so are the base classes."""
    found = {
        (str(file.relative_to(ROOT)), name)
        for room in ("detector", "smurfing", "alerter", "generator", "exactly_once", "service")
        for file in (ROOT / room).glob("*.py")
        for name in re.findall(r"\b(?!self\b|os\b|cls\b)\w+\.(_(?!replace\b)[a-z]\w*)", file.read_text())
        if file.name not in ("kafka_python.py", "whole_batches.py")
    }
    assert found == {("service/refusal.py", "_build_ssl_context"), ("generator/delivery.py", "_metadata")}
    assert issubclass(kafka_python.WrittenBatch, ProducerBatch)
    assert issubclass(whole_batches._PartitionRecords, Fetcher.PartitionRecords)
