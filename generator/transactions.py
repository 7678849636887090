"""Random transactions."""

from random import choice, choices
from string import ascii_letters, digits

ACCOUNT_CHARS = digits + ascii_letters
CENTS = range(100, 100_001)
"""All amounts that there are, in cents."""


def _random_account_id() -> str:
    """Return a random account number made of 12 characters."""
    return "".join(choices(ACCOUNT_CHARS, k=12))


def _random_amount() -> float:
    """Return a random amount between 1.00 and 1000.00; each cent is equally likely."""
    return choice(CENTS) / 100


def create_random_transaction() -> dict[str, str | float]:
    """Create a fake, randomised transaction."""
    return {
        "source": _random_account_id(),
        "target": _random_account_id(),
        "amount": _random_amount(),
        # Keep it simple: it's all euros
        "currency": "EUR",
    }
