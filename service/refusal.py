"""Why Kafka turns a client away, found out on connections of our own; and which cluster answers where.

The client itself learns the former too late, does not say so, and retries for ever.
"""

import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple, Self

from kafka.errors import IllegalSaslStateError, KafkaConnectionError, UnsupportedSaslMechanismError
from kafka.net.sasl import get_sasl_mechanism
from kafka.net.transport import KafkaSSLTransport
from kafka.protocol.metadata import MetadataRequest
from kafka.protocol.parser import KafkaProtocol
from kafka.protocol.sasl import SaslAuthenticateRequest, SaslHandshakeRequest

from service.access import Access
from service.endpoint import OAUTH, URL

PROBE_SECONDS, ADDRESS_SECONDS = 9, 3
"""How long all addresses together may take, and each of them: who is there may answer a byte at a time."""
CONNECT_SECONDS = 1
MOST_BYTES = 1_000_000
"""The largest answer that is read."""

CERTIFICATE_REMEDIES = {
    10: "renew it, or the authority's in KAFKA_SSL_CAFILE",
    **dict.fromkeys((62, 64), "is it the name in KAFKA_BROKER_URL, or in advertised.listeners?"),
}
"""By OpenSSL's code for what is wrong with a certificate: it has expired, or is another host's or address's."""

USER_REFUSED = "the user or the password", "KAFKA_SASL_PLAIN_USERNAME or KAFKA_SASL_PLAIN_PASSWORD is wrong"
REFUSED = {
    "OAUTHBEARER": (
        "the token of OAUTHBEARER",
        f"the one of {URL} has ended, or is another issuer's, or for another audience; see {OAUTH}SCOPE, and what the"
        " broker expects",
    ),
    "AWS_MSK_IAM": (
        "the credentials of AWS_MSK_IAM",
        "are AWS_ACCESS_KEY_ID and AWS_DEFAULT_REGION right, and does the role's policy allow kafka-cluster:Connect?",
    ),
}
"""What a broker refuses, by mechanism, and what to look at. It does not tell which it is."""


class Refused(Exception):
    """Says how Kafka turns this client away, and the variable to look at."""


class Place(NamedTuple):
    """Where a broker may be."""

    address: str
    """As it is configured, or advertised: host:port."""
    found: tuple[Any, ...]
    """What the name resolves to."""
    until: float
    """When all probes have to be over."""

    @property
    def host(self) -> str:
        """The name alone; the brackets of an IPv6 address are no part of it."""
        return self.address.rpartition(":")[0].strip("[]")


def refusal(addresses: Iterable[str], access: Access) -> str:
    """Return the reason of the first broker that turns the client away; "" if none does, or none is there."""
    for place in _places(addresses):
        try:
            with Probe(place) as probe:
                probe.introduce(access)
        except Refused as reason:
            return f"Kafka at {place.address} {reason}"
        except Exception:  # it is absent, hangs up, or is not Kafka, which can make the client raise anything
            pass
    return ""


def cluster_ids(addresses: Iterable[str], access: Access) -> list[tuple[str, str]]:
    """Return the id of each cluster that answers, and where; nothing if there is only one place to ask."""
    places, ids = list(_places(addresses)), []
    for place in places if len(places) > 1 else []:
        with suppress(Exception), Probe(place) as probe:
            probe.introduce(access)
            answer = probe.ask(MetadataRequest(topics=[], allow_auto_topic_creation=False, version=4))
            ids.append((answer.cluster_id or "", f"{place.address} ({place.found[-1][0]})"))
    return ids


def _places(addresses: Iterable[str]) -> Iterator[Place]:
    until = time.monotonic() + PROBE_SECONDS
    for address in addresses:
        host, _, port = address.rpartition(":")
        with suppress(OSError, UnicodeError):  # the latter from a name that cannot be one
            for found in socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM):
                yield Place(address, found, until)


