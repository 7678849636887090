"""Connecting to Kafka: one loop for every class of client, and why Kafka turns one away.

The client itself learns the latter too late, does not say so, and retries for ever.
"""

import socket
import ssl
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kafka.errors import (
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    UnsupportedSaslMechanismError,
)
from kafka.net.sasl import get_sasl_mechanism
from kafka.net.transport import KafkaSSLTransport
from kafka.protocol.parser import KafkaProtocol
from kafka.protocol.sasl import SaslAuthenticateRequest, SaslHandshakeRequest

from service.log import log
from service.settings import Cluster
from service.stopping import Stopping

CERTIFICATE_REMEDIES = {
    10: "renew it, or the authority's in KAFKA_SSL_CAFILE",
    **dict.fromkeys((62, 64), "is it the name in KAFKA_BROKER_URL, or in advertised.listeners?"),
}
"""By OpenSSL's code for what is wrong with a certificate: it has expired, or is another host's or address's."""


class Refused(Exception):
    """Says how Kafka turns this client away, and the variable to look at."""


def connect(client: Callable[..., Any], cluster: Cluster, stopping: Stopping, **config: object) -> Any:
    """Return a client of this class once Kafka answers. Ends the process, with exit code 0, if a signal comes first.

    Blocks as long as Kafka is away. Raises KafkaError if Kafka turns this client away.
    """
    while not stopping.is_set:
        try:
            return client(bootstrap_servers=cluster.addresses, bootstrap_timeout_ms=3000, **cluster.access, **config)
        except (KafkaConnectionError, KafkaTimeoutError):
            if reason := refusal(cluster.addresses, cluster.access):
                raise KafkaError(reason) from None
            log.warning("No Kafka at %s (KAFKA_BROKER_URL) yet, trying again", cluster.broker_url)
            stopping.rearm()  # that may last
    sys.exit(0)


def refusal(addresses: Iterable[str], access: Mapping[str, Any]) -> str:
    """Return the reason of the first broker that turns the client away; "" if none does, or none is there."""
    for address in addresses:
        try:
            with _reach(address) as connection:
                connection.settimeout(3)
                _introduce(connection, address, access)
        except Refused as reason:
            return f"Kafka at {address} {reason}"
        except Exception:  # it is absent, hangs up, or is not Kafka, which can make the client raise anything
            pass
    return ""


def unreachable(addresses: Iterable[str]) -> str:
    """Return what is wrong with the first address at which nobody can be reached; "" if there is none."""
    for address in addresses:
        try:
            _reach(address).close()
        except OSError as error:
            remedy = "check advertised.listeners of the broker"
            return f"Kafka sends its clients to {address}, which cannot be reached ({error}): {remedy}"
    return ""


def _reach(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=1)  # an IPv6 address has brackets


def _introduce(connection: socket.socket, address: str, access: Mapping[str, Any]) -> None:
    if not access["security_protocol"].endswith("SSL"):
        return _authenticate(connection, access)
    context = KafkaSSLTransport._build_ssl_context({**KafkaSSLTransport.DEFAULT_CONFIG, **access})  # private
    try:
        with context.wrap_socket(connection, server_hostname=address.rpartition(":")[0].strip("[]")) as encrypted:
            _authenticate(encrypted, access)
    except ssl.SSLCertVerificationError as error:
        remedy = CERTIFICATE_REMEDIES.get(error.verify_code, "is its authority in KAFKA_SSL_CAFILE?")
        why = error.verify_message.rstrip(".")
        raise Refused(f"has a certificate that is not accepted ({why}): {remedy}") from None
    except (ssl.SSLEOFError, ConnectionError):
        with _reach(address) as plain:
            _ask(plain, SaslHandshakeRequest(mechanism="PLAIN", version=0))
        raise Refused("does not speak TLS: KAFKA_SECURITY_PROTOCOL has to be one without SSL") from None
    except ssl.SSLError as error:
        if "CERTIFICATE" in error.reason:
            remedy = "give it one that it trusts in KAFKA_SSL_CERTFILE and KAFKA_SSL_KEYFILE"
            raise Refused(f"asks for a client certificate ({error.reason}): {remedy}") from None
        raise Refused(f"does not agree on TLS ({error.reason}): is KAFKA_SECURITY_PROTOCOL right?") from None


def _authenticate(connection: socket.socket, access: Mapping[str, Any]) -> None:
    protocol, name = access["security_protocol"], access.get("sasl_mechanism")
    answer = _ask(connection, SaslHandshakeRequest(mechanism=name or "PLAIN", version=1))
    if not name:
        if answer.error_code != IllegalSaslStateError.errno:
            raise Refused(f"asks for a user: KAFKA_SECURITY_PROTOCOL is {protocol}, and has to be one with SASL")
        return
    if answer.error_code == IllegalSaslStateError.errno:
        raise Refused(f"does not ask for a user: KAFKA_SECURITY_PROTOCOL is {protocol}, and has to be one without SASL")
    if answer.error_code == UnsupportedSaslMechanismError.errno:
        enabled = " or ".join(answer.mechanisms)
        raise Refused(f"does not take the KAFKA_SASL_MECHANISM {name}: give it {enabled}")
    mechanism = get_sasl_mechanism(name)(**access)
    while not mechanism.is_done():
        answer = _ask(connection, SaslAuthenticateRequest(mechanism.auth_bytes(), version=1))
        if answer.error_code:
            variables = "KAFKA_SASL_PLAIN_USERNAME or KAFKA_SASL_PLAIN_PASSWORD is wrong"
            raise Refused(f"refuses the user or the password ({answer.error_message}): {variables}")
        mechanism.receive(answer.auth_bytes)


def _ask(connection: socket.socket, request: Any) -> Any:
    parser = KafkaProtocol()
    answers: list[Any] = []
    parser.send_request(request)
    connection.sendall(parser.send_bytes())
    while not answers:
        data = connection.recv(65536)
        if data.startswith(b"\x15\x03"):
            raise Refused("speaks TLS alone: KAFKA_SECURITY_PROTOCOL has to be one with SSL")
        if not data:
            raise ConnectionError("the broker has closed the connection")
        answers = parser.receive_bytes(data)
    return answers[0][1]
