"""OAUTHBEARER: what an endpoint may answer, what of it is told, and that tokens are renewed while the services work."""

import json
import re
import time
from base64 import b64encode, urlsafe_b64encode
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event

import pytest
from kafka.errors import KafkaConnectionError, RetriableError

from embedded import Line
from embedded.brokers import HOST
from embedded.cluster import free_ports
from embedded.service import wait_until
from identity_provider import CLIENT_ID, CLIENT_SECRET, Guarded, IdentityProvider, guarded_cluster
from service import endpoint
from service.endpoint import Endpoint, TokenError
from service.refusal import refusal
from service.settings import Environment
from service.tokens import Tokens, read_token

pytestmark = pytest.mark.long

USER = f"{CLIENT_ID}:{CLIENT_SECRET}".encode()

ECHO = json.dumps(
    {"error": {"x": CLIENT_SECRET}, "error_description": f"bad header: Basic {b64encode(USER).decode()}"}
).encode()
NEVER_ENDS = "x." + urlsafe_b64encode(b'{"exp": NaN}').decode().rstrip("=")
LIFE_SECONDS, SESSION_SECONDS, STALL_SECONDS = 20, 15, 25

# --- without a broker ---


@pytest.fixture
def provider() -> Iterator[IdentityProvider]:
    """An identity provider."""
    with IdentityProvider() as running:
        yield running


def test_an_endpoint_gives_a_token(provider: IdentityProvider) -> None:
    """For a client's credentials and a scope; it ends when the endpoint says so, or else when itself says so."""
    asking = Endpoint(provider.url, CLIENT_ID, CLIENT_SECRET, "kafka write")
    token = asking.fetch()
    assert token.text.count(".") == 2
    assert 3500 < token.ends_at - time.monotonic() <= 3600
    assert provider.asked == [{"grant_type": ["client_credentials"], "scope": ["kafka write"]}]
    in_token = provider.token(exp=time.time() + 100)
    for answer, least, most in (
        (f'{{"access_token": "{in_token}"}}', 90, 101),
        ('{"access_token": "opaque", "expires_in": "60"}', 50, 60),
        ('{"access_token": "opaque", "expires_in": 99999999999999}', 80000, 86400),
        ('{"access_token": "opaque"}', 80000, 86400),
        (json.dumps({"access_token": NEVER_ENDS}), 80000, 86400),
    ):
        provider.answer = 200, answer.encode()
        assert least < asking.fetch().ends_at - time.monotonic() <= most


@pytest.mark.parametrize(
    ("status", "answer", "words", "is_away"),
    [
        (400, b'{"error": "invalid_scope"}', "says 400 invalid_scope: is KAFKA_SASL_OAUTHBEARER_SCOPE wrong?", False),
        (401, b'{"error": "invalid_client", "error_description": "correct horse+/="}', "CLIENT_SECRET wrong?", False),
        (401, ECHO, "says 401 bad header: Basic ***: is", False),
        (302, b"", "says 302: is it that of a token endpoint?", False),
        (404, b"<html>", "says 404: is it that of a token endpoint?", False),
        (500, b'{"error": {"x": ["\\ud800"]}}', "says 500", True),
        (429, b"", "says 429", True),
        (200, b"", "answers without an access_token", False),
        (200, b"[" * 60_000, "answers without an access_token", False),
        (200, b'{"access_token": 1}', "answers without an access_token", False),
        (200, b'{"access_token": "a\\u0001auth=b"}', "answers without an access_token", False),
        (200, b'{"access_token": "' + b"x" * 100_000 + b'"}', "answers without an access_token", False),
    ],
)
def test_what_else_an_endpoint_may_answer(
    provider: IdentityProvider, status: int, answer: bytes, words: str, is_away: bool
) -> None:
    """One line names the variable, and what it says; no secret, and nothing that a terminal obeys."""
    provider.answer = status, answer
    with pytest.raises(TokenError) as raised:
        Endpoint(provider.url, CLIENT_ID, CLIENT_SECRET).fetch()
    line = str(raised.value)
    assert words in line
    assert "KAFKA_SASL_OAUTHBEARER_" in line
    assert line.isprintable()
    assert raised.value.is_away == is_away
    for secret in (CLIENT_ID, CLIENT_SECRET):
        assert secret not in line


