"""A real Apache Kafka with its ZooKeeper, out of their jars: no Docker, Java or Maven on the machine.

>>> with Cluster(brokers=1) as cluster:
...     print(cluster.bootstrap_servers)
"""

from embedded.cluster import Broker, Cluster, PortTakenError, Server, ServerError, ZooKeeper
from embedded.jars import JarError

__all__ = ["Broker", "Cluster", "JarError", "PortTakenError", "Server", "ServerError", "ZooKeeper"]
