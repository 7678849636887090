"""The variables for a secured Kafka: what they become, and what does not fit together."""

from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from kafka.net.sasl.oauth import AbstractTokenProvider

from service.access import access_from_env
from service.settings import ConfigurationError, Environment

SASL = {
    "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
    "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
    "KAFKA_SASL_PLAIN_USERNAME": "alice",
    "KAFKA_SASL_PLAIN_PASSWORD": "hunter2",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with certificates and keys, and with files that are neither."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    issued = authority.issue_cert("client")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    issued.cert_chain_pems[0].write_to_path(str(folder / "client.pem"))
    issued.private_key_pem.write_to_path(str(folder / "client.key"))
    authority.issue_cert("another").private_key_pem.write_to_path(str(folder / "another.key"))
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    encrypted = serialization.BestAvailableEncryption(b"hunter2")
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "encrypted.key").write_bytes(key.private_bytes(pem, pkcs8, encrypted))
    (folder / "password").write_text("hunter2\n")
    (folder / "no-text").write_bytes(b"hunter2\xff")
    (folder / "empty").write_text("")
    return folder


def test_without_variables_the_connection_is_open() -> None:
    """Empty variables, as Compose passes them on, are as good as none."""
    assert access_from_env({}) == {"security_protocol": "PLAINTEXT"}
    assert access_from_env({"KAFKA_SASL_MECHANISM": "", "KAFKA_SSL_CA_FILE": ""}) == access_from_env({})


def test_the_variables_become_settings_of_the_client(files: Path) -> None:
    """Each by its name, those that are files checked, the host name checked unless it is said otherwise."""
    variables = {
        **SASL,
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_SSL_CAFILE": f"{files}/ca.pem",
        "KAFKA_SSL_CERTFILE": f"{files}/client.pem",
        "KAFKA_SSL_KEYFILE": f"{files}/encrypted.key",
        "KAFKA_SSL_PASSWORD": "hunter2",
    }
    expected = {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "alice",
        "sasl_plain_password": "hunter2",
        "ssl_cafile": f"{files}/ca.pem",
        "ssl_certfile": f"{files}/client.pem",
        "ssl_keyfile": f"{files}/encrypted.key",
        "ssl_password": "hunter2",
        "ssl_check_hostname": True,
    }
    assert access_from_env(variables) == expected
    unchecked = access_from_env(variables | {"KAFKA_SSL_CHECK_HOSTNAME": "false"})
    assert unchecked == expected | {"ssl_check_hostname": False}


def test_a_secret_can_be_in_a_file(files: Path) -> None:
    """Without the newline at its end."""
    variables = SASL | {"KAFKA_SASL_PLAIN_PASSWORD": "", "KAFKA_SASL_PLAIN_PASSWORD_FILE": f"{files}/password"}
    assert access_from_env(variables) == access_from_env(SASL)


def test_the_settings_show_no_secret() -> None:
    """They are logged at the start."""
    settings = Environment({"KAFKA_BROKER_URL": "localhost:1", **SASL}).cluster()
    for shown in (repr(settings), str(settings), f"{settings.access}"):
        assert "hunter2" not in shown
        assert "alice" not in shown
        assert "SCRAM-SHA-512" in shown


SSL = {"KAFKA_SECURITY_PROTOCOL": "SSL"}
TOKENS, CREDENTIALS = "KAFKA_SASL_OAUTHBEARER_", ("CLIENT_ID", "CLIENT_SECRET")
URL, ID, SECRET = (f"{TOKENS}{name}" for name in ("TOKEN_ENDPOINT_URL", *CREDENTIALS))
OAUTH = {
    "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
    "KAFKA_SASL_MECHANISM": "OAUTHBEARER",
    URL: "https://issuer.test:8443/realms/kafka/token?x=1",
    ID: "alice",
    SECRET: "hunter2",
}


def test_the_variables_of_tokens(files: Path) -> None:
    """They become what gives tokens to the client; the authorities are the endpoint's even without TLS to Kafka."""
    more = {f"{TOKENS}SCOPE": "a b", f"{TOKENS}EXTENSIONS": "logicalCluster=lkc-1,identityPoolId=pool-1"}
    access = access_from_env(OAUTH | more | {"KAFKA_SSL_CAFILE": f"{files}/ca.pem"})
    assert set(access) == {"security_protocol", "sasl_mechanism", "ssl_cafile", "sasl_oauth_token_provider"}
    provider = access["sasl_oauth_token_provider"]
    assert isinstance(provider, AbstractTokenProvider)
    assert provider.extensions() == {"logicalCluster": "lkc-1", "identityPoolId": "pool-1"}
    assert "hunter2" not in f"{access!r} {provider!r} {provider.fetch!r}"
    (files / "token").write_text("opaque\n")
    in_file = OAUTH | {URL: f"file://{files}/token", ID: "", SECRET: ""}
    assert access_from_env(in_file)["sasl_oauth_token_provider"].fetch().text == "opaque"


def test_what_a_broker_says_echoes_no_secret() -> None:
    """It goes into a line of the log."""
    said = access_from_env(SASL).printable("no\nhunter2 for alice " + "x" * 1000)
    assert said.startswith("no *** for *** xxx")
    assert len(said) == 200


