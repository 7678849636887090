"""Signals, for graceful shutdown."""

import signal


class Signals:
    """SIGTERM and SIGINT set a flag that the loop checks."""

    def __init__(self) -> None:
        self.stopping = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def _stop(self, *_: object) -> None:
        self.stopping = True
