"""The receivers of alerts. Each has a thread, so that one that hangs or is away does not delay the others."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice

from apprise import Apprise, NotifyBase, NotifyFormat
from kafka import TopicPartition

from alerter.alerts import Alert, message
from service.log import log
from service.settings import ConfigurationError

ATTEMPT_SECONDS = 300
"""Apprise's own timeouts, a few seconds each, end an attempt much sooner, unless the answer drips in and never ends."""

LONGEST_PAUSE_SECONDS, STUCK_SECONDS = 60, 20


class Receiver:
    """Sends one address its waiting alerts, in order, and goes on once they are confirmed."""

    def __init__(self, name: str, tell: Callable[[str, str], bool], alerts_per_minute: int) -> None:
        self.name, self.tell = name, tell
        self.waiting: dict[tuple[TopicPartition, int], Alert] = {}  # by partition and offset
        self.worker = ThreadPoolExecutor(1)
        self.attempt: Future[bool] | None = None
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
        is_confirmed = not self.attempt.exception() and self.attempt.result()
        self.attempt = None
        if is_confirmed:
            log.info("%s: told %s", self.name, message([*self.telling.values()])[1].replace("\n", " | "))
            self.told_at.append(time.monotonic())
            self.pause = 0
            for place in self.telling:
                self.waiting.pop(place, None)
        else:
            self.pause = min(LONGEST_PAUSE_SECONDS, 2 * self.pause or 1)
            self.retry_at = time.monotonic() + self.pause
            log.warning("%s: not confirmed, next attempt in %d s; waiting=%d", self.name, self.pause, len(self.waiting))

    @property
    def is_stuck(self) -> bool:
        """Whether the last attempt has failed, or the current one is taking long."""
        return self.pause > 0 or (self.attempt is not None and time.monotonic() - self.started > STUCK_SECONDS)


def receivers_of(urls: Sequence[str], alerts_per_minute: int) -> list[Receiver]:
    """Return a receiver for each address; the log, if there is no address. Raises ConfigurationError."""
    if not urls:
        return [Receiver("this log (no ALERT_URLS)", lambda subject, body: True, alerts_per_minute)]
    found = []
    for number, url in enumerate(urls, 1):
        service = Apprise.instantiate(url)
        if not service:
            raise ConfigurationError(
                f"ALERT_URLS: apprise does not take address {number} of {len(urls)}: give it one such as"
                " mailtos://user:password@example.org"
            )
        tell = partial(_tell, service)
        found.append(Receiver(f"receiver {number} ({service.schema})", tell, alerts_per_minute))
    return found


def _tell(service: NotifyBase, subject: str, body: str) -> bool:
    return service.notify(title=subject, body=body, body_format=NotifyFormat.TEXT)
