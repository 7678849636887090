"""What a random transaction looks like."""

import json
import random
import re

from generator.transactions import create_random_transaction

COUNT = 20_000


def amounts(seed: int = 1) -> list[float]:
    """Return the amounts of many transactions; the seed makes them the same in each run."""
    random.seed(seed)
    return [create_random_transaction()["amount"] for _ in range(COUNT)]


def test_it_has_the_members_of_the_tutorial_in_their_order() -> None:
    """As JSON it reads as in the tutorial: source, target, amount, currency."""
    assert re.fullmatch(
        r'\{"source": "[0-9a-zA-Z]{12}", "target": "[0-9a-zA-Z]{12}", "amount": \d+\.\d{1,2}, "currency": "EUR"\}',
        json.dumps(create_random_transaction()),
    )


def test_amounts_are_whole_cents_from_1_to_1000() -> None:
    """No amount is outside 1.00 to 1000.00, and none has a fraction of a cent."""
    for amount in amounts():
        assert 1 <= amount <= 1000
        assert amount == round(amount, 2)


def test_both_ends_are_reached() -> None:
    """1.00 and 1000.00 are possible amounts: the smallest and the largest draw give them."""
    cents = {round(amount * 100) for seed in range(40) for amount in amounts(seed)}
    assert min(cents) == 100
    assert max(cents) == 100_000


def test_amounts_are_uniform() -> None:
    """A Kolmogorov-Smirnov test against the uniform distribution does not reject it at the level of 0.1 %."""
    drawn = sorted(amounts())
    distance = max(
        max(abs((i + 1) / COUNT - (x - 0.99) / 999.01), abs(i / COUNT - (x - 1.0) / 999.01))
        for i, x in enumerate(drawn)
    )
    assert distance < 1.95 / COUNT**0.5


def test_a_tenth_is_900_or_more() -> None:
    """10.01 % of all transactions are fraud, within four standard deviations."""
    share = sum(amount >= 900 for amount in amounts()) / COUNT
    assert abs(share - 10_001 / 99_901) < 4 * (0.1 * 0.9 / COUNT) ** 0.5


def test_accounts_differ() -> None:
    """Accounts are drawn at random: among many transactions none comes twice."""
    accounts = [account for _ in range(1000) for account in list(create_random_transaction().values())[:2]]
    assert len(set(accounts)) == len(accounts)
