"""From a sample to its form: a pattern that fits the records that a producer writes like this one.

Names, spacing and the order of members and headers stay as they are in the sample. A scalar becomes the pattern of any
scalar, or for a member that the rule looks at, the rule's own; a key or a header's value becomes any bytes of about its
length. A pattern may fit less than the decoder and the rule would take, never more.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from exactly_once.decoding import Record, headers_of
from exactly_once.varints import VARINT, VARINT_FORM, read_varint

MOST_SAMPLE_BYTES, MOST_SCALARS, MOST_HEADERS = 4096, 40, 10
MOST_FIELD_BYTES = 255  # of the key, and of each header's value
"""What is learned is not larger. So it takes a few milliseconds at most to compile a pattern."""

SPREAD = 8
"""How much longer or shorter than the sample's a key or a header's value may be."""

STRING = rb'"[^"\\\x00-\x1f]*+(?:"|(?:\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4})[^"\\\x00-\x1f]*+)++")'
"""The pattern of a string in JSON, provided that it is UTF-8. Most have no escapes: the rest costs them nothing. It is
possessive (`*+`), like all patterns here: what has matched is not tried in another way."""

NUMBER_FORM = rb"-?(?:0|[1-9][0-9]{0,18}+)(?:\.[0-9]{1,30}+)?+(?:[Ee][-+]?[0-9]{1,4}+)?+"
SCALAR = rb"(?:%b|%b|true|false|null)" % (STRING, NUMBER_FORM)
"""The pattern of a member that decides nothing: its kind may change from record to record."""

TOKEN = re.compile(
    rb'"(?P<name>[^"\\]*)"\s*:|(?P<scalar>"(?:[^"\\]|\\.)*"|[-0-9][-+.0-9Ee]*|true|false|null)|[{},]|\s+', re.DOTALL
)
"""What the value of a sample is made of, which is valid JSON. An array is none of it, nor a name with an escape."""


class Form(NamedTuple):
    """The pattern of a record's content: its groups are the value's length, the value, and those of members."""

    pattern: bytes
    members: list[str]
    """The members in the order of their groups."""


def form_of(sample: Record, members: Mapping[str, bytes]) -> Form | None:
    """Return the form of a record that the rule has accepted; None if it is too large, or has what is not learned."""
    headers = headers_of(sample, MOST_HEADERS + 1)
    key_length, at = read_varint(sample.content, 0)
    key = bytes(sample.content[at : at + key_length]) if key_length >= 0 else None
    longest = max(len(data or b"") for data in (key, *(value for _, value in headers)))
    if len(sample.content) > MOST_SAMPLE_BYTES or len(headers) > MOST_HEADERS or longest > MOST_FIELD_BYTES:
        return None
    found = _value(bytes(sample.value or b""), members)
    if not found:
        return None
    parts = [_field(key) if key is not None else VARINT[-1], b"(%b)(%b)" % (VARINT_FORM % 2, found.pattern)]
    parts.append(re.escape(VARINT[len(headers)]))
    parts += (re.escape(VARINT[len(name)] + name) + _field(value) for name, value in headers)
    return Form(b"".join(parts), found.members)


def _value(value: bytes, members: Mapping[str, bytes]) -> Form | None:
    # Returns the pattern of a JSON object, if it has all of these members, each once.
    parts, names, name, depth, at, scalars = [], [], "", 0, 0, 0
    for token in TOKEN.finditer(value):
        text, kind = token[0], token.lastgroup
        at += len(text)
        depth += (text == b"{") - (text == b"}")
        if kind == "name":
            name = str(token["name"], "utf-8")
        if kind == "scalar":
            scalars += 1
            is_looked_at = depth == 1 and name in members
            names += [name] * is_looked_at
            parts.append(members[name] if is_looked_at else SCALAR)
        else:
            parts.append(re.escape(text))
    is_all = at == len(value)  # what is no token, such as an array, has been passed over
    if not is_all or sorted(names) != sorted(members) or scalars > MOST_SCALARS:
        return None
    return Form(b"".join(parts), [name for name in names if re.compile(members[name]).groups])


def _field(data: bytes | None) -> bytes:
    # Returns the pattern of a key or a header's value after its length: about as long as this one, or null. The
    # likeliest come first.
    size = len(data or b"")
    sizes = sorted(range(max(0, size - SPREAD), size + SPREAD + 1), key=lambda other: abs(other - size))
    fields = [re.escape(VARINT[size]) + b".{%d}" % size for size in sizes]
    fields.insert(0 if data is None else 1, VARINT[-1])
    return b"(?:%b)" % b"|".join(fields)
