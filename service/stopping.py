"""Stopping: a signal ends a service in order, and a deadline ends one that hangs."""

import os
import signal
import traceback
from threading import Thread
from types import FrameType

from service.log import log

LOG_SECONDS = 1
"""How long the last line may take."""


class Stopping:
    """SIGTERM and SIGINT set a flag that a service's loop checks. SIGALRM, from a deadline, ends the process."""

    def __init__(self) -> None:
        self.is_set = False
        self.seconds = 0.0
        self.exit_code = 1
        """That of a process that hangs."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        signal.signal(signal.SIGALRM, self._end)

    def rearm(self, seconds: float | None = None) -> None:
        """Give the process so many seconds until the next call, or as many as the last time; 0 is for ever."""
        self.seconds = self.seconds if seconds is None else seconds
        signal.setitimer(signal.ITIMER_REAL, self.seconds)

    def finish(self, exit_code: int, seconds: float) -> None:
        """Give the process so many seconds to end. The exit code is this, even if it hangs, or another signal comes."""
        self.exit_code = exit_code
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        self.rearm(seconds)

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        self.is_set, self.exit_code = True, 0

    def _end(self, signum: int, frame: FrameType | None) -> None:
        calls = " > ".join(call.name for call in traceback.extract_stack(frame))
        line = "Kafka has not answered for too long, ending; a restart continues. It hung in %s"
        # In a thread, as it may hang in the log itself, if nobody reads that.
        (said := Thread(target=log.error, args=(line, calls), daemon=True)).start()
        said.join(LOG_SECONDS)
        os._exit(self.exit_code)
