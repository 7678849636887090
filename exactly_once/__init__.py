"""The engine: reads topics and writes topics, exactly once. It knows how records travel, not what is in them.

A service says what it reads, what it writes, and what follows from records; `run` does the rest:

    class Example(Job):
        inputs, outputs, counted = [Input("in")], [Output("out")], ["records"]

        def process(self, portion, out):
            for source, record in portion.records():
                out.write("out", source, record, value=b"...")
                out.counts["records"] += 1

    run("example", lambda environment: Example(), group="example")

docs/your-own-service.md has one that runs. `Branching` is a job, too: it sends each record, unchanged, to one of
several topics.
"""

from exactly_once.branching import Branching, Decision
from exactly_once.decoding import Record
from exactly_once.job import Input, Job, Out, Output, Portion
from exactly_once.loop import run

__all__ = ["Branching", "Decision", "Input", "Job", "Out", "Output", "Portion", "Record", "run"]
