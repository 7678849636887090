"""What kafka-python does not do as it should, mended here until it does: the faults are upstream's.

1. RFC 5802 has a comma and an equals sign in a SCRAM user's name escaped. The client sends them as they are.
2. A name can have several addresses. The client gives the first one all the time there is.
3. A name can lead to another cluster than before. The client goes on there; `service/identity.py` ends the process.
4. What the client knows of leaders is asked for by one coroutine, which an unforeseen error ends for good. Then a
   client that has lost a broker never reads again, although all else answers.
5. Whoever asks what is committed gets the answer to an earlier question, if that came after nobody waited any more.

All names with an underscore are private; tests/test_kafka_python.py has a test for each.
"""

import time
from collections import Counter
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.cluster import ClusterMetadata
from kafka.coordinator.consumer import ConsumerCoordinator
from kafka.errors import IncompatibleBrokerVersion, KafkaConnectionError, KafkaError
from kafka.net import manager
from kafka.net.connection import KafkaConnection
from kafka.net.inet import KafkaNetSocket
from kafka.net.manager import KafkaConnectionManager
from kafka.net.sasl.scram import ScramClient
from kafka.protocol.metadata import MetadataRequest

from service.log import log

IDENTITY = "identity"
"""A setting of ours, which the clients hand down to each connection: a `service.identity.Identity`, or None."""

ADDRESS_SECONDS = 1
"""How long an address may take to accept a connection while there is another one left to try."""

REFRESH_SECONDS = 1
"""The pause before leaders are asked for again, after such an error."""

UNANSWERED = Counter[tuple[str, int]]()
"""How often each address was connected to since it was last of use: the one with the fewest times is tried first."""


def _escape(client: ScramClient, user: str, password: str, mechanism: str) -> None:
    _SCRAM(client, user.replace("=", "=3D").replace(",", "=2C"), password, mechanism)


async def _connect(
    net: Any, host: str, port: int, socket_options: Any = (), proxy_url: str | None = None, timeout_at: Any = None
) -> Any:
    factory = KafkaNetSocket(proxy_url)
    error: Exception = KafkaConnectionError("DNS Resolution failure")
    try:
        found = sorted(factory.dns_lookup(host, port), key=lambda place: UNANSWERED[place[4][:2]])
    except UnicodeError as unnamed:  # such as a name with more than 63 characters between two dots
        raise KafkaConnectionError(f"no name of a host: {unnamed}") from None
    for place in found:
        until = timeout_at if place is found[-1] else time.monotonic() + ADDRESS_SECONDS
        UNANSWERED[place[4][:2]] += 1
        try:
            return await factory.connect(net, place, socket_options, timeout_at=until)
        except (OSError, KafkaError) as failed:
            error = failed
    raise KafkaConnectionError(f"unable to connect: {error}")


async def _initialize(connection: Any, timeout_at: float | None = None) -> None:
    # As the client's own, except for what comes before the first request of others.
    timeout_at = connection._timeout_at() if timeout_at is None else timeout_at
    try:
        await connection._get_api_versions(timeout_at)
        if connection.sasl_enabled:
            await connection._sasl_authenticate(timeout_at)
        peer = connection.transport.getPeer()[:2]
        if identity := connection.config[IDENTITY]:
            identity.check(await _ask_cluster_id(connection, timeout_at), f"{peer[0]}:{peer[1]}")
        UNANSWERED.pop(peer, None)
    except KafkaError as error:
        connection.close(error)
    except Exception as error:  # the connection is gone, such as before its address was asked for
        connection.close(KafkaConnectionError(f"{type(error).__name__}: {error}"))
    else:
        connection._init_complete()


async def _ask_cluster_id(connection: Any, timeout_at: float | None) -> str:
    question = MetadataRequest(topics=[], allow_auto_topic_creation=False, min_version=4)
    try:
        answer: Any = await connection._send_request(question, timeout_at=timeout_at)
        return str(answer.cluster_id or "")
    except IncompatibleBrokerVersion:  # a broker before 0.11
        return ""


async def _refresh_loop(cluster: Any) -> None:
    while not cluster.closed:
        try:
            await _REFRESH_LOOP(cluster)
        except Exception as error:
            log.warning("Looking for the brokers failed, and goes on: %s: %s", type(error).__name__, error)
            await cluster._manager._net.sleep(REFRESH_SECONDS)


def _fetch_committed(coordinator: Any, *arguments: Any, **options: Any) -> Any:
    coordinator._offset_fetch_futures.clear()
    return _FETCH_COMMITTED(coordinator, *arguments, **options)


_FETCH_COMMITTED: Any = ConsumerCoordinator.fetch_committed_offsets
ConsumerCoordinator.fetch_committed_offsets = _fetch_committed  # type: ignore[assignment, method-assign]
_REFRESH_LOOP: Any = ClusterMetadata._refresh_loop
ClusterMetadata._refresh_loop = _refresh_loop  # type: ignore[method-assign]
_SCRAM: Any = ScramClient.__init__
ScramClient.__init__ = _escape  # type: ignore[method-assign]
manager.create_connection = _connect  # type: ignore[attr-defined]
KafkaConnection.initialize = _initialize  # type: ignore[method-assign]
for _kind in (KafkaAdminClient, KafkaConsumer, KafkaProducer, KafkaConnectionManager, KafkaConnection):
    _kind.DEFAULT_CONFIG[IDENTITY] = None