def test_wrong_credentials(provider: IdentityProvider) -> None:
    """What the endpoint says of them is in the line, without what a terminal would obey."""
    with pytest.raises(TokenError, match=r"says 401 invalid_client Bad\\n\\x1b\[31mcredentials: is .*_CLIENT_ID or"):
        Endpoint(provider.url, CLIENT_ID, "wrong horse").fetch()


def test_an_endpoint_that_is_not_there(monkeypatch: pytest.MonkeyPatch, provider: IdentityProvider) -> None:
    """Nobody listens, nobody answers, the answer comes a byte at a time, or its certificate is unknown: in time."""
    monkeypatch.setattr(endpoint, "FETCH_SECONDS", 1)
    begin = time.monotonic()
    with pytest.raises(TokenError, match=r"does not answer .*refused"):
        Endpoint(f"http://127.0.0.1:{free_ports(1)[0]}", "a", "b").fetch()
    provider.may_answer.clear()
    with pytest.raises(TokenError, match=r"does not answer .*timed out"):
        Endpoint(provider.url, "a", "b").fetch()
    with pytest.raises(TokenError, match="does not answer"):
        Endpoint(provider.url.replace("http:", "https:"), "a", "b").fetch()
    assert time.monotonic() - begin < 60


def test_a_token_in_a_file(tmp_path: Path, provider: IdentityProvider) -> None:
    """It is read again and again; what is none is told without what it is."""
    file = tmp_path / "token"
    with pytest.raises(TokenError, match=r"cannot be read \(No such file"):
        read_token(str(file))
    for wrong in (b"", b"two words", b"\xff\xfe", b"a\x01auth=b"):
        file.write_bytes(wrong)
        with pytest.raises(TokenError, match=f"has no token, but {len(wrong)} characters"):
            read_token(str(file))
    file.write_text(provider.token(exp=time.time() + 50) + "\n")
    assert 40 < read_token(str(file)).ends_at - time.monotonic() < 51
    file.write_text("opaque")
    assert read_token(str(file)).ends_at == float("inf")


def test_a_token_is_there_without_waiting(caplog: pytest.LogCaptureFixture) -> None:
    """It is renewed ahead of its end; while that fails the last one is given, with a warning, and then no more."""
    caplog.set_level("WARNING", "service")
    may_begin, given, problem = Event(), [0], list[TokenError]()

    def fetch() -> endpoint.Token:
        may_begin.wait(60)
        if problem:
            raise problem[0]
        given[0] += 1
        return endpoint.Token(f"token{given[0]}", time.monotonic() + 10)

    renewed = Tokens(fetch, 3600, {})
    assert renewed.awaited == ""
    with pytest.raises(RetriableError, match="is still awaited"):  # as if the broker were away
        renewed.token()
    assert "is still awaited" in renewed.awaited
    may_begin.set()
    wait_until(lambda: given[0] >= 3, 60)
    assert renewed.token().startswith("token")
    problem.append(TokenError("the endpoint says 500", is_away=True))
    wait_until(lambda: "the endpoint says 500" in caplog.text, 60)
    assert renewed.current
    renewed.current = renewed.current._replace(ends_at=time.monotonic() + 1000)
    assert renewed.token().startswith("token")
    assert renewed.awaited == ""
    renewed.current = renewed.current._replace(ends_at=time.monotonic())
    with pytest.raises(KafkaConnectionError, match=r"ended \d+ seconds ago, and since then: the endpoint says 500"):
        renewed.token()
    problem.clear()
    before = given[0]
    wait_until(lambda: given[0] > before, 60)
    assert caplog.text.count("the endpoint says 500") == 1
    assert "token1" not in repr(renewed)


# --- with a broker ---


@pytest.fixture(scope="module")
def guarded(line: Line) -> Iterator[Guarded]:
    """Tokens are short, and the broker wants a new one even sooner."""
    with guarded_cluster(line, LIFE_SECONDS, SESSION_SECONDS) as cluster:
        yield cluster


