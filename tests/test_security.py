"""Secured brokers: each protocol and mechanism works and comes back, and what is refused is named."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from embedded import Cluster, Line
from embedded.cluster import free_ports
from embedded.pipeline import Pipeline
from embedded.secure import MECHANISMS, Authority, Listener, add_users, authorizer, properties
from embedded.service import Restarted, Service, wait_until
from service.refusal import refusal
from service.settings import Environment

pytestmark = pytest.mark.long

PASSWORD, OTHER_PASSWORD = "correct horse", "battery staple"
SECRETS = [PASSWORD, OTHER_PASSWORD]
ODD_USER = "svc,fraud=1"
"""Kafka takes the name for SCRAM, where RFC 5802 has it escaped."""
PROTOCOLS = {"OWN": "PLAINTEXT", "TLS": "SSL", "MUTUAL": "SSL", "SASL": "SASL_PLAINTEXT", "BOTH": "SASL_SSL"}
COMBINATIONS = [("OWN", ""), ("TLS", ""), ("MUTUAL", ""), *[(name, m) for name in ("SASL", "BOTH") for m in MECHANISMS]]
TRUSTS_THE_NEXT = ("REPLACED", "and so is what is trusted")


class Secured(NamedTuple):
    """A broker with a listener for each protocol, and some that are not as they should be."""

    cluster: Cluster
    folder: Path
    authority: Authority
    listeners: dict[str, Listener]

    def environ(self, listener: str, mechanism: str = "", **more: str) -> dict[str, str]:
        """Return the variables for a service that uses this listener as it has to be used, but for what is given."""
        protocol = self.listeners[listener].protocol
        variables = {
            "KAFKA_BROKER_URL": f"localhost:{self.listeners[listener].port}",
            "KAFKA_SECURITY_PROTOCOL": protocol,
        }
        if protocol.endswith("SSL"):
            variables["KAFKA_SSL_CAFILE"] = str(self.authority.certificate)
        if listener == "MUTUAL":
            variables |= dict.fromkeys(("KAFKA_SSL_CERTFILE", "KAFKA_SSL_KEYFILE"), str(self.folder / "client.pem"))
        if mechanism:
            variables |= {"KAFKA_SASL_MECHANISM": mechanism, "KAFKA_SASL_PLAIN_USERNAME": "alice"}
            variables["KAFKA_SASL_PLAIN_PASSWORD"] = PASSWORD
        return variables | more

    def pipeline(self) -> Pipeline:
        """Return a pipeline whose own clients use the open listener."""
        pipeline = Pipeline(self.cluster.bootstrap_servers)
        pipeline.create(pipeline.transactions)
        return pipeline


@pytest.fixture(scope="module")
def secured(line: Line, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """Its users are alice, who may do everything, and bob."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = Authority(folder)
    right, names = authority.issue("localhost", "127.0.0.1"), ("localhost", "127.0.0.1")
    authority.issue("client").rename(folder / "client.pem")
    Authority(folder).issue("client").rename(folder / "stranger.pem")
    authority.issue(*names).rename(folder / "replaced.pem")
    (folder / "password").write_text(f"{PASSWORD}\n")
    own, *ports = free_ports(10)
    clients = {
        "TLS": Listener(ports[0], "SSL", right),
        "MUTUAL": Listener(ports[1], "SSL", right, client_authority=authority.certificate),
        "SASL": Listener(ports[2], "SASL_PLAINTEXT"),
        "BOTH": Listener(ports[3], "SASL_SSL", right),
        "SCRAM512": Listener(ports[4], "SASL_SSL", right, ["SCRAM-SHA-512"]),
        "EXPIRED": Listener(ports[5], "SSL", authority.issue(*names, expires=datetime(2020, 1, 1, tzinfo=UTC))),
        "ELSEWHERE": Listener(ports[6], "SSL", authority.issue("elsewhere.example")),
        "REPLACED": Listener(ports[7], "SSL", folder / "replaced.pem"),
        "ADVERTISED": Listener(ports[8], "SSL", authority.issue("localhost")),  # as 127.0.0.1
    }
    users = {"alice": PASSWORD, "bob": OTHER_PASSWORD}
    config = {
        **authorizer(line),
        "super.users": f"User:ANONYMOUS;User:alice;User:bob;User:{ODD_USER}",
        "listener.name.mutual.ssl.principal.mapping.rules": "RULE:^.*$/alice/",
        "num.network.threads": "1",  # of each listener
    }
    with Cluster(port=own, config=config | properties(own, clients, users), line=line) as cluster:
        add_users(cluster, users | {ODD_USER: PASSWORD})
        yield Secured(cluster, folder, authority, {"OWN": Listener(own, "PLAINTEXT"), **clients})


class Run(NamedTuple):
    """A pipeline, and its services."""

    pipeline: Pipeline
    generator: Restarted
    detector: Restarted