CLIENT = SSL | {"KAFKA_SSL_CERTFILE": "{}/client.pem", "KAFKA_SSL_KEYFILE": "{}/client.key"}
ENCRYPTED = CLIENT | {"KAFKA_SSL_KEYFILE": "{}/encrypted.key"}


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"KAFKA_SECURITY_PROTOCOL": "sasl_ssl"}, "KAFKA_SECURITY_PROTOCOL is 'sasl_ssl': give it PLAINTEXT or SSL or"),
        (
            SASL | {"KAFKA_SASL_MECHANISM": "SCRAM"},
            "KAFKA_SASL_MECHANISM is 'SCRAM': give it PLAIN or SCRAM-SHA-256 or",
        ),
        (SASL | {"KAFKA_SASL_MECHANISM": ""}, "KAFKA_SASL_MECHANISM is not set: SASL_PLAINTEXT needs it"),
        *[(SASL | {name: ""}, f"{name} is not set: SCRAM-SHA-512 needs it") for name in list(SASL)[2:]],
        (
            {name: value for name, value in SASL.items() if "PROTOCOL" not in name},
            "KAFKA_SECURITY_PROTOCOL is PLAINTEXT",
        ),
        (
            SSL | {"KAFKA_SASL_PLAIN_USERNAME": "alice"},
            "KAFKA_SASL_PLAIN_USERNAME is set, but KAFKA_SECURITY_PROTOCOL is",
        ),
        (
            SASL | {"KAFKA_SSL_CAFILE": "{}/ca.pem"},
            "KAFKA_SSL_CAFILE is set, but KAFKA_SECURITY_PROTOCOL is SASL_PLAINTEXT",
        ),
        (CLIENT | {"KAFKA_SSL_KEYFILE": ""}, "KAFKA_SSL_KEYFILE is not set: KAFKA_SSL_CERTFILE needs it"),
        (CLIENT | {"KAFKA_SSL_CERTFILE": ""}, "KAFKA_SSL_CERTFILE is not set: KAFKA_SSL_KEYFILE needs it"),
        (SSL | {"KAFKA_SSL_PASSWORD": "hunter2"}, "KAFKA_SSL_CERTFILE is not set: KAFKA_SSL_PASSWORD needs it"),
        (SSL | {"KAFKA_SSL_CAFILE": "/no/ca.pem"}, "KAFKA_SSL_CAFILE is '/no/ca.pem' (No such file or directory)"),
        (SSL | {"KAFKA_SSL_CAFILE": "{}"}, "KAFKA_SSL_CAFILE is '{}'"),
        (
            SSL | {"KAFKA_SSL_CAFILE": "{}/client.key"},
            "KAFKA_SSL_CAFILE is '{}/client.key', which is not, in PEM format, a c",
        ),
        (
            CLIENT | {"KAFKA_SSL_CERTFILE": "{}/empty"},
            "KAFKA_SSL_CERTFILE is '{}/empty', which is not, in PEM format, a cert",
        ),
        (CLIENT | {"KAFKA_SSL_KEYFILE": "{}/absent"}, "KAFKA_SSL_KEYFILE is a path of "),
        (
            CLIENT | {"KAFKA_SSL_KEYFILE": "{}/another.key"},
            "characters, which is not, in PEM",
        ),
        (ENCRYPTED, "or KAFKA_SSL_PASSWORD is not its password"),
        (ENCRYPTED | {"KAFKA_SSL_PASSWORD": "hunter3"}, "or KAFKA_SSL_PASSWORD is not its password"),
        (SSL | {"KAFKA_SSL_CHECK_HOSTNAME": "no"}, "KAFKA_SSL_CHECK_HOSTNAME is 'no': give it true or false"),
        (SASL | {"KAFKA_SASL_PLAIN_PASSWORD_FILE": "{}/password"}, "KAFKA_SASL_PLAIN_PASSWORD_FILE are both set"),
        (
            SASL | {"KAFKA_SASL_PLAIN_PASSWORD": "hunter2\udcff"},
            "KAFKA_SASL_PLAIN_PASSWORD is empty, not UTF-8, or has more",
        ),
        *[
            (SASL | {"KAFKA_SASL_PLAIN_PASSWORD": "", "KAFKA_SASL_PLAIN_PASSWORD_FILE": f"{{}}/{name}"}, words)
            for name, words in (
                ("hunter2", "characters, cannot be read (No such file or directory): give it a file"),
                ("empty", "the file of KAFKA_SASL_PLAIN_PASSWORD_FILE is empty, not UTF-8, or has more"),
                ("no-text", "the file of KAFKA_SASL_PLAIN_PASSWORD_FILE is empty, not UTF-8, or has more"),
            )
        ],
        *[(OAUTH | {f"{TOKENS}{name}": ""}, f"{TOKENS}{name} is not set: https needs it") for name in CREDENTIALS],
        (OAUTH | {URL: ""}, f"{URL} is not set: OAUTHBEARER needs it"),
        *[
            (OAUTH | {URL: wrong}, f"{URL}, a text of {len(wrong)} characters: give it https://..., http://... or file")
            for wrong in (
                "https://user:hunter2@issuer.test/",
                "ftp://issuer.test",
                "issuer.test/hunter2",
                "file://hunter2/token",
                "https://issuer.test:port/",
                "https://issuer.test/a b",
            )
        ],
        (OAUTH | {f"{TOKENS}SCOPE": "hunter2\x01"}, f"{TOKENS}SCOPE, a text of 8 characters: give it one"),
        (OAUTH | {f"{TOKENS}EXTENSIONS": "hunter2"}, f"{TOKENS}EXTENSIONS, a text of 7 characters: give it name=value"),
        (OAUTH | {f"{TOKENS}EXTENSIONS": "auth=hunter2"}, f"{TOKENS}EXTENSIONS, a text of 12 characters: give it name"),
        (OAUTH | {"KAFKA_SASL_PLAIN_USERNAME": "alice"}, "of no use with the KAFKA_SASL_MECHANISM OAUTHBEARER: leave"),
        (
            SASL | {URL: "https://issuer.test"},
            f"{URL} is set, but of no use with the KAFKA_SASL_MECHANISM SCRAM-SHA-",
        ),
        *[
            (OAUTH | {URL: "file:///token"} | dict.fromkeys(others, ""), f"{kept} is set, but of no use with")
            for kept, others in ((ID, [SECRET]), (SECRET, [ID]))
        ],
        (OAUTH | {URL: "http://issuer.test", "KAFKA_SSL_CAFILE": "{}/ca.pem"}, "KAFKA_SECURITY_PROTOCOL is SASL_PLAIN"),
        (SSL | {"KAFKA_SSL_CAFILE": "-----BEGIN CERTIFICATE-----"}, "KAFKA_SSL_CAFILE is no path, but a text of 27"),
        (
            CLIENT | {"KAFKA_SSL_KEYFILE": "'-----BEGIN PRIVATE KEY-----\\nhunter2'"},
            "KAFKA_SSL_KEYFILE is a path of 38 ch",
        ),
        (CLIENT | {"KAFKA_SSL_KEYFILE": "hunter2"}, "KAFKA_SSL_KEYFILE is a path of 7 characters (No such file"),
        (CLIENT | {"KAFKA_SSL_KEYFILE": "hunter2\nhunter2"}, "KAFKA_SSL_KEYFILE is no path, but a text of 15"),
    ],
)
def test_what_does_not_fit_together(files: Path, variables: dict[str, str], words: str) -> None:
    """The line names the variable, and its value unless that is a secret. Nobody is asked on the terminal."""
    environ = {name: value.replace("{}", str(files)) for name, value in variables.items()}
    with pytest.raises(ConfigurationError) as raised:
        Environment({"KAFKA_BROKER_URL": "localhost:1", **environ}).cluster()
    line = str(raised.value)
    assert words.replace("{}", str(files)) in line
    assert "\n" not in line
    assert "hunter" not in line


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("KAFKA_SASL_USERNAME", "KAFKA_SASL_PLAIN_USERNAME"),
        ("KAFKA_SASL_PASSWORD", "KAFKA_SASL_PLAIN_PASSWORD"),
        ("KAFKA_SASL_MECHANISMS", "KAFKA_SASL_MECHANISM"),
        ("KAFKA_SSL_CA_FILE", "KAFKA_SSL_CAFILE"),
        ("KAFKA_SSL_KEY_PASSWORD", "KAFKA_SSL_PASSWORD"),
        ("KAFKA_SECURITY_PROTOCOLS", "KAFKA_SECURITY_PROTOCOL"),
        ("KAFKA_SSL_CAFILE_FILE", "KAFKA_SSL_CAFILE"),
    ],
)
def test_a_variable_that_is_none(name: str, meant: str) -> None:
    """What looks like a setting of access is not passed over in silence; the line has those of its kind."""
    with pytest.raises(ValueError, match=f"^{name} is no variable of this service: leave it out") as raised:
        access_from_env({name: "hunter2"})
    assert meant in str(raised.value)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    "name",
    [
        "KAFKA_HOST_PORT",
        "KAFKA_SERVICE_HOST",
        "KAFKA_SERVICE_PORT_SASL_SSL",
        "KAFKA_PORT",
        "KAFKA_PORT_9092_TCP",
        "KAFKA_PORT_9092_TCP_ADDR",
        "KAFKA_BROKER_PORT",
        "KAFKA_BROKER_SERVICE_HOST",
        "KAFKA_BOOTSTRAP_PORT_9092_TCP",
        "KAFKA_HEAP_OPTS",
        "KAFKA_BOOTSTRAP_SERVERS",
        "KAFKA_GROUP_ID",
        "KAFKA_SSL_SERVICE_HOST",
        "KAFKA_VERSION",
        "KAFKA_BROKER_ID",
    ],
)
def test_variables_of_others(name: str) -> None:
    """What Kubernetes, Kafka's images and our own compositions set is none of our business."""
    assert access_from_env({name: "1"}) == access_from_env({})
