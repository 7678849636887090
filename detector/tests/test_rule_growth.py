"""The rule's time and memory grow with a value as its size does, whatever it is made of.

Each shape is measured at two sizes: what is linear takes about as many times more as the value is larger, what is
quadratic that many times again. So no clock decides, and no figure of one machine.
"""

import gc
import time
import tracemalloc
from collections.abc import Callable

import pytest

from detector.rule import DEAD_LETTER, FRAUD, LEGIT, MAX_DIGITS, decide

pytestmark = pytest.mark.long

REST = b'"source": "alice", "target": "bob", "amount": 10, "currency": "EUR"}'
ASTRAL = "\N{GRINNING FACE}".encode()  # one of these, and Python takes four bytes for each character of the text


def usual(account: bytes = b"alice", amount: bytes = b"10", end: bytes = b"}") -> bytes:
    """Return a value of the usual form, or nearly."""
    return b'{"source": "%b", "target": "bob", "amount": %b, "currency": "EUR"%b' % (account, amount, end)


def note(text: bytes) -> bytes:
    """Return a transaction with one more member, a string."""
    return b'{"note": "%b", %b' % (text, REST)


def array(item: bytes, size: int) -> bytes:
    """Return an array of so many bytes."""
    return b"[%b0]" % (item * (size // len(item)))


def nested(begin: bytes, end: bytes, size: int) -> bytes:
    """Return arrays or objects as deep within each other as is allowed, and that again and again."""
    depth = 500
    return array(begin * depth + b"0" + end * depth + b",", size)


Shape = Callable[[int], bytes]

TEXT: dict[str, tuple[Shape, str]] = {
    "usual form": (lambda n: usual(b"a" * n), LEGIT),
    "usual form until the end": (lambda n: usual(b"a" * n, end=b""), DEAD_LETTER),
    "usual form, long amount": (lambda n: usual(amount=b"900." + b"1" * n), FRAUD),
    "long text": (lambda n: note(b"x" * n), LEGIT),
    "one escape": (lambda n: note(b"x" * n + b"\\n"), LEGIT),
    "escapes alone": (lambda n: note(b"\\n" * (n // 2)), LEGIT),
    "escapes between": (lambda n: note(b"x\\n" * (n // 3)), LEGIT),
    "characters as escapes": (lambda n: note(b"\\u00e9" * (n // 6)), LEGIT),
    "pairs of surrogates": (lambda n: note(b"\\ud83d\\ude00" * (n // 12)), LEGIT),
    "not ASCII": (lambda n: note("é".encode() * (n // 2)), LEGIT),
    "astral": (lambda n: note(ASTRAL * (n // 4)), LEGIT),
    "one astral and an escape": (lambda n: note(b"x" * n + b"\\n" + ASTRAL), LEGIT),
    "long integer": (lambda n: usual(amount=b"9" * n), DEAD_LETTER),
    "long exponent": (lambda n: usual(amount=b"1e" + b"9" * n), DEAD_LETTER),
    "white space before": (lambda n: b" " * n + usual(), LEGIT),
    "white space within": (lambda n: b"{" + b"\n" * n + REST, LEGIT),
    "white space behind": (lambda n: usual() + b"\t" * n, LEGIT),
    "deep": (lambda n: b"[" * n, DEAD_LETTER),
    "not UTF-8 at the end": (lambda n: note(b"x" * n + b"\xff"), DEAD_LETTER),
    "no end of the string": (lambda n: b'{"note": "' + b"x" * n, DEAD_LETTER),
    "backslashes without end": (lambda n: b'{"note": "' + b"\\" * n, DEAD_LETTER),
    "quotes": (lambda n: b'"' * n, DEAD_LETTER),
}
"""Shapes that make few objects, so that large ones can be afforded; and where they belong."""

OBJECTS: dict[str, tuple[Shape, str]] = {
    "members": (lambda n: b"{%b%b" % (b"".join(b'"%07x":1,' % i for i in range(n // 12)), REST), LEGIT),
    "members with arrays": (lambda n: b"{%b%b" % (b"".join(b'"%07x":[],' % i for i in range(n // 13)), REST), LEGIT),
    "the same name again": (lambda n: b"{%b%b" % (b'"a":1,' * (n // 6), REST), DEAD_LETTER),
    "small arrays": (lambda n: b'{"note": %b, %b' % (array(b"[],", n), REST), LEGIT),
    "small objects": (lambda n: array(b'{"":0},', n), DEAD_LETTER),
    "small strings": (lambda n: array(b'"ab",', n), DEAD_LETTER),
    "small integers": (lambda n: array(b"1,", n), DEAD_LETTER),
    "fractions": (lambda n: array(b"1.5,", n), DEAD_LETTER),
    "integers as long as allowed": (lambda n: array(b"9" * MAX_DIGITS + b",", n), DEAD_LETTER),
    "arrays in arrays": (lambda n: nested(b"[", b"]", n), DEAD_LETTER),
    "objects in objects": (lambda n: nested(b'{"":', b"}", n), DEAD_LETTER),
}
"""Shapes that make many objects."""

CASES = [
    *[pytest.param(*case, 10_000, 1_000_000, id=f"{name}, 10 kB to 1 MB") for name, case in TEXT.items()],
    # Not smaller, as Python keeps some hundred kB of small objects at hand.
    *[pytest.param(*case, 100_000, 1_000_000, id=f"{name}, 100 kB to 1 MB") for name, case in OBJECTS.items()],
]


def seconds(value: bytes, times: int) -> float:
    """Return the processor's time for a decision: the best of several, as another process can only add to it.

    Without the collector of cycles, which goes through all that lives whenever much has been made.
    """
    best = float("inf")
    gc.disable()
    for _ in range(times):
        started = time.process_time()
        decide(memoryview(value))
        best = min(best, time.process_time() - started)
    gc.enable()
    return best


def peak_bytes(value: bytes) -> int:
    """Return the memory that a decision takes at its peak."""
    tracemalloc.start()
    decide(memoryview(value))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize(("shape", "route", "small_size", "large_size"), CASES)
def test_growth_is_linear(shape: Shape, route: str, small_size: int, large_size: int) -> None:
    """A value so many times larger takes at most about so many times more memory and time, and goes the same way."""
    gc.collect()
    small, large = shape(small_size), shape(large_size)
    assert decide(memoryview(small)).route == decide(memoryview(large)).route == route
    growth = len(large) / len(small)
    assert peak_bytes(large) < 2 * growth * peak_bytes(small) + 100_000
    # Where there is hardly more to do than to copy the value, it takes long once it does not fit the processor's cache.
    copying_seconds = 3e-9 * len(small)
    assert seconds(large, 3) < 10 * growth * max(seconds(small, 20), copying_seconds)


def test_memory_is_bounded_by_the_size() -> None:
    """No shape takes more than the rule says: most take arrays in arrays, with one astral character."""
    value = b'["%b",%b]' % (ASTRAL, nested(b"[", b"]", 1_000_000))
    assert peak_bytes(value) < 60 * len(value)
    for shape, _ in (TEXT | OBJECTS).values():
        value = shape(100_000)
        assert peak_bytes(value) < 60 * len(value)
