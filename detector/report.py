"""What the detector says about itself: a line of counters every few seconds, and a heartbeat."""

import logging
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from progress import Progress

REPORT_SECONDS = 5

log = logging.getLogger("detector")


class Report:
    """Counts records, writes the line, and touches the heartbeat file for the container's health check."""

    def __init__(self, heartbeat_file: str, progress: Progress, names: Sequence[str]) -> None:
        self.heartbeat_file, self.progress, self.names = heartbeat_file, progress, names
        self.counts: Counter[str] = Counter()
        self.time, self.total_before = time.monotonic(), 0

    def tick(self, is_last: bool = False) -> None:
        """Write the line every REPORT_SECONDS, and the heartbeat if there is progress or nothing to do."""
        elapsed, total = time.monotonic() - self.time, self.counts.total()
        if elapsed < REPORT_SECONDS and not is_last:
            return
        rate = (total - self.total_before) / elapsed
        counts = " ".join(f"{name}={self.counts[name]}" for name in self.names)
        is_well = not is_last and self.progress.check()
        log.info("rate=%.0f/s %s lag=%s", rate, counts, self.progress.lag)
        self.time, self.total_before = time.monotonic(), total
        if is_well and self.heartbeat_file:
            touch(self.heartbeat_file)


def touch(path: str) -> None:
    """Set the file's time to now. A failure is logged, but does not stop the service."""
    try:
        Path(path).touch()
    except OSError as error:
        log.warning("HEARTBEAT_FILE %s cannot be written: %s", path, error.strerror)


class OnceInAWhile(logging.Filter):
    """Lets each warning pass once per REPORT_SECONDS. Drops errors: they are raised as well, and logged then."""

    def __init__(self) -> None:
        super().__init__()
        self.passed: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record goes to the log."""
        if record.levelno > logging.WARNING or record.created - self.passed.get(record.msg, 0) < REPORT_SECONDS:
            return False
        self.passed[record.msg] = record.created
        return True


def set_up_logging() -> None:
    """Log our lines and, of the client's, only why Kafka rejects a batch, which it repeats on every attempt."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # otherwise a dozen lines per connection attempt
    sender = logging.getLogger("kafka.producer.sender")
    sender.setLevel(logging.WARNING)
    sender.addFilter(OnceInAWhile())
