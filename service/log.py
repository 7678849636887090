"""A service's log, as text or as JSON, and the heartbeat for its container's health check."""

import logging
import os
import sys
from pathlib import Path

from service.json_log import write_objects

REPORT_SECONDS = 5
"""The time between two lines of counters, and between two heartbeats."""

MOST_CHARACTERS = 10_000
"""Of a line: a broker, or the environment, may have more to say."""

QUOTA_SECONDS = 300
"""How long no answer has been held back by a quota when the next one that is makes a line again."""
THROTTLED = "%s: %s throttled by broker (%d ms)"
"""The client's line."""
QUOTAS = {"ProduceResponse": "producer_byte_rate", "FetchResponse": "consumer_byte_rate"}

log = logging.getLogger("service")


class Lines(logging.Formatter):
    """Formats each message as one line: what a terminal would obey, or take for another line, is spelled out."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line, of bounded length."""
        text = super().formatMessage(record)[:MOST_CHARACTERS]
        return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


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


class Throttled(logging.Filter):
    """Lets the client's warnings of a quota pass, in our words, and each once per QUOTA_SECONDS."""

    def __init__(self) -> None:
        super().__init__()
        self.passed: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record goes to the log."""
        if record.msg != THROTTLED or not isinstance(record.args, tuple):
            return False
        _, response, milliseconds = record.args
        quota = QUOTAS.get(str(response), "request_percentage")
        is_news = record.created - self.passed.get(quota, 0) > QUOTA_SECONDS
        self.passed[quota] = record.created
        record.msg = "Kafka holds this user or client back by the quota %s, now for %d ms: raise it, or expect a lag"
        record.args = (quota, milliseconds)
        return is_news


def set_up_logging(service: str) -> None:
    """Log our lines and, of the client's, only what a quota holds back, and why Kafka rejects a batch."""
    logging.basicConfig(level=logging.CRITICAL)
    logging.root.handlers[0].setFormatter(Lines("%(asctime)s %(levelname)s %(message)s"))
    logging.captureWarnings(True)
    log.setLevel(logging.INFO)  # not the client's, which has a dozen lines for each attempt to connect
    choose_format(service)
    connection = logging.getLogger("kafka.net.connection")
    connection.setLevel(logging.WARNING)
    connection.addFilter(Throttled())
    sender = logging.getLogger("kafka.producer.sender")
    sender.setLevel(logging.WARNING)
    sender.addFilter(OnceInAWhile())


def choose_format(service: str) -> None:
    """Log text, or objects with LOG_FORMAT=json. Ends the process with exit code 2 if it asks for anything else."""
    wanted = os.environ.get("LOG_FORMAT") or "text"
    if wanted == "json":
        write_objects(service)
    elif wanted != "text":
        log.error("LOG_FORMAT is %r: give it text or json, or leave it out", wanted)
        sys.exit(2)


def touch(path: str) -> None:
    """Set the file's time to now, if there is one. A failure is logged, but does not stop the service."""
    try:
        if path:
            Path(path).touch()
    except OSError as error:
        log.warning("HEARTBEAT_FILE %s cannot be written: %s", path, error.strerror)
