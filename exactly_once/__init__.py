"""The engine: reads topics and writes topics, exactly once. It knows how records travel, not what is in them.

A service says what it reads, what it writes, and what follows from records; `run` does the rest:

    class Example:
        inputs = [Input("in")]
        outputs = [Output("out")]

        def assigned(self, committed): ...

        def process(self, portion, out):
            for source, record in portion.records():
                out.write("out", source, record, key=None, value=b"...")

    run("example", lambda environment: Example())

`Branching` is such a job: it sends each record, unchanged, to one of several topics.
"""

from exactly_once.branching import Branching, Decision
from exactly_once.decoding import Record
from exactly_once.job import Input, Job, Out, Output, Portion
from exactly_once.loop import run

__all__ = ["Branching", "Decision", "Input", "Job", "Out", "Output", "Portion", "Record", "run"]
