"""The last words: one line for whatever is raised, without what was in a record."""

from collections.abc import Callable

import pytest
from kafka.errors import KafkaError, ProducerFencedError

from exactly_once import Branching, Decision
from exactly_once.member import Member, explain
from service.settings import Environment

ENVIRONMENT = Environment({"KAFKA_BROKER_URL": "localhost:1", "TRANSACTIONAL_ID": "this-one"})
PROCESS = (
    Member.from_env(ENVIRONMENT, "group"),
    Branching(
        source="in", routes={}, dead_letter="", decide=lambda _: Decision(""), members={}, decide_usual=lambda _: []
    ),
)


@pytest.mark.parametrize("fail", [lambda: b"secret\xff".decode(), lambda: int("secret"), lambda: {}["secret"]])
def test_an_unexpected_error_is_told_by_its_place(fail: Callable[[], object]) -> None:
    """Its own text may quote a record, so it is left out."""
    with pytest.raises((ValueError, KeyError)) as raised:
        fail()
    line = explain(raised.value, *PROCESS)
    assert line.startswith(f"an unexpected {raised.type.__name__} in ")
    assert "test_member.py:" in line
    assert "secret" not in line


def test_what_the_detector_raises_itself_is_said_as_it_is() -> None:
    """Without the name of a class in front, and in one line."""
    assert explain(KafkaError("in[0]: too\nlarge"), *PROCESS) == "in[0]: too large"


@pytest.mark.parametrize("error", [ProducerFencedError("1"), KafkaError("in an error state: ProducerFencedError")])
def test_a_broker_error_is_known_within_another(error: KafkaError) -> None:
    """The client wraps some."""
    assert "another instance has the same TRANSACTIONAL_ID (this-one)" in explain(error, *PROCESS)
