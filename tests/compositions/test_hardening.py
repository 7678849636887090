"""What the containers may do, how much they may take, and whom they can reach."""

import pytest
from kafka import KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError

from compositions.engine import CLUSTER, PROJECT, SERVICES, containers, inspect, run, service
from compositions.stack import EVERYTHING, Stack
from embedded.pipeline import Pipeline

DATA_PATHS = {
    f"{PROJECT}_broker-data": "/var/lib/kafka/data",
    f"{PROJECT}_zookeeper-data": "/var/lib/zookeeper/data",
    f"{PROJECT}_zookeeper-log": "/var/lib/zookeeper/log",
}
CONNECT = """
import socket, sys
for address in sys.argv[1:]:
    host, _, port = address.partition(":")
    try:
        socket.create_connection((host, int(port)), 2)
        print(address, "answers")
    except OSError as error:
        print(address, "does not answer")
"""


def test_no_container_can_do_more_than_it_needs(stack: Stack) -> None:
    """None runs as root, has a capability, can gain one, or fills the disk with logs; each has a health check."""
    everything = containers()
    assert sorted(map(service, everything)) == EVERYTHING
    for container in everything:
        host = container["HostConfig"]
        assert host["CapDrop"] == ["ALL"]
        assert not host["CapAdd"]
        assert not host["Privileged"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-file": "3", "max-size": "10m"}}
        assert container["Config"]["Healthcheck"]["Test"]
        status = run(f"docker exec {container['Id']} sh -c 'id -u; grep -E \"Cap|NoNew\" /proc/1/status'").split()
        assert status[0] != "0"
        inside = dict(zip(status[1::2], status[2::2], strict=True))
        assert inside == {
            **{f"Cap{name}:": "0" * 16 for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")},
            "NoNewPrivs:": "1",
        }


def test_no_container_can_take_more_than_its_share(stack: Stack) -> None:
    """Memory, processes and file systems in memory have limits, and what is in use now is well below."""
    stats = run("docker stats --no-stream --no-trunc --format '{{.ID}} {{.MemPerc}} {{.PIDs}}'").splitlines()
    in_use = {words[0]: (float(words[1].rstrip("%")), int(words[2])) for words in map(str.split, stats)}
    for container in containers():
        host = container["HostConfig"]
        assert 0 < host["Memory"] <= 2 * 1024**3
        assert 0 < host["PidsLimit"] <= 1024
        assert all("size=1m" in options for options in host["Tmpfs"].values())
        memory_percent, processes = in_use[container["Id"]]
        assert processes < host["PidsLimit"] / 2
        if service(container) in SERVICES:  # the broker's is page cache for the most part
            assert memory_percent < 60


@pytest.mark.parametrize("name", SERVICES)
def test_the_services_cannot_write_but_to_tmp(stack: Stack, name: str) -> None:
    """Their root file system is read-only; /tmp is in memory, and small."""
    (container,) = containers(name)
    assert container["HostConfig"]["ReadonlyRootfs"]
    assert list(container["HostConfig"]["Tmpfs"]) == ["/tmp"]
    assert container["Mounts"] == []
    script = "touch /tmp/x && ! touch /usr/app/x"
    assert "Read-only file system" in run(f"docker exec {container['Id']} sh -c '{script}'")
    script = "! head -c 2000000 /dev/zero > /tmp/x; rm /tmp/x"
    assert "No space left on device" in run(f"docker exec {container['Id']} sh -c '{script}'")


def test_the_data_is_in_the_three_named_volumes(stack: Stack) -> None:
    """No container has another volume: an anonymous one would stay behind at each `down`, under a name of 64 digits."""
    mounts = {mount["Name"]: mount["Destination"] for c in containers() for mount in c["Mounts"]}
    assert {name: path for name, path in mounts.items() if name in DATA_PATHS} == DATA_PATHS
    assert sorted(path for name, path in mounts.items() if name not in DATA_PATHS) == []


def test_only_the_broker_reaches_zookeeper(stack: Stack) -> None:
    """From the shared network ZooKeeper has no name, and no port of its address answers; its admin server is off."""
    (zookeeper,), (detector,) = containers("zookeeper"), containers("detector")
    networks = zookeeper["NetworkSettings"]["Networks"]
    assert list(networks) == [f"{PROJECT}_zookeeper"]
    (network,) = inspect("network", list(networks))
    assert network["Internal"]
    assert sorted(c["Name"].split(PROJECT)[1].strip("-_1") for c in network["Containers"].values()) == sorted(CLUSTER)

    hosts = ["zookeeper", networks[f"{PROJECT}_zookeeper"]["IPAddress"]]
    addresses = [f"{host}:{port}" for host in hosts for port in (2181, 8080)]
    answers = run(f"docker exec {detector['Id']} python -c '{CONNECT}' broker:9092 {' '.join(addresses)}")
    expected = ["broker:9092 answers", *(f"{address} does not answer" for address in addresses)]
    assert answers.splitlines() == expected

    ports = "for port in 2181 8080; do : < /dev/tcp/localhost/$port && echo $port; done 2>/dev/null; true"
    assert run(f"docker exec {zookeeper['Id']} bash -c '{ports}'").split() == ["2181"]


def test_a_foreign_transaction_cannot_stay_open_for_long(stack: Stack, pipeline: Pipeline) -> None:
    """The broker takes a transaction of a minute, what Java's producer asks for by default, but of no longer."""

    def start(milliseconds: int) -> None:
        producer = KafkaProducer(
            bootstrap_servers=pipeline.broker_url, transactional_id="foreign", transaction_timeout_ms=milliseconds
        )
        try:
            producer.init_transactions()
        finally:
            producer.close()

    start(60_000)
    with pytest.raises(KafkaError, match="InvalidTransactionTimeout"):
        start(60_001)


def test_records_go_by_size_and_not_by_age(stack: Stack, pipeline: Pipeline) -> None:
    """All topics keep 256 MB a partition in files of 64 MB, whatever timestamps the producers have written."""
    names = ["retention.ms", "retention.bytes", "segment.bytes"]
    topics = [pipeline.transactions, *pipeline.outputs]
    resources = [ConfigResource(ConfigResourceType.TOPIC, topic, names) for topic in topics]
    with pipeline.admin() as admin:
        configs = admin.describe_configs(resources, config_filter="all")["topic"]
    for topic in topics:
        values = {name: int(configs[topic][name]["value"]) for name in names}
        assert values == {"retention.ms": -1, "retention.bytes": 256 * 1024**2, "segment.bytes": 64 * 1024**2}
