"""An OAuth endpoint: asked for a token with a client's credentials, within bounds, whatever it answers (RFC 6749)."""

import io
import json
import re
import socket
import ssl
import time
from base64 import b64encode, urlsafe_b64decode
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from math import isfinite
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

OAUTH = "KAFKA_SASL_OAUTHBEARER_"
URL = "KAFKA_SASL_OAUTHBEARER_TOKEN_ENDPOINT_URL"

FETCH_SECONDS = 10
"""How long a request may take, in all."""
LONGEST_SECONDS = 24 * 60 * 60
"""How long a token is taken to last at most."""
MOST_BYTES = 64 * 1024
"""The largest answer, and the largest token, that is read."""

TOKEN = r"[A-Za-z0-9._~+/-]+=*"  # RFC 6750


class TokenError(Exception):
    """Says why there is no token, and which variable to look at; it holds neither token nor secret."""

    def __init__(self, text: str, is_away: bool = False) -> None:
        super().__init__(text)
        self.is_away = is_away
        """Whether nobody has said no: another attempt may succeed."""


class Token(NamedTuple):
    """A token, and when it ends, as time.monotonic() counts."""

    text: str
    ends_at: float


@dataclass
class Endpoint:
    """Where a user's tokens come from. The repr shows no secret."""

    url: str = field(repr=False)
    client_id: str = field(repr=False)
    client_secret: str = field(repr=False)
    scope: str = ""
    cafile: str | None = None
    """Authorities to be trusted beside those of the system."""

    def fetch(self) -> Token:
        """Return a new token. Blocks for some FETCH_SECONDS at most. Raises TokenError."""
        try:
            status, data = self._ask()
        except ssl.SSLCertVerificationError as error:
            why = f"has a certificate that is not accepted ({error.verify_message})"
            raise TokenError(f"the endpoint of {URL} {why}: is its authority in KAFKA_SSL_CAFILE?") from None
        except (OSError, HTTPException, ValueError) as error:
            why = self._printable(str(error) or type(error).__name__)
            raise TokenError(f"the endpoint of {URL} does not answer ({why})", is_away=True) from None
        try:
            answer = json.loads(data)
        except (ValueError, RecursionError):
            answer = {}
        if not isinstance(answer, dict):
            answer = {}
        if status != 200:
            raise self._refusal(status, answer)
        text, life = answer.get("access_token"), str(answer.get("expires_in"))
        if not isinstance(text, str) or not re.fullmatch(TOKEN, text):
            raise TokenError(f"the endpoint of {URL} answers without an access_token: is it a token endpoint?")
        ends_at = time.monotonic() + int(life) if re.fullmatch("[0-9]{1,9}", life) else end_of(text)
        return Token(text, min(ends_at, time.monotonic() + LONGEST_SECONDS))

    def _ask(self) -> tuple[int, bytes]:
        # Redirects are not followed: they would get the secret.
        url, until = urlsplit(self.url), time.monotonic() + FETCH_SECONDS
        host = url.hostname or ""
        connection = HTTPConnection(host, url.port, timeout=FETCH_SECONDS)
        if url.scheme == "https":
            context = ssl.create_default_context()
            if self.cafile:
                context.load_verify_locations(self.cafile)
            connection = HTTPSConnection(host, url.port, timeout=FETCH_SECONDS, context=context)
        form = {"grant_type": "client_credentials"} | ({"scope": self.scope} if self.scope else {})
        headers = {
            "Authorization": f"Basic {self._user}",
            "Content-Type": "application/x-www-form-urlencoded",
            "Accept": "application/json",
        }
        try:
            connection.request("POST", f"{url.path or '/'}?{url.query}".rstrip("?"), urlencode(form), headers)
            answer = HTTPResponse(_Until(connection.sock, until), method="POST")  # type: ignore[arg-type]
            answer.begin()
            return answer.status, answer.read(MOST_BYTES)
        finally:
            connection.close()

    @property
    def _user(self) -> str:
        return b64encode(f"{self.client_id}:{self.client_secret}".encode()).decode()  # as Java's client: not escaped

    def _refusal(self, status: int, answer: dict[str, Any]) -> TokenError:
        parts = [answer.get(name) for name in ("error", "error_description")]
        said = " ".join(part for part in parts if isinstance(part, str) and part)
        wrong = f"{OAUTH}CLIENT_ID or {OAUTH}CLIENT_SECRET wrong" if said else "it that of a token endpoint"
        if "scope" in str(answer.get("error")):
            wrong = f"{OAUTH}SCOPE wrong"
        line = f"the endpoint of {URL} says {self._printable(f'{status} {said}'.strip())}: is {wrong}?"
        return TokenError(line, is_away=status >= 500 or status in (408, 429))

    def _printable(self, text: str) -> str:
        for secret in (self._user, self.client_secret, self.client_id):
            text = text.replace(secret, "***")
        return ascii(text[:200])[1:-1]


def end_of(token: str) -> float:
    """Return when a token ends, as time.monotonic() counts; infinity if it is no JWT, or does not say so."""
    try:
        claims = json.loads(urlsafe_b64decode(token.split(".")[1] + "=="))
        end = time.monotonic() + float(claims["exp"]) - time.time()
        return end if isfinite(end) else float("inf")
    except (ValueError, LookupError, TypeError, RecursionError, OverflowError):
        return float("inf")


class _Until(io.RawIOBase):
    # What comes by a connection until a deadline, for HTTPResponse to read.
    def __init__(self, connection: socket.socket, until: float) -> None:
        self.connection, self.until = connection, until

    def makefile(self, *_: object) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if (left := self.until - time.monotonic()) <= 0:
            raise TimeoutError("timed out")
        self.connection.settimeout(left)
        return self.connection.recv_into(buffer)