@pytest.mark.guarantee
def test_tokens_are_renewed_while_the_services_work(guarded: Guarded) -> None:
    """Beyond a session, a broker's death, a stall of the endpoint for longer than a token lasts: no record twice."""
    pipeline, provider = guarded.pipeline(), guarded.provider
    environ = guarded.environ()

    def wait_for_more() -> None:
        before = pipeline.count(pipeline.legit)
        wait_until(lambda: pipeline.count(pipeline.legit) > before, 240, lambda: generator.log + detector.log)

    with (
        pipeline.restarted("generator", **environ | {"TRANSACTIONS_PER_SECOND": "300"}) as generator,
        pipeline.restarted("detector", **environ) as detector,
    ):
        wait_for_more()
        time.sleep(SESSION_SECONDS + 1)
        wait_for_more()
        (broker,) = guarded.cluster.brokers
        broker.kill()
        broker.start()
        broker.wait_ready()
        wait_for_more()
        asked = len(provider.asked)
        provider.may_answer.clear()
        time.sleep(STALL_SECONDS)
        provider.may_answer.set()
        wait_until(lambda: len(provider.asked) >= asked + 6, 240)  # each service, more than once after it
        wait_for_more()
        assert generator.end() == 0
        pipeline.drain(240)
        assert detector.end() == 0
        for service in (generator, detector):
            service.check()
            assert re.search("OAUTHBEARER: no (new token|token yet)", service.log)
            assert not [word for word in (CLIENT_SECRET, "eyJ", "Traceback") if word in service.log]
    written = Counter(record.value for record in pipeline.read(pipeline.transactions))
    assert Counter(record.value for topic in pipeline.outputs for record in pipeline.read(topic)) == written


@pytest.mark.guarantee
def test_a_token_that_the_broker_refuses(guarded: Guarded, tmp_path: Path) -> None:
    """Of another issuer or key, for another audience, or long over: one line; and with a right one, there is none."""
    file, stranger = tmp_path / "token", IdentityProvider()
    environ = guarded.environ(TOKEN_ENDPOINT_URL=f"file://{file}", CLIENT_ID="", CLIENT_SECRET="")

    def reason() -> str:
        cluster = Environment(environ).cluster()
        provider = cluster.access["sasl_oauth_token_provider"]
        with suppress(KafkaConnectionError):  # the first call begins to read
            provider.token()
        wait_until(lambda: provider.current is not None, 60)
        return refusal(cluster.addresses, cluster.access)

    for token, words in (
        (stranger.token(), "refuses the token of OAUTHBEARER"),
        (guarded.provider.token(aud="another"), "refuses the token of OAUTHBEARER"),
        (guarded.provider.token(iss="https://another.test"), "refuses the token of OAUTHBEARER"),
        (guarded.provider.token(exp=time.time() - 1000), "gets no token for OAUTHBEARER: the last one of"),
        ("opaque", "refuses the token of OAUTHBEARER"),
        (guarded.provider.token(), ""),
    ):
        file.write_text(token)
        found = reason()
        assert words in found
        assert bool(words) == bool(found)
        assert not words or "KAFKA_SASL_OAUTHBEARER_TOKEN_ENDPOINT_URL" in found
        assert token not in found or token == "opaque"


@pytest.mark.parametrize("service", ["generator", "detector"])
def test_what_is_refused_at_the_start(guarded: Guarded, service: str) -> None:
    """Exit code 1 and one line; an endpoint that is not there is waited for, and the line says so."""
    pipeline = guarded.pipeline()
    with pipeline.service(service, **guarded.environ(CLIENT_SECRET="wrong horse")) as ended:
        assert ended.wait() == 1
        (line,) = [line for line in ended.log.splitlines() if " INFO " not in line and " WARNING " not in line]
        for word in ("OAUTHBEARER", "says 401 invalid_client", "KAFKA_SASL_OAUTHBEARER_CLIENT_SECRET wrong"):
            assert word in line
        assert "wrong horse" not in ended.log
    away = f"http://{HOST}:{free_ports(1)[0]}/token"
    with pipeline.service(service, **guarded.environ(TOKEN_ENDPOINT_URL=away)) as waiting:
        waiting.wait_for("OAUTHBEARER: no token yet, trying again: the endpoint of KAFKA_SASL_OAUTHBEARER_TOKEN")
        assert waiting.stop() == 0
        assert "No Kafka" not in waiting.log