class Probe:
    """A connection to one place, for the duration of a `with` block. Whatever it raises but Refused means nothing."""

    def __init__(self, place: Place) -> None:
        family, kind, protocol, _, address = place.found
        self.place, self.until = place, min(place.until, time.monotonic() + ADDRESS_SECONDS)
        self.socket = socket.socket(family, kind, protocol)
        self.socket.settimeout(min(CONNECT_SECONDS, self._left()))
        try:
            self.socket.connect(address)
        except OSError:
            self.socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def _left(self) -> float:
        if (left := self.until - time.monotonic()) <= 0:
            raise TimeoutError
        return left

    def introduce(self, access: Access) -> None:
        """Encrypt and authenticate, as the client does. Raises Refused."""
        if not access["security_protocol"].endswith("SSL"):
            return self._authenticate(access)
        context = KafkaSSLTransport._build_ssl_context({**KafkaSSLTransport.DEFAULT_CONFIG, **access})  # private
        try:
            self.socket.settimeout(self._left())
            self.socket = context.wrap_socket(self.socket, server_hostname=self.place.host)
            self._authenticate(access)
        except ssl.SSLCertVerificationError as error:
            remedy = CERTIFICATE_REMEDIES.get(error.verify_code, "is its authority in KAFKA_SSL_CAFILE?")
            why = error.verify_message.rstrip(".")
            raise Refused(f"has a certificate that is not accepted ({why}): {remedy}") from None
        except (ssl.SSLEOFError, ConnectionError):
            with Probe(self.place) as plain:
                plain.ask(SaslHandshakeRequest(mechanism="PLAIN", version=0))
            raise Refused("does not speak TLS: KAFKA_SECURITY_PROTOCOL has to be one without SSL") from None
        except ssl.SSLError as error:
            if "CERTIFICATE" in error.reason:
                remedy = "give it one that it trusts in KAFKA_SSL_CERTFILE and KAFKA_SSL_KEYFILE"
                raise Refused(f"asks for a client certificate ({error.reason}): {remedy}") from None
            raise Refused(f"does not agree on TLS ({error.reason}): is KAFKA_SECURITY_PROTOCOL right?") from None

    def _authenticate(self, access: Access) -> None:
        protocol, name = access["security_protocol"], access.get("sasl_mechanism")
        answer = self.ask(SaslHandshakeRequest(mechanism=name or "PLAIN", version=1))
        if not name:
            if answer.error_code != IllegalSaslStateError.errno:
                raise Refused(f"asks for a user: KAFKA_SECURITY_PROTOCOL is {protocol}, and has to be one with SASL")
            return
        if answer.error_code == IllegalSaslStateError.errno:
            remedy = "has to be one without SASL"
            raise Refused(f"does not ask for a user: KAFKA_SECURITY_PROTOCOL is {protocol}, and {remedy}")
        if answer.error_code == UnsupportedSaslMechanismError.errno:
            enabled = access.printable(" or ".join(answer.mechanisms))
            raise Refused(f"does not take the KAFKA_SASL_MECHANISM {name}: give it {enabled}")
        mechanism = get_sasl_mechanism(name)(host=self.place.host, **access)
        try:
            while not mechanism.is_done():
                answer = self.ask(SaslAuthenticateRequest(mechanism.auth_bytes(), version=1))
                if answer.error_code:
                    what, remedy = REFUSED.get(name, USER_REFUSED)
                    raise Refused(f"refuses {what} ({access.printable(f'{answer.error_message}')}): {remedy}")
                mechanism.receive(answer.auth_bytes)
        except KafkaConnectionError as error:  # ours, in place of a token
            raise Refused(f"gets no token for {name}: {error.args[0]}") from None

    def ask(self, request: Any) -> Any:
        """Send a request, and return the answer."""
        parser = KafkaProtocol(receive_message_max_bytes=MOST_BYTES)
        answers: list[Any] = []
        parser.send_request(request)
        self.socket.settimeout(self._left())
        self.socket.sendall(parser.send_bytes())
        while not answers:
            self.socket.settimeout(self._left())
            data = self.socket.recv(65536)
            if data.startswith(b"\x15\x03"):
                raise Refused("speaks TLS alone: KAFKA_SECURITY_PROTOCOL has to be one with SSL")
            if not data:
                raise ConnectionError("the broker has closed the connection")
            answers = parser.receive_bytes(data)
        return answers[0][1]
