"""The engine: reads topics and writes topics, exactly once. It knows how records travel, not what is in them.

A service says what it reads, what it writes, and what follows from records, and `run` does the rest: see
docs/your-own-service.md. `Branching` is a job that sends each record, unchanged, to one of several topics.
"""

from exactly_once.branching import Branching, Decision
from exactly_once.decoding import Record, headers_of, key_of
from exactly_once.job import Input, Job, Out, Output, Portion
from exactly_once.loop import run

__all__ = ["Branching", "Decision", "Input", "Job", "Out", "Output", "Portion", "Record", "headers_of", "key_of", "run"]
