"""An identity provider: tokens for OAUTHBEARER, an endpoint that can stall, and a broker that knows them."""

import json
import time
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from embedded import Cluster, Line
from embedded.brokers import HOST
from embedded.cluster import free_ports
from embedded.pipeline import Pipeline
from embedded.secure import Listener, properties

ISSUER, AUDIENCE = "https://issuer.test", "kafka"
CLIENT_ID, CLIENT_SECRET = "fraud-service", "correct horse+/="


def encode(data: bytes) -> str:
    """Return bytes in base64url without padding, as tokens and keys have them."""
    return urlsafe_b64encode(data).rstrip(b"=").decode()


class IdentityProvider:
    """Issues tokens, and answers to a client's credentials for the duration of a `with` block."""

    def __init__(self, seconds: float = 3600) -> None:
        """Its tokens last so long."""
        self.seconds, self.key = seconds, rsa.generate_private_key(65537, 2048)
        self.may_answer, self.asked = Event(), list[dict[str, list[str]]]()
        self.may_answer.set()
        self.answer: tuple[int, bytes] | None = None
        """What it answers in place of a token."""

    def token(self, **claims: Any) -> str:
        """Return a token; claims add to the usual ones, or replace them."""
        now = time.time()
        usual = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": int(now), "exp": int(now + self.seconds)}
        parts = {"alg": "RS256", "kid": "one"}, usual | claims
        signed = ".".join(encode(json.dumps(part).encode()) for part in parts)
        return f"{signed}.{encode(self.key.sign(signed.encode(), padding.PKCS1v15(), SHA256()))}"

    def write_keys(self, file: Path) -> None:
        """Write what a broker needs to know a token as this provider's."""
        public = self.key.public_key().public_numbers()
        numbers = {
            name: encode(value.to_bytes(256, "big").lstrip(b"\0")) for name, value in (("n", public.n), ("e", public.e))
        }
        key = {"kty": "RSA", "kid": "one", "alg": "RS256", "use": "sig", **numbers}
        file.write_text(json.dumps({"keys": [key]}))

    def __enter__(self) -> Self:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                provider.asked.append(form)
                provider.may_answer.wait(120)
                user = b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
                status, answer = 200, {"access_token": provider.token(), "expires_in": int(provider.seconds)}
                if self.headers["Authorization"] != f"Basic {user}":
                    status, answer = 401, {"error": "invalid_client", "error_description": "Bad\n\x1b[31mcredentials"}
                status, data = provider.answer or (status, json.dumps(answer).encode())
                try:
                    self.send_response(status)
                    self.send_header("Location", "/elsewhere")
                    self.send_header("Content-Length", f"{len(data)}")
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:
                    pass  # it has not waited

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/token"
        Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.may_answer.set()
        self.server.shutdown()
        self.server.server_close()

    def environ(self, **more: str) -> dict[str, str]:
        """Return the variables with which a service gets its tokens here."""
        oauth = {"TOKEN_ENDPOINT_URL": self.url, "CLIENT_ID": CLIENT_ID, "CLIENT_SECRET": CLIENT_SECRET} | more
        return {
            "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
            "KAFKA_SASL_MECHANISM": "OAUTHBEARER",
            **{f"KAFKA_SASL_OAUTHBEARER_{name}": value for name, value in oauth.items() if value},
        }


class Guarded(NamedTuple):
    """A broker with a listener for whoever has a token of the provider."""

    cluster: Cluster
    provider: IdentityProvider
    address: str

    def environ(self, **more: str) -> dict[str, str]:
        """Return the variables of a service that gets in, but for what is given."""
        return self.provider.environ(**more) | {"KAFKA_BROKER_URL": self.address}

    def pipeline(self) -> Pipeline:
        """Return a pipeline whose own clients use the open listener."""
        pipeline = Pipeline(self.cluster.bootstrap_servers)
        pipeline.create(pipeline.transactions)
        return pipeline


@contextmanager
def guarded_cluster(line: Line, token_seconds: float, session_seconds: float) -> Iterator[Guarded]:
    """Run such a broker: how long a token lasts, and after how long the broker wants another one."""
    own, port = free_ports(2)
    with (
        IdentityProvider(token_seconds) as provider,
        TemporaryDirectory() as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        keys = Path(folder) / "keys.json"
        provider.write_keys(keys)
        oauth = {
            "sasl.oauthbearer.jwks.endpoint.url": f"file://{keys}",
            "sasl.oauthbearer.expected.audience": AUDIENCE,
            "sasl.oauthbearer.expected.issuer": ISSUER,
            "connections.max.reauth.ms": f"{session_seconds * 1000:.0f}",
        }
        clients = {"TOKENS": Listener(port, "SASL_PLAINTEXT", None, ["OAUTHBEARER"])}
        allowed = "-Dorg.apache.kafka.sasl.oauthbearer.allowed"
        patch.setenv("JAVA_TOOL_OPTIONS", f"{allowed}.urls=file://{keys} {allowed}.files={keys}")
        with Cluster(port=own, config=oauth | properties(own, clients, {}), line=line) as cluster:
            yield Guarded(cluster, provider, f"{HOST}:{port}")
