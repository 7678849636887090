"""Tokens for OAUTHBEARER, fetched ahead: the client asks for one in its network's thread, which must not wait."""

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock, Thread

from kafka.errors import KafkaConnectionError
from kafka.net.sasl.oauth import AbstractTokenProvider

from service.endpoint import MOST_BYTES, TOKEN, URL, Token, TokenError, end_of
from service.log import log

LATEST, RESERVE_SECONDS, EARLIEST = 0.8, 60, 0.1
"""A token is renewed after the first part of its life, or when only the reserve is left, if that is sooner: so long the
endpoint may be away. But never before the last part, as one that lasts a minute only would be all the time."""
RETRY_SECONDS, FILE_SECONDS = 1, 5
"""The pause after an attempt that has failed; and how often a file is looked at."""
WARNING_SECONDS = 30
AWAITED = TokenError(f"one from {URL} is still awaited", is_away=True)


class Tokens(AbstractTokenProvider):
    """What there is by way of a token, kept new by a thread. The repr shows none."""

    def __init__(self, fetch: Callable[[], Token], longest_seconds: float, extensions: Mapping[str, str]) -> None:
        """Take what returns a new token or raises TokenError, how often at least it is called, and what goes along."""
        self.fetch, self.longest_seconds, self.sent_along = fetch, longest_seconds, extensions
        self.current: Token | None = None
        self._problem = AWAITED  # why there is no other token
        self._lock, self._is_running = Lock(), False

    def token(self) -> str:
        """Return what there is, without waiting. The first call begins to fetch.

        Raises KafkaConnectionError where there is nothing: it is as if the broker were away for that long.
        """
        with self._lock:
            if not self._is_running:
                self._is_running = True
                Thread(target=self._renew, daemon=True).start()
        if current := self.current:
            if (ago := time.monotonic() - current.ends_at) < 0:  # after its end, it would let nobody in for long
                return current.text
            since = "" if self._problem is AWAITED else f", and since then: {self._problem}"
            raise KafkaConnectionError(f"the last one of {URL} ended {ago:.0f} seconds ago{since}")
        raise KafkaConnectionError(str(self._problem))

    def extensions(self) -> dict[str, str]:
        """Return what some brokers want to know beside the token."""
        return dict(self.sent_along)

    @property
    def awaited(self) -> str:
        """Why there is no token, where another attempt may get one; else ""."""
        return str(self._problem) if self._is_running and self._problem.is_away and not self.current else ""

    def _renew(self) -> None:
        warned_at, pause = -float(WARNING_SECONDS), 0.0
        while True:
            begin = time.monotonic()
            try:
                self.current, self._problem = self.fetch(), AWAITED
                life = self.current.ends_at - begin
                pause = min(life * LATEST, max(life - RESERVE_SECONDS, life * EARLIEST), self.longest_seconds)
            except Exception as error:  # whatever it is, the next attempt may succeed
                unexpected = TokenError(f"an unexpected {type(error).__name__}", is_away=True)
                self._problem, pause = error if isinstance(error, TokenError) else unexpected, 0
                if self.current and begin - warned_at >= WARNING_SECONDS:
                    warned_at, left = begin, self.current.ends_at - time.monotonic()
                    log.warning("OAUTHBEARER: no new token, the last one ends in %.0f s: %s", left, self._problem)
            time.sleep(max(RETRY_SECONDS, pause))


def read_token(path: str) -> Token:
    """Return the token in a file that something else renews. Raises TokenError."""
    try:
        with Path(path).open("rb") as file:
            text = file.read(MOST_BYTES).decode("ascii", "replace").strip()
    except OSError as error:
        raise TokenError(f"the file of {URL} cannot be read ({error.strerror})", is_away=True) from None
    if not re.fullmatch(TOKEN, text):
        raise TokenError(f"the file of {URL} has no token, but {len(text)} characters", is_away=True)
    return Token(text, end_of(text))
