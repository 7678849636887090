"""Access to a secured Kafka: variables named after kafka-python's settings, in upper case with the prefix KAFKA_."""

import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from service import msk
from service.endpoint import LONGEST_SECONDS, MOST_BYTES, OAUTH, URL, Endpoint
from service.tokens import FILE_SECONDS, Tokens, read_token

TEXT, FILE = r"[^\0\ud800-\udfff]+", "(?!-----).+"  # TEXT is what UTF-8 can encode; a FILE's path is no certificate
PORT = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"  # 1 to 65535
HOST = r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?|\[[0-9A-Fa-f:.]+\]"
ENDPOINT = rf"https?://({HOST})(:{PORT})?(/[!-~]*)?|file://(?!.*%00)/[!-~]+"
SCOPE, EXTENSIONS = (
    r"[!-~]+( [!-~]+)*",
    r"(?!auth=)[A-Za-z]+=[!-+\--~]+(,(?!auth=)[A-Za-z]+=[!-+\--~]+)*",
)  # RFC 6749, 7628
FORMS = {
    ENDPOINT: "https://..., http://... or file:///..., without a user or password in it",
    SCOPE: "one, or several separated by spaces",
    EXTENSIONS: "name=value, or several separated by commas",
}
"""What fits, for the patterns that do not say it themselves. What they do not fit may hold a secret."""
USER_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
VARIABLES = {
    "KAFKA_SECURITY_PROTOCOL": "PLAINTEXT|SSL|SASL_PLAINTEXT|SASL_SSL",
    "KAFKA_SASL_MECHANISM": "|".join((*USER_MECHANISMS, "OAUTHBEARER", msk.NAME)),
    "KAFKA_SASL_PLAIN_USERNAME": TEXT,
    "KAFKA_SASL_PLAIN_PASSWORD": TEXT,
    URL: ENDPOINT,
    "KAFKA_SASL_OAUTHBEARER_CLIENT_ID": TEXT,
    "KAFKA_SASL_OAUTHBEARER_CLIENT_SECRET": TEXT,
    "KAFKA_SASL_OAUTHBEARER_SCOPE": SCOPE,
    "KAFKA_SASL_OAUTHBEARER_EXTENSIONS": EXTENSIONS,
    "KAFKA_SSL_CAFILE": FILE,
    "KAFKA_SSL_CERTFILE": FILE,
    "KAFKA_SSL_KEYFILE": FILE,
    "KAFKA_SSL_PASSWORD": TEXT,
    "KAFKA_SSL_CHECK_HOSTNAME": "true|false",
}
SECRETS = [name for name, pattern in VARIABLES.items() if pattern is TEXT]
"""Each can be in a file instead; the variable of this name with _FILE appended holds its path."""
USER = ("KAFKA_SASL_PLAIN_USERNAME", "KAFKA_SASL_PLAIN_PASSWORD")
CLIENT = ("KAFKA_SASL_OAUTHBEARER_CLIENT_ID", "KAFKA_SASL_OAUTHBEARER_CLIENT_SECRET")
PAIR = ("KAFKA_SSL_CERTFILE", "KAFKA_SSL_KEYFILE")
NEEDED = {
    **dict.fromkeys(("SASL_PLAINTEXT", "SASL_SSL"), ("KAFKA_SASL_MECHANISM",)),
    **dict.fromkeys(USER_MECHANISMS, USER),
    "OAUTHBEARER": (URL,),
    **dict.fromkeys(("http", "https"), CLIENT),
    **dict.fromkeys((*PAIR, "KAFKA_SSL_PASSWORD"), PAIR),
}
"""What a protocol, a mechanism, an endpoint or a variable requires."""
ONLY_WITH = {
    **dict.fromkeys(USER, USER_MECHANISMS),
    **dict.fromkeys((URL, "KAFKA_SASL_OAUTHBEARER_EXTENSIONS"), ("OAUTHBEARER",)),
    **dict.fromkeys((*CLIENT, "KAFKA_SASL_OAUTHBEARER_SCOPE"), ("http", "https")),
}
"""The mechanisms, or the endpoints, without which a variable would be of no use."""
OURS = [*VARIABLES, *(f"{name}_FILE" for name in SECRETS)]
KUBERNETES = r"KAFKA_(.*_)?(SERVICE_HOST|SERVICE_PORT|PORT)(_.*)?"  # set if a service is named kafka or kafka-...


class ConfigurationError(ValueError):
    """The environment or the topics are not as a service needs them; the message says what to change."""