@pytest.fixture(scope="module")
def runs(secured: Secured) -> Iterator[dict[tuple[str, str], Run]]:
    """A pipeline for each way to connect; the broker is restarted while all of them run.

    With the restart the password of bob is another one, and so is the certificate of one listener.
    """
    bob = {"KAFKA_SASL_PLAIN_USERNAME": "bob", "KAFKA_SASL_PLAIN_PASSWORD": OTHER_PASSWORD}
    environs = {combination: secured.environ(*combination) for combination in COMBINATIONS}
    environs["BOTH", "bob"] = secured.environ("BOTH", "SCRAM-SHA-512", **bob)
    environs["REPLACED", ""] = secured.environ("REPLACED")
    trusted = secured.folder / "trusted.pem"
    trusted.write_bytes(secured.authority.certificate.read_bytes())
    environs[TRUSTS_THE_NEXT] = secured.environ("REPLACED", KAFKA_SSL_CAFILE=str(trusted))
    with ExitStack() as stack:
        found = {}
        for combination, environ in environs.items():
            pipeline = secured.pipeline()
            more = {"generator": {"TRANSACTIONS_PER_SECOND": "5"}, "detector": {"TRANSACTIONAL_ID": pipeline.name}}
            starts = [partial(pipeline.service, name, **environ, **more[name]) for name in more]
            found[combination] = Run(pipeline, *[stack.enter_context(Restarted(start)) for start in starts])
        for run in found.values():
            wait_until(
                lambda run=run: run.pipeline.count(*run.pipeline.outputs) > 0, 600, lambda run=run: run.detector.log
            )
        add_users(secured.cluster, {"bob": PASSWORD})
        authority = Authority(secured.folder)
        authority.issue("localhost", "127.0.0.1").rename(secured.folder / "replaced.pem")
        authority.certificate.rename(trusted)
        broker = secured.cluster.brokers[0]
        broker.kill()
        broker.start()
        broker.wait_ready()
        yield found


@pytest.mark.parametrize("combination", [*COMBINATIONS, TRUSTS_THE_NEXT])
def test_each_combination_routes_exactly_and_survives_a_restart(
    runs: dict[tuple[str, str], Run], combination: tuple[str, str]
) -> None:
    """Both services work before it and after it, with no record lost and none doubled.

    One pair does so although broker and services have changed to another authority's certificates meanwhile.
    """
    pipeline, generator, detector = runs[combination]
    before = pipeline.count(pipeline.transactions)
    wait_until(lambda: pipeline.count(pipeline.transactions) > before, 600, lambda: generator.log)
    assert generator.end() == 0
    pipeline.drain(600)
    assert detector.end() == 0
    written = Counter(record.value for record in pipeline.read(pipeline.transactions))
    assert Counter(record.value for topic in pipeline.outputs for record in pipeline.read(topic)) == written
    for log in (generator.log, detector.log):
        assert not [word for word in (*SECRETS, "Traceback") if word in log]


@pytest.mark.parametrize(
    ("combination", "words"),
    [
        (("BOTH", "bob"), "KAFKA_SASL_PLAIN_USERNAME or KAFKA_SASL_PLAIN_PASSWORD is wrong"),
        (("REPLACED", ""), "has a certificate that is not accepted"),
    ],
)
def test_what_is_refused_after_a_restart(
    runs: dict[tuple[str, str], Run], combination: tuple[str, str], words: str
) -> None:
    """A password or a certificate that has changed meanwhile: both services end, and say so."""
    _, *services = runs[combination]
    for service in services:
        wait_until(lambda service=service: words in service.log, 600, lambda service=service: service.log)
        wait_until(lambda service=service: 1 in service.exit_codes, 120)
        assert not [word for word in (*SECRETS, "Traceback") if word in service.log]


