"""Our detector with a mended rule: an amount may be a text."""

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from detector import rule
from detector.app import branching
from exactly_once import run

parse = rule.parse


def parse_texts(value: bytes | memoryview | None) -> dict[str, Any]:
    """Return the transaction, whose amount may be in quotes."""
    return parse(value and re.sub(rb'"amount": "(\d+)"', rb'"amount": \1', bytes(value)))


rule.parse = parse_texts
run("detector", branching, group="fraud-detector")
