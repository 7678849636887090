"""Signals: graceful shutdown, and the watchdog that ends a process that hangs."""

import logging
import os
import signal
import traceback
from types import FrameType

log = logging.getLogger("detector")


class Signals:
    """SIGTERM and SIGINT set a flag that the loop checks. SIGALRM, from the watchdog, ends a process that hangs."""

    def __init__(self) -> None:
        self.stopping = False
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        signal.signal(signal.SIGALRM, self._end)

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        self.stopping = True

    def _end(self, signum: int, frame: FrameType | None) -> None:
        calls = " > ".join(call.name for call in traceback.extract_stack(frame))
        log.error("Kafka has not answered for too long, ending; a restart continues. It hung in %s", calls)
        os._exit(0 if self.stopping else 1)
