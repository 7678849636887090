"""The receivers of alerts. Each has a thread, so that one that hangs or is away does not delay the others."""

import io
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from email.utils import parsedate_to_datetime
from itertools import islice
from smtplib import SMTP
from typing import Any

import requests
from apprise import Apprise, NotifyFormat
from kafka import TopicPartition
from requests.adapters import HTTPAdapter

from alerter.alerts import Alert, message
from service.log import log
from service.settings import ConfigurationError

ATTEMPT_SECONDS = 300
"""Apprise's own timeouts, a few seconds each, end an attempt much sooner, unless the answer drips in and never ends."""

LONGEST_PAUSE_SECONDS, LONGEST_ASKED_SECONDS, STUCK_SECONDS = 60, 300, 20
ANSWER_BYTES = 1024 * 1024
"""What is read of an answer."""


class Receiver:
    """Sends one address its waiting alerts, in order, and goes on once they are confirmed."""

    def __init__(self, name: str, tell: Callable[[str, str], float | None], alerts_per_minute: int) -> None:
        """`tell` sends a subject and a body, and returns None once they are confirmed, else how long to pause."""
        self.name, self.tell = name, tell
        self.told = self.refused = 0
        self.waiting: dict[tuple[TopicPartition, int], Alert] = {}  # by partition and offset
        self.worker = ThreadPoolExecutor(1)
        self.attempt: Future[float | None] | None = None
        self.telling: dict[tuple[TopicPartition, int], Alert] = {}  # what the attempt is about
        self.started = self.retry_at = self.pause = 0.0  # seconds
        self.told_at = deque([-60.0] * alerts_per_minute, maxlen=alerts_per_minute)

    def step(self) -> None:
        """Record how an attempt has ended, and start one if it is time. Raises TimeoutError if one hangs."""
        self.note()
        now = time.monotonic()
        if self.attempt and now - self.started > ATTEMPT_SECONDS:
            raise TimeoutError(f"{self.name} has neither confirmed nor refused for {ATTEMPT_SECONDS} s")
        left = sum(now - at >= 60 for at in self.told_at)  # of the messages allowed in a minute
        if self.waiting and left and not self.attempt and now >= self.retry_at:
            # The last one allowed covers everything that waits.
            self.telling = dict(islice(self.waiting.items(), 1 if left > 1 else None))
            self.started, self.attempt = now, self.worker.submit(self.tell, *message([*self.telling.values()]))

    def note(self) -> None:
        """Record how the attempt has ended, if it has."""
        if not self.attempt or not self.attempt.done():
            return
        # The reason for a failure is not logged, neither here nor by apprise: it may quote the address.
        asked = 0 if self.attempt.exception() else self.attempt.result()
        self.attempt = None
        if asked is None:
            log.info("%s: told %s", self.name, message([*self.telling.values()])[1].replace("\n", " | "))
            self.told_at.append(time.monotonic())
            self.told += len(self.telling)
            self.pause = 0
            for place, alert in self.telling.items():  # another may be there by now, if the topic is another
                if (found := self.waiting.get(place)) and (found.id, found.text) == (alert.id, alert.text):
                    del self.waiting[place]
        else:
            self.refused += 1
            self.pause = max(asked, min(LONGEST_PAUSE_SECONDS, 2 * self.pause or 1))
            self.retry_at = time.monotonic() + self.pause
            log.warning("%s: not confirmed, next attempt in %d s; waiting=%d", self.name, self.pause, len(self.waiting))

    @property
    def is_stuck(self) -> bool:
        """Whether the last attempt has failed, or the current one is taking long."""
        return self.pause > 0 or (self.attempt is not None and time.monotonic() - self.started > STUCK_SECONDS)

    @staticmethod
    def figures(receivers: Sequence["Receiver"]) -> list[tuple[str, str, dict[str, float]]]:
        """Return the metrics: docs/monitoring.md says what each means."""
        now = time.monotonic()
        ages = {r.name: now - next((alert.read_at for alert in r.waiting.copy().values()), now) for r in receivers}
        return [
            ("told_total", "Alerts that the receiver has confirmed", {r.name: r.told for r in receivers}),
            ("refused_total", "Messages that it has not confirmed", {r.name: r.refused for r in receivers}),
            ("waiting", "Alerts that it has not confirmed yet", {r.name: len(r.waiting) for r in receivers}),
            ("oldest_waiting_seconds", "How long the first of them has waited", ages),
        ]


def receivers_of(urls: Sequence[str], alerts_per_minute: int) -> list[Receiver]:
    """Return a receiver for each address; the log, if there is no address. Raises ConfigurationError."""
    if not urls:
        return [Receiver("this log (no ALERT_URLS)", lambda subject, body: None, alerts_per_minute)]
    requests.Session.send = _send  # type: ignore[assignment, method-assign]
    HTTPAdapter.send = _adapt  # type: ignore[assignment, method-assign]
    SMTP.getreply = _reply  # type: ignore[assignment, method-assign]
    found = []
    for number, url in enumerate(urls, 1):
        service = Apprise.instantiate(url)
        if not service:
            raise ConfigurationError(
                f"ALERT_URLS: apprise does not take address {number} of {len(urls)}: give it one such as"
                " mailtos://user:password@example.org"
            )

        def tell(subject: str, body: str, service: Any = service) -> float | None:
            ASKED.seconds = 0.0
            is_confirmed = service.notify(title=subject, body=body, body_format=NotifyFormat.TEXT)
            return None if is_confirmed else ASKED.seconds

        found.append(Receiver(f"receiver {number} ({service.schema})", tell, alerts_per_minute))
    return found


ASKED, SEND, ADAPT, REPLY = threading.local(), requests.Session.send, HTTPAdapter.send, SMTP.getreply


def _send(session: requests.Session, request: requests.PreparedRequest, **options: Any) -> requests.Response:
    # All that apprise sends by HTTP goes through here. A redirect is not followed: it would take the alert to whom
    # nobody has named, or turn it into a GET without it.
    response = SEND(session, request, **{**options, "allow_redirects": False, "stream": True})
    if response.status_code in (429, 503):
        ASKED.seconds = asked_pause(response.headers.get("Retry-After", ""))
    return response


def _adapt(adapter: HTTPAdapter, request: requests.PreparedRequest, **options: Any) -> requests.Response:
    # Of any answer so much is read, and no more, before the session looks at it: it would read a redirect's to the end.
    response = ADAPT(adapter, request, **options)
    with closing(response.raw) as raw:
        response.raw = io.BytesIO(raw.read(ANSWER_BYTES, decode_content=True))
    return response


class _Replies:
    # What a mail server says in a connection: so much, and no more.
    def __init__(self, file: Any) -> None:
        self.file, self.close, self.left = file, file.close, ANSWER_BYTES

    def readline(self, size: int) -> bytes:
        line: bytes = self.file.readline(size)
        self.left -= len(line)
        if self.left < 0:
            raise OSError("the mail server says too much")
        return line


def _reply(server: SMTP) -> tuple[int, bytes]:
    if server.file is None and server.sock:
        server.file = _Replies(server.sock.makefile("rb"))
    return REPLY(server)


def asked_pause(retry_after: str) -> float:
    """Return the seconds that a header asks for, up to LONGEST_ASKED_SECONDS, or until its date; 0 for nonsense."""
    seconds = 0.0
    with suppress(ValueError, OverflowError):
        is_number = retry_after.isascii() and retry_after.isdigit()
        seconds = float(retry_after) if is_number else parsedate_to_datetime(retry_after).timestamp() - time.time()
    return min(max(seconds, 0.0), LONGEST_ASKED_SECONDS)
