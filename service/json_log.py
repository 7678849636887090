"""The log as JSON: an object in each line, whatever is logged."""

import json
import logging
import math
import re
import sys
import threading
from datetime import UTC, datetime

PLACE = re.compile(r"(?:(\w+)=)?%[-+ #0]*[0-9]*(?:\.[0-9]+)?[a-zA-Z]")
"""A place in a message for a value, and the name before it if there is one."""


class Objects(logging.Formatter):
    """Formats each message as an object in a line. What stands in it as `name=%d` is a member of its own, too.

    The names are those of our code, never of what a message quotes.
    """

    def __init__(self, service: str) -> None:
        super().__init__()
        self.service = service

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, all of it ASCII."""
        members: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "service": self.service,
            "message": record.getMessage(),
        }
        if record.exc_info:
            members["exception"] = self.formatException(record.exc_info)
        values = record.args if isinstance(record.args, tuple) else ()
        for name, value in zip(PLACE.findall(str(record.msg).replace("%%", "")), values, strict=False):
            is_number = isinstance(value, (int, float)) and math.isfinite(value)
            if name:
                members.setdefault(name, value if is_number else str(value))
        return json.dumps(members)


def write_objects(service: str) -> None:
    """Have the log write objects, and all that would be written beside it go there."""
    logging.root.handlers[0].setFormatter(Objects(service))
    what = "An error in the code"
    sys.excepthook = lambda *error: logging.critical(what, exc_info=error)
    threading.excepthook = lambda error: logging.critical(what, exc_info=error.exc_value)
    sys.unraisablehook = lambda error: logging.critical(what, exc_info=error.exc_value)