class Access(dict[str, Any]):
    """The settings of every Kafka client. The repr shows no secret."""

    @property
    def awaited(self) -> str:
        """Why there is no token, where another attempt may get one; "" if none is needed, or it is there or refused."""
        tokens = self.get("sasl_oauth_token_provider")
        return tokens.awaited if isinstance(tokens, Tokens) else ""

    def printable(self, text: str) -> str:
        """Return what a broker has said as one short line, in which no secret is echoed."""
        tokens = self.get("sasl_oauth_token_provider")
        secrets = [str(value) for name, value in self.items() if f"KAFKA_{name}".upper() in SECRETS]
        for secret in [*secrets, *([tokens.current.text] if isinstance(tokens, Tokens) and tokens.current else [])]:
            text = text.replace(secret, "***")
        return " ".join(text.split())[:200]

    def __repr__(self) -> str:
        shown = {
            n: "***" if f"KAFKA_{n}".upper() in SECRETS else v for n, v in self.items() if isinstance(v, str | bool)
        }
        return str(shown)


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
                if pattern in FORMS:
                    raise ConfigurationError(f"{name}, a text of {len(value)} characters: give it {FORMS[pattern]}")
                raise ConfigurationError(f"{name} is {value!r}: give it {pattern.replace('|', ' or ')}")
            given[name] = value
    protocol = given.setdefault("KAFKA_SECURITY_PROTOCOL", "PLAINTEXT")
    mechanism, endpoint = given.get("KAFKA_SASL_MECHANISM", ""), given.get(URL, "").partition(":")[0]
    for name in given:
        kind = name.split("_")[1]
        if kind not in ("SECURITY", *protocol.split("_")) and (name, endpoint) != ("KAFKA_SSL_CAFILE", "https"):
            raise ConfigurationError(f"{name} is set, but KAFKA_SECURITY_PROTOCOL is {protocol}: take one with {kind}")
    _check_needed(given, protocol, mechanism)
    for name in given:
        if (useful := ONLY_WITH.get(name)) and mechanism not in useful and endpoint not in useful:
            is_endpoint = mechanism == "OAUTHBEARER" and "https" in useful
            where = f"{URL} {endpoint}:..." if is_endpoint else f"KAFKA_SASL_MECHANISM {mechanism}"
            raise ConfigurationError(f"{name} is set, but of no use with the {where}: leave it out")
    _check_needed(given, endpoint, *given)
    _check_files(given)
    if mechanism == msk.NAME:
        remedy = "KAFKA_SECURITY_PROTOCOL has to be SASL_SSL" if protocol != "SASL_SSL" else msk.prepare()
        if remedy:
            raise ConfigurationError(f"KAFKA_SASL_MECHANISM is {mechanism}, but {remedy}")
    own = {name: value for name, value in given.items() if not name.startswith(OAUTH)}
    access = Access({name.removeprefix("KAFKA_").lower(): value for name, value in own.items()})
    if mechanism == "OAUTHBEARER":
        access["sasl_oauth_token_provider"] = _tokens(given)
    if protocol.endswith("SSL"):
        access["ssl_check_hostname"] = given.get("KAFKA_SSL_CHECK_HOSTNAME") != "false"
    if "ssl_keyfile" in access:
        access.setdefault("ssl_password", "")  # with None, OpenSSL would ask for it on the terminal
    return access


def _tokens(given: Mapping[str, str]) -> Tokens:
    # Kafka's settings are passed on to the client; those of OAuth are ours.
    pairs = (pair.split("=", 1) for pair in given.get("KAFKA_SASL_OAUTHBEARER_EXTENSIONS", "").split(",") if pair)
    extensions = dict(pairs)
    if given[URL].startswith("file:"):
        path = unquote(urlsplit(given[URL]).path)
        return Tokens(lambda: read_token(path), FILE_SECONDS, extensions)
    client_id, client_secret = (given[name] for name in CLIENT)
    scope, cafile = given.get("KAFKA_SASL_OAUTHBEARER_SCOPE", ""), given.get("KAFKA_SSL_CAFILE")
    endpoint = Endpoint(given[URL], client_id, client_secret, scope, cafile)
    return Tokens(endpoint.fetch, LONGEST_SECONDS, extensions)


def read_secret(environ: Mapping[str, str], name: str) -> str:
    """Return the variable, or what is in the file of name_FILE. Raises ConfigurationError, which quotes no secret."""
    value, path = environ.get(name, ""), environ.get(f"{name}_FILE", "")
    if value and path:
        raise ConfigurationError(f"{name} and {name}_FILE are both set: leave one of them out")
    if path:
        try:
            with Path(path).open(encoding="utf-8", errors="surrogateescape") as file:
                value = file.read(MOST_BYTES + 1).rstrip("\r\n")
        except OSError as error:
            # Not the path: it may be the secret itself, by mistake.
            what = f"{name}_FILE, a path of {len(path)} characters, cannot be read ({error.strerror})"
            raise ConfigurationError(f"{what}: give it a file that this service's user may read") from None
    if (value or path) and not (re.fullmatch(TEXT, value) and len(value) <= MOST_BYTES):
        which = f"the file of {name}_FILE" if path else name
        raise ConfigurationError(f"{which} is empty, not UTF-8, or has more than {MOST_BYTES:,} characters")
    return value


def _check_needed(given: Mapping[str, str], *names: str) -> None:
    for name in names:
        for needed in NEEDED.get(name, ()):
            if needed not in given:
                raise ConfigurationError(f"{needed} is not set: {name} needs it")


def _check_files(given: Mapping[str, str]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for name in filter(given.get, ("KAFKA_SSL_CAFILE", *PAIR)):
        # What should be the path of the key's file may be the key.
        shown = f"a path of {len(given[name])} characters" if name == PAIR[1] else repr(given[name])
        expected = "a certificate"
        try:
            if name == "KAFKA_SSL_KEYFILE":
                expected = "the key of KAFKA_SSL_CERTFILE, or KAFKA_SSL_PASSWORD is not its password"
                context.load_cert_chain(given[PAIR[0]], given[name], given.get("KAFKA_SSL_PASSWORD", ""))
            else:
                context.load_verify_locations(given[name])
        except ssl.SSLError:
            raise ConfigurationError(f"{name} is {shown}, which is not, in PEM format, {expected}") from None
        except OSError as error:
            remedy = "give it a file that can be read"
            raise ConfigurationError(f"{name} is {shown} ({error.strerror}): {remedy}") from None
