"""Fraud detector: reads transactions and branches them into legit, fraud and dead letter, exactly once."""

from detector.rule import DEAD_LETTER, FRAUD, LEGIT, MEMBERS, decide, decide_usual
from exactly_once import Branching, run
from service.settings import Environment

TOPICS = {
    LEGIT: ("LEGIT_TOPIC", "streaming.transactions.legit"),
    FRAUD: ("FRAUD_TOPIC", "streaming.transactions.fraud"),
    DEAD_LETTER: ("DEAD_LETTER_TOPIC", "streaming.transactions.dead-letter"),
}
"""Per route, the variable that names its topic, and the topic's name in Compose."""


def branching(environment: Environment) -> Branching:
    """Return what is read, what decides, and where it goes. Raises ConfigurationError."""
    return Branching(
        source=environment.topic("TRANSACTIONS_TOPIC", "queueing.transactions"),
        routes={route: environment.topic(*topic) for route, topic in TOPICS.items()},
        dead_letter=DEAD_LETTER,
        decide=decide,
        members=MEMBERS,
        decide_usual=decide_usual,
    )


if __name__ == "__main__":
    run("detector", branching, group="fraud-detector")
