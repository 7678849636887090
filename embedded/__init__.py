"""A real Apache Kafka, straight from its jars: no Docker, Java or Maven on the machine.

>>> with Cluster(brokers=1) as cluster:
...     print(cluster.bootstrap_servers)

The demo, the tests and the benchmarks run the pipeline on it with `embedded.pipeline`, and read what came out with
`embedded.records`.
"""

from embedded.brokers import Broker
from embedded.cluster import Cluster, PortTakenError
from embedded.jars import KAFKA_3, KAFKA_4, JarError, Line
from embedded.server import Server, ServerError

__all__ = ["KAFKA_3", "KAFKA_4", "Broker", "Cluster", "JarError", "Line", "PortTakenError", "Server", "ServerError"]
