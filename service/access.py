"""Access to a secured Kafka: variables named after kafka-python's settings, in upper case with the prefix KAFKA_."""

import re
import ssl
from collections.abc import Mapping
from pathlib import Path

TEXT, FILE = r"[^\0\ud800-\udfff]+", "(?!-----).+"  # TEXT is what UTF-8 can encode; a FILE's path is no certificate
VARIABLES = {
    "KAFKA_SECURITY_PROTOCOL": "PLAINTEXT|SSL|SASL_PLAINTEXT|SASL_SSL",
    "KAFKA_SASL_MECHANISM": "PLAIN|SCRAM-SHA-256|SCRAM-SHA-512",
    "KAFKA_SASL_PLAIN_USERNAME": TEXT,
    "KAFKA_SASL_PLAIN_PASSWORD": TEXT,
    "KAFKA_SSL_CAFILE": FILE,
    "KAFKA_SSL_CERTFILE": FILE,
    "KAFKA_SSL_KEYFILE": FILE,
    "KAFKA_SSL_PASSWORD": TEXT,
    "KAFKA_SSL_CHECK_HOSTNAME": "true|false",
}
SECRETS = [name for name, pattern in VARIABLES.items() if pattern is TEXT]
"""Each can be in a file instead; the variable of this name with _FILE appended holds its path."""
SASL = ("KAFKA_SASL_MECHANISM", "KAFKA_SASL_PLAIN_USERNAME", "KAFKA_SASL_PLAIN_PASSWORD")
PAIR = ("KAFKA_SSL_CERTFILE", "KAFKA_SSL_KEYFILE")
NEEDED = {
    **dict.fromkeys(("SASL_PLAINTEXT", "SASL_SSL"), SASL),
    **dict.fromkeys((*PAIR, "KAFKA_SSL_PASSWORD"), PAIR),
}
"""What a protocol or a variable requires."""
OURS = [*VARIABLES, *(f"{name}_FILE" for name in SECRETS)]
KUBERNETES = r"KAFKA_(.*_)?(SERVICE_HOST|SERVICE_PORT|PORT)(_.*)?"  # set if a service is named kafka or kafka-...


class ConfigurationError(ValueError):
    """The environment or the topics are not as a service needs them; the message says what to change."""


class Access(dict[str, object]):
    """The settings of every Kafka client. The repr shows no secret."""

    def __repr__(self) -> str:
        return str({name: "***" if f"KAFKA_{name}".upper() in SECRETS else value for name, value in self.items()})


def access_from_env(environ: Mapping[str, str]) -> Access:
    """Return the settings. Raises ConfigurationError, which quotes no secret, if one of them is wrong."""
    for name in filter(environ.get, environ):
        like_ours = re.match("KAFKA_(SASL|SSL|SECURITY)_", name)
        if like_ours and name not in OURS and not re.fullmatch(KUBERNETES, name):
            known = ", ".join(ours for ours in OURS if ours.startswith(like_ours[0]))
            raise ConfigurationError(f"{name} is no variable of this service: leave it out, or take one of {known}")
    given: dict[str, str] = {}
    for name, pattern in VARIABLES.items():
        if value := read_secret(environ, name) if name in SECRETS else environ.get(name, ""):
            if not re.fullmatch(pattern, value):
                if pattern is FILE:
                    what = f"{name} is no path, but a text of {len(value)} characters"
                    raise ConfigurationError(f"{what}: give it a file that has it")
                raise ConfigurationError(f"{name} is {value!r}: give it {pattern.replace('|', ' or ')}")
            given[name] = value
    protocol = given.setdefault("KAFKA_SECURITY_PROTOCOL", "PLAINTEXT")
    for name in given:
        kind = name.split("_")[1]
        if kind not in ("SECURITY", *protocol.split("_")):
            raise ConfigurationError(f"{name} is set, but KAFKA_SECURITY_PROTOCOL is {protocol}: take one with {kind}")
    for name in (protocol, *given):
        for needed in NEEDED.get(name, ()):
            if needed not in given:
                raise ConfigurationError(f"{needed} is not set: {name} needs it")
    _check_files(given)
    access = Access({name.removeprefix("KAFKA_").lower(): value for name, value in given.items()})
    if protocol.endswith("SSL"):
        access["ssl_check_hostname"] = given.get("KAFKA_SSL_CHECK_HOSTNAME") != "false"
    if "ssl_keyfile" in access:
        access.setdefault("ssl_password", "")  # with None, OpenSSL would ask for it on the terminal
    return access


def read_secret(environ: Mapping[str, str], name: str) -> str:
    """Return the variable, or what is in the file of name_FILE. Raises ConfigurationError, which quotes no secret."""
    value, path = environ.get(name, ""), environ.get(f"{name}_FILE", "")
    if value and path:
        raise ConfigurationError(f"{name} and {name}_FILE are both set: leave one of them out")
    if path:
        try:
            value = Path(path).read_text("utf-8", "surrogateescape").rstrip("\r\n")
        except OSError as error:
            # Not the path: it may be the secret itself, by mistake.
            what = f"{name}_FILE, a path of {len(path)} characters, cannot be read ({error.strerror})"
            raise ConfigurationError(f"{what}: give it a file that this service's user may read") from None
    if (value or path) and not re.fullmatch(TEXT, value):
        which = f"the file of {name}_FILE" if path else name
        raise ConfigurationError(f"{which} is empty or not UTF-8: give it a text")
    return value


def _check_files(given: Mapping[str, str]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for name in filter(given.get, ("KAFKA_SSL_CAFILE", *PAIR)):
        expected = "a certificate"
        try:
            if name == "KAFKA_SSL_KEYFILE":
                expected = "the key of KAFKA_SSL_CERTFILE, or KAFKA_SSL_PASSWORD is not its password"
                context.load_cert_chain(given[PAIR[0]], given[name], given.get("KAFKA_SSL_PASSWORD", ""))
            else:
                context.load_verify_locations(given[name])
        except ssl.SSLError:
            raise ConfigurationError(f"{name} is {given[name]!r}, which is not, in PEM format, {expected}") from None
        except OSError as error:
            remedy = "give it a file that can be read"
            raise ConfigurationError(f"{name} is {given[name]!r} ({error.strerror}): {remedy}") from None