WRONG = {"KAFKA_SASL_PLAIN_PASSWORD": "wrong horse"}
MALLORY = {"KAFKA_SASL_PLAIN_USERNAME": "mallory"}
NO_CERTIFICATE = {"KAFKA_SSL_CERTFILE": "", "KAFKA_SSL_KEYFILE": ""}
STRANGER = {"KAFKA_SSL_CERTFILE": "stranger.pem", "KAFKA_SSL_KEYFILE": "stranger.pem"}
REFUSED = {
    "PLAIN password": ("BOTH", "PLAIN", WRONG, "refuses the user or the password", "KAFKA_SASL_PLAIN_PASSWORD"),
    "SCRAM-SHA-256": ("SASL", "SCRAM-SHA-256", WRONG, "refuses the user or the password", "KAFKA_SASL_PLAIN_PASSWORD"),
    "SCRAM-SHA-512": ("BOTH", "SCRAM-SHA-512", WRONG, "refuses the user or the password", "KAFKA_SASL_PLAIN_PASSWORD"),
    "user": ("SASL", "PLAIN", MALLORY, "refuses the user or the password", "KAFKA_SASL_PLAIN_USERNAME"),
    "mechanism": ("SCRAM512", "PLAIN", {}, "KAFKA_SASL_MECHANISM PLAIN", "give it SCRAM-SHA-512"),
    "authority": ("TLS", "", {"KAFKA_SSL_CAFILE": ""}, "unable to get local issuer", "KAFKA_SSL_CAFILE"),
    "expired": ("EXPIRED", "", {}, "has expired", "KAFKA_SSL_CAFILE"),
    "host name": ("ELSEWHERE", "", {}, "not valid for 'localhost'", "KAFKA_BROKER_URL"),
    "no client certificate": ("MUTUAL", "", NO_CERTIFICATE, "asks for a client certificate", "KAFKA_SSL_CERTFILE"),
    "client certificate": ("MUTUAL", "", STRANGER, "asks for a client certificate", "KAFKA_SSL_CERTFILE"),
    "no TLS there": ("OWN", "", {"KAFKA_SECURITY_PROTOCOL": "SSL"}, "does not speak TLS", "KAFKA_SECURITY_PROTOCOL"),
    "no TLS here": (
        "BOTH",
        "",
        {"KAFKA_SECURITY_PROTOCOL": "", "KAFKA_SSL_CAFILE": ""},
        "speaks TLS alone",
        "with SSL",
    ),
    "no SASL there": (
        "TLS",
        "PLAIN",
        {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL"},
        "does not ask for a user",
        "is SASL_SSL",
    ),
    "no SASL here": (
        "SASL",
        "",
        {"KAFKA_SECURITY_PROTOCOL": ""},
        "asks for a user",
        "KAFKA_SECURITY_PROTOCOL is PLAIN",
    ),
}


@pytest.fixture(scope="module")
def refused(secured: Secured) -> Iterator[dict[str, Service]]:
    """A service for each case, now the generator and now the detector, all at once."""
    with ExitStack() as stack:
        services = {}
        for name, (listener, mechanism, changed, *_) in REFUSED.items():
            changed = {k: f"{secured.folder}/{v}" if ".pem" in v else v for k, v in changed.items()}
            service = ("generator", "detector")[len(services) % 2]
            variables = secured.environ(listener, mechanism, **changed)
            services[name] = stack.enter_context(Pipeline("").service(service, **variables))
        yield services


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_at_the_start(secured: Secured, refused: dict[str, Service], case: str) -> None:
    """Exit code 1 and one line, with the reason and the variable to look at."""
    listener, _, _, *words = REFUSED[case]
    assert refused[case].wait() == 1
    (line,) = [line for line in refused[case].log.splitlines() if " INFO " not in line and " WARNING " not in line]
    for word in (" ERROR Kafka failed, ending", f"localhost:{secured.listeners[listener].port}", *words):
        assert word in line
    assert not [word for word in (*SECRETS, "wrong horse") if word in refused[case].log]


def test_a_broker_that_advertises_another_name_than_its_certificate_has(secured: Secured) -> None:
    """The first connection is accepted, and the next one is not: the line has the address of that."""
    environ = secured.environ("ADVERTISED")
    pipeline, address = secured.pipeline(), f"127.0.0.1:{secured.listeners['ADVERTISED'].port}"
    with pipeline.service("generator", **environ) as generator, pipeline.service("detector", **environ) as detector:
        for service in (generator, detector):
            assert service.wait() == 1
            (line,) = [line for line in service.log.splitlines() if " ERROR " in line]
            assert f"{address} has a certificate that is not accepted (IP address mismatch" in line
            assert "advertised.listeners" in line


def test_a_host_name_that_is_not_looked_at(secured: Secured) -> None:
    """KAFKA_SSL_CHECK_HOSTNAME=false accepts the certificate of another host; and a secret comes out of a file."""
    environ = secured.environ("ELSEWHERE", KAFKA_SSL_CHECK_HOSTNAME="false", TRANSACTIONS_LIMIT="10")
    with secured.pipeline().service("generator", **environ) as generator:
        assert generator.wait() == 0
    file = {"KAFKA_SASL_PLAIN_PASSWORD": "", "KAFKA_SASL_PLAIN_PASSWORD_FILE": str(secured.folder / "password")}
    environ = secured.environ("BOTH", "PLAIN", TRANSACTIONS_LIMIT="10", **file)
    with secured.pipeline().service("generator", **environ) as generator:
        assert generator.wait() == 0


@pytest.mark.parametrize("mechanism", MECHANISMS[1:])
def test_a_user_with_a_comma_and_an_equals_sign(secured: Secured, mechanism: str) -> None:
    """Such a name is escaped for SCRAM; and where the password is wrong, so is it for the question why."""
    odd = {"KAFKA_SASL_PLAIN_USERNAME": ODD_USER}
    environ = secured.environ("SASL", mechanism, TRANSACTIONS_LIMIT="10", **odd)
    with secured.pipeline().service("generator", **environ) as generator:
        assert generator.wait() == 0
    for password, words in ((PASSWORD, ""), ("wrong horse", "refuses the user or the password")):
        environ = secured.environ("SASL", mechanism, **odd, KAFKA_SASL_PLAIN_PASSWORD=password)
        cluster = Environment(environ).cluster()
        reason = refusal(cluster.addresses, cluster.access)
        assert words in reason
        assert bool(words) == bool(reason)
