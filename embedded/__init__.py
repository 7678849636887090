"""A real Apache Kafka with its ZooKeeper, from their jars: no Docker, Java or Maven on the machine.

>>> with Cluster(brokers=1) as cluster:
...     print(cluster.bootstrap_servers)

The demo, the tests and the benchmarks run the pipeline on it with `embedded.pipeline`, and read what came out with
`embedded.records`.
"""

from embedded.brokers import Broker, ZooKeeper
from embedded.cluster import Cluster, PortTakenError
from embedded.jars import JarError
from embedded.server import Server, ServerError

__all__ = ["Broker", "Cluster", "JarError", "PortTakenError", "Server", "ServerError", "ZooKeeper"]
