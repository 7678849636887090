"""A broker with listeners for clients that authenticate and encrypt, beside the open one that it keeps for itself."""

import secrets
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import NamedTuple, Self

import trustme
from cryptography.hazmat.primitives import serialization
from kafka import KafkaAdminClient
from kafka.admin import ScramMechanism, UserScramCredentialUpsertion

from embedded.brokers import HOST
from embedded.cluster import Cluster, check_free, free_ports
from embedded.jars import KAFKA_4, Line

USERS = ("generator", "detector", "smurfing", "alerter", "dashboard", "attack", "redrive")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
LOGIN, SCRAM = "org.apache.kafka.common.security", "scram.ScramLoginModule required"
TOKENS = "oauthbearer.OAuthBearerLoginModule required"


class Authority:
    """A certificate authority. What it issues goes into a folder, in PEM format."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._authority = folder, trustme.CA()
        self.certificate = folder / f"authority-{secrets.token_hex(4)}.pem"
        self.certificate.write_bytes(self._authority.cert_pem.bytes())

    def issue(self, *names: str, expires: datetime = datetime(2099, 1, 1, tzinfo=UTC)) -> Path:
        """Return a file with a key, and a certificate for these host names or addresses."""
        issued = self._authority.issue_cert(*names, not_after=expires)
        key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
        pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8  # Java reads no other format
        file = self._folder / f"{names[0]}-{secrets.token_hex(4)}.pem"
        file.write_bytes(
            key.private_bytes(pem, pkcs8, serialization.NoEncryption()) + issued.cert_chain_pems[0].bytes()
        )
        return file


class Listener(NamedTuple):
    """A listener for clients."""

    port: int
    protocol: str
    certificate: Path | None = None
    """A file with its key, for TLS."""
    mechanisms: Sequence[str] = MECHANISMS
    client_authority: Path | None = None
    """Each client has to show a certificate of this authority."""


def authorizer(line: Line) -> dict[str, str]:
    """Return the properties of a broker that denies a user whatever is not explicitly allowed."""
    # The super user is whoever connects through the open listener.
    return {"authorizer.class.name": line.authorizer, "super.users": "User:ANONYMOUS"}


def properties(own_port: int, clients: Mapping[str, Listener], users: Mapping[str, str]) -> dict[str, str]:
    """Return a broker's properties for an open listener of its own, and listeners for clients by name.

    These users, with their passwords, may use PLAIN; for SCRAM see `add_users`.
    """
    listeners = {"OWN": Listener(own_port, "PLAINTEXT"), **clients}
    result = {
        "listeners": ",".join(f"{name}://{HOST}:{listener.port}" for name, listener in listeners.items()),
        "listener.security.protocol.map": ",".join(f"{name}:{one.protocol}" for name, one in listeners.items()),
        "inter.broker.listener.name": "OWN",
    }
    passwords = " ".join(f'user_{name}="{password}"' for name, password in users.items())
    for name, listener in clients.items():
        prefix = f"listener.name.{name.lower()}."
        if listener.certificate:
            result |= {f"{prefix}ssl.keystore.type": "PEM", f"{prefix}ssl.keystore.location": f"{listener.certificate}"}
        if listener.client_authority:
            trusted = f"{listener.client_authority}"
            result |= {f"{prefix}ssl.truststore.type": "PEM", f"{prefix}ssl.truststore.location": trusted}
            result[f"{prefix}ssl.client.auth"] = "required"
        if listener.protocol.startswith("SASL"):
            result[f"{prefix}sasl.enabled.mechanisms"] = ",".join(listener.mechanisms)
        for mechanism in listener.mechanisms if listener.protocol.startswith("SASL") else ():
            modules = {"PLAIN": f"plain.PlainLoginModule required {passwords}", "OAUTHBEARER": TOKENS}
            module = modules.get(mechanism, SCRAM)
            if mechanism == "OAUTHBEARER":
                handler = f"{LOGIN}.oauthbearer.OAuthBearerValidatorCallbackHandler"
                result[f"{prefix}oauthbearer.sasl.server.callback.handler.class"] = handler
            result[f"{prefix}{mechanism.lower()}.sasl.jaas.config"] = f"{LOGIN}.{module};"
    return result


def add_users(cluster: Cluster, users: Mapping[str, str]) -> None:
    """Set the passwords of these users for both kinds of SCRAM."""
    with closing(KafkaAdminClient(bootstrap_servers=cluster.bootstrap_servers)) as admin:
        for kind in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):  # Kafka 4 takes one at a time
            credentials = [UserScramCredentialUpsertion(name, kind, password) for name, password in users.items()]
            refused = {user: error for user, error in admin.alter_user_scram_credentials(credentials).items() if error}
            assert not refused, refused


class SecuredCluster(Cluster):
    """A cluster of one broker, whose clients need TLS, SCRAM-SHA-512, and permission for everything they do.

    The users of compose/users.sh exist, without any permission. `bootstrap_servers` is the open listener, through which
    everything is allowed; it can be reached only from this machine.
    """

    def __init__(self, port: int = 0, line: Line = KAFKA_4) -> None:
        """The port is for clients; 0 means a free one."""
        own, free = free_ports(2)
        self._folder = TemporaryDirectory(prefix="embedded-kafka-certificates-")
        self._authority = Authority(Path(self._folder.name))
        self.users = {user: secrets.token_urlsafe(12) for user in USERS}
        self.client_port = port or free
        certificate = self._authority.issue("localhost", HOST)
        clients = {"CLIENTS": Listener(self.client_port, "SASL_SSL", certificate, ["SCRAM-SHA-512"])}
        super().__init__(port=own, config=authorizer(line) | properties(own, clients, {}), line=line)

    def __enter__(self) -> Self:
        """Start the cluster, and create the users."""
        check_free(self.client_port)
        super().__enter__()
        add_users(self, self.users)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill it, and delete its data and certificates."""
        super().__exit__(kind, error, trace)
        self._folder.cleanup()

    def environ(self, user: str) -> dict[str, str]:
        """Return the variables with which a service connects as this user."""
        return {
            "KAFKA_BROKER_URL": f"localhost:{self.client_port}",
            "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
            "KAFKA_SASL_PLAIN_USERNAME": user,
            "KAFKA_SASL_PLAIN_PASSWORD": self.users[user],
            "KAFKA_SSL_CAFILE": str(self._authority.certificate),
        }
