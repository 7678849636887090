"""The corpus: values of every kind, and where each belongs.

A line of corpus.jsonl is a case. Its `value` is the record's as text, or null for none; `value_b64` has it as base64 if
it is not UTF-8, or has characters that an editor would not show, or show as others: control characters beyond tabs and
ends of lines (which JSON escapes), marks without width, what Unicode normalises.
"""

import base64
import json
from pathlib import Path
from typing import NamedTuple


class Case(NamedTuple):
    """A value, and where it belongs."""

    name: str
    value: bytes | None
    expected: str
    """The route: legit, fraud or dead_letter."""
    why: str


def case_of(name: str, expected: str, why: str, value: str | None = None, value_b64: str | None = None) -> Case:
    """Return the case of a line with these members."""
    text = None if value is None else value.encode()
    return Case(name, text if value_b64 is None else base64.b64decode(value_b64, validate=True), expected, why)


LINES = Path(__file__).with_name("corpus.jsonl").read_text("utf-8").split("\n")
CORPUS = [case_of(**json.loads(line)) for line in LINES if line]
