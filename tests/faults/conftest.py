"""How many rounds, with which seed, and where the verdicts go."""

from collections.abc import Iterator
from dataclasses import asdict

import pytest

from faults.table import ROUNDS, SEED
from faults.trial import Audit, Verdict


@pytest.fixture
def seed() -> int:
    """Where the random moments come from."""
    return SEED


@pytest.fixture
def rounds() -> int:
    """How often each fault is inflicted."""
    return ROUNDS


@pytest.fixture
def verdicts(request: pytest.FixtureRequest) -> Iterator[list[Verdict]]:
    """Where a test adds its verdict for the table."""
    found: list[Verdict] = []
    yield found
    request.node.user_properties += [("verdict", asdict(verdict)) for verdict in found]


@pytest.fixture
def audits(request: pytest.FixtureRequest) -> Iterator[list[Audit]]:
    """Where a test of the smurfing detector adds its audit for the table."""
    found: list[Audit] = []
    yield found
    request.node.user_properties += [("audit", asdict(audit)) for audit in found]
