"""Fraud detector: reads transactions and branches them into legit, fraud and dead letter, exactly once."""

from detector.rule import DEAD_LETTER, FRAUD, LEGIT, MEMBERS, decide, decide_usual
from exactly_once import Branching, run
from service.settings import Environment


def branching(environment: Environment) -> Branching:
    """Return what is read, what decides, and where it goes. Raises ConfigurationError."""
    return Branching(
        source=environment.topic("TRANSACTIONS_TOPIC", "queueing.transactions"),
        routes={
            LEGIT: environment.topic("LEGIT_TOPIC", "streaming.transactions.legit"),
            FRAUD: environment.topic("FRAUD_TOPIC", "streaming.transactions.fraud"),
            DEAD_LETTER: environment.topic("DEAD_LETTER_TOPIC", "streaming.transactions.dead-letter"),
        },
        dead_letter=DEAD_LETTER,
        decide=decide,
        members=MEMBERS,
        decide_usual=decide_usual,
    )


if __name__ == "__main__":
    run("detector", branching, group="fraud-detector")
