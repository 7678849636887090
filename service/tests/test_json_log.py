"""The log as objects: what is a member, and that nothing breaks a line."""

import json
import logging
import os
import subprocess
import sys

import pytest

from service.json_log import Objects
from service.log import Lines

FORGED = 'x level=CRITICAL rate=9\n{"time": 0}\r\x1b[2J \ud800 "'


def test_text_breaks_no_line_either() -> None:
    """What a terminal would obey is spelled out, and a line has an end."""
    line = Lines("%(levelname)s %(message)s")
    record = logging.LogRecord(
        "service", logging.ERROR, "", 0, "Kafka says %s", ("é\n\x1b[2J\x9b\u202e" + "x" * 99_999,), None
    )
    assert line.format(record).startswith("ERROR Kafka says é\\n\\x1b[2J\\x9b\\u202exxx")
    assert line.format(record).isprintable()
    assert len(line.format(record)) < 10_100


def members(message: str, *values: object) -> dict[str, object]:
    """Return what becomes of a warning."""
    line = Objects("detector").format(logging.LogRecord("service", logging.WARNING, "", 0, message, values, None))
    assert line.isascii()
    assert line.isprintable()
    found = json.loads(line)
    assert list(found)[:4] == ["time", "level", "service", "message"]
    assert (found["level"], found["service"]) == ("WARNING", "detector")
    assert found["message"] == message % values
    return {name: value for name, value in found.items() if name not in ("time", "level", "service", "message")}


def test_figures_are_numbers() -> None:
    """What a message names is a member, without the unit; what is no number in JSON is text."""
    assert members("rate=%.1f/s legit=%d lag=%s", 12.34, 5, "unknown") == {"rate": 12.34, "legit": 5, "lag": "unknown"}
    assert members("%s[%d]: 5 %% of it; waiting=%d", "topic", 3, 7) == {"waiting": 7}
    assert members("target=%s", float("inf")) == {"target": "inf"}


@pytest.mark.parametrize("message", ["passed over %s", "%r", "level=%s"])
def test_nothing_is_forged(message: str) -> None:
    """What a message quotes is in the message alone, and is no second line."""
    assert members(message, FORGED) == {}


CRASH = """
import threading
from service.log import set_up_logging
set_up_logging("x")
threading.Thread(target=lambda: 1 / 0).start()
1 / 0
"""


def test_a_traceback_is_in_a_line() -> None:
    """Also that of an error which nothing catches, in any thread."""
    environ = os.environ | {"LOG_FORMAT": "json"}
    ended = subprocess.run([sys.executable, "-c", CRASH], env=environ, capture_output=True, text=True)
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert ["ZeroDivisionError" in line["exception"] for line in lines] == [True, True]
    assert ended.returncode == 1
