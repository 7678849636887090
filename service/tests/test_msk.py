"""AWS_MSK_IAM, as far as a machine without AWS can tell: what is signed, what is missing, and what a broker says."""

import json
import sys

import pytest

from service import msk
from service.access import access_from_env
from service.settings import ConfigurationError

MSK = {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_MECHANISM": "AWS_MSK_IAM"}
SECRET = "correct horse"
HOST = "b-1.fraud.abcdef.c2.kafka.eu-central-1.amazonaws.com"


@pytest.fixture(autouse=True)
def amazon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's credentials for a region, and nobody to ask for others."""
    given = {
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_SESSION_TOKEN": "session/token+=",
        "AWS_CONFIG_FILE": "/no/config",
        "AWS_SHARED_CREDENTIALS_FILE": "/no/credentials",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)


def test_the_signature_is_botocores() -> None:
    """What the client sends is signed as botocore signs the same request."""
    auth = pytest.importorskip("botocore.auth")
    request_of = pytest.importorskip("botocore.awsrequest").AWSRequest
    access = access_from_env(MSK)
    sent = json.loads(msk.Mechanism(host=HOST, **access).auth_bytes())
    assert (sent["host"], sent["action"]) == (HOST, "kafka-cluster:Connect")
    request = request_of("GET", f"https://{HOST}/?Action=kafka-cluster%3AConnect")
    request.context["timestamp"] = sent["x-amz-date"]
    signer = auth.SigV4QueryAuth(msk.Mechanism.credentials, "kafka-cluster", "eu-central-1", expires=900)
    signer._modify_request_before_signing(request)
    to_sign = signer.string_to_sign(request, signer.canonical_request(request))
    assert sent["x-amz-signature"] == signer.signature(to_sign, request)
    assert SECRET not in f"{access!r} {sent}"


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        (["AWS_DEFAULT_REGION"], "there is no region: give it AWS_DEFAULT_REGION"),
        (["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"], "there are no credentials: give it AWS_ACCESS_KEY_ID and"),
    ],
)
def test_what_is_missing(monkeypatch: pytest.MonkeyPatch, missing: list[str], words: str) -> None:
    """The line says what to give."""
    pytest.importorskip("botocore")
    for name in missing:
        monkeypatch.delenv(name)
    with pytest.raises(ConfigurationError, match=f"^KAFKA_SASL_MECHANISM is AWS_MSK_IAM, but {words}"):
        access_from_env(MSK)


def test_credentials_that_botocore_does_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile that is not there, half of a pair: bad configuration, and no traceback."""
    pytest.importorskip("botocore")
    monkeypatch.setenv("AWS_PROFILE", "nope")
    with pytest.raises(ConfigurationError, match=r"no credentials \(ProfileNotFound\): check"):
        access_from_env(MSK)
    monkeypatch.delenv("AWS_PROFILE")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ConfigurationError, match=r"no credentials \(PartialCredentialsError\): check"):
        access_from_env(MSK)


def test_without_botocore(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line says how to install it."""
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    with pytest.raises(ConfigurationError, match=r"pip install --require-hashes -r service/requirements-msk\.txt$"):
        access_from_env(MSK)


def test_without_tls() -> None:
    """MSK takes it by TLS alone."""
    with pytest.raises(ConfigurationError, match="but KAFKA_SECURITY_PROTOCOL has to be SASL_SSL"):
        access_from_env(MSK | {"KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT"})
