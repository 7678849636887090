"""Rounds, in which each candidate has its turn, and the file that holds the figures."""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kafka.errors import KafkaError

from bench.candidates import Candidate
from bench.machine import describe
from embedded import KAFKA_4
from embedded.service import ServiceError

Row = dict[str, Any]
Figures = dict[str, float]

FAILURES = (RuntimeError, TimeoutError, KafkaError, ServiceError)
"""What can go wrong with a candidate. It is a result, and stops nothing."""


def in_turns(candidates: Sequence[Candidate], rounds: int, measure: Callable[[Candidate], Figures]) -> list[Row]:
    """Measure each candidate once, then each once more, and so on (A B C A B C ...), and return a row for each.

    A row has medians, or the reason why there are none: who loses records in one round has no speed.
    """
    measured: dict[str, list[Figures]] = {candidate.name: [] for candidate in candidates}
    reasons = {candidate.name: candidate.missing for candidate in candidates}
    for number in range(1, rounds + 1):
        for candidate in [candidate for candidate in candidates if not reasons[candidate.name]]:
            try:
                figures = measure(candidate)
                measured[candidate.name].append(figures)
                text = "  ".join(f"{name}={figure:,.1f}" for name, figure in figures.items())
            except FAILURES as error:
                reasons[candidate.name] = text = str(error) or repr(error)
            print(f"[{number}/{rounds}] {candidate.name:22} {text}", flush=True)
    return [_row(candidate, reasons[candidate.name], measured[candidate.name]) for candidate in candidates]


def _row(candidate: Candidate, reason: str, rounds: list[Figures]) -> Row:
    names = [] if reason else list(rounds[0])
    medians = {name: float(f"{statistics.median(figures[name] for figures in rounds):.4g}") for name in names}
    who = {"candidate": candidate.name, "version": candidate.version, "guarantee": candidate.guarantee}
    return who | {"reason": reason, "medians": medians}


def save(path: Path, section: str, settings: Row, rows: list[Row]) -> None:
    """Replace a section of the file."""
    results = json.loads(path.read_text() or "{}") if path.exists() else {}
    machine = describe(settings.get("kafka", KAFKA_4.version))
    about = {"date": time.strftime("%Y-%m-%d", time.gmtime()), "machine": machine, "settings": settings}
    results[section] = about | {"rows": rows}
    path.write_text(json.dumps(results, indent=1) + "\n")
