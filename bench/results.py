"""The file that holds every figure: what was measured, on what, each run's raw values and their medians."""

import json
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from kafka.errors import KafkaError

from bench.candidates import Candidate
from bench.measure import machine

Row = dict[str, Any]


def save(path: Path | None, section: str, settings: Row, rows: list[Row]) -> None:
    """Replace a section of the file; without a file, keep nothing."""
    if path is None:
        return
    results = json.loads(path.read_text()) if path.exists() else {}
    results[section] = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": machine(),
        "settings": settings,
        "rows": rows,
    }
    path.write_text(json.dumps(results, indent=1) + "\n")


def interleaved(
    candidates: list[Candidate], runs: int, measure: Callable[[Candidate], Row], line: Callable[[Row], str]
) -> list[Row]:
    """Measure each candidate once, then each once more, and so on (A B C A B C ...), and return a row for each.

    So what disturbs the machine for a while hits all alike. Raises nothing for a candidate that fails: that is its
    result.
    """
    measured: dict[str, list[Row]] = {candidate.name: [] for candidate in candidates}
    for run in range(1, runs + 1):
        for candidate in candidates:
            if candidate.missing:
                continue
            try:
                result = measure(candidate)
                text = line(result)
            except (RuntimeError, KafkaError) as error:
                result = {"error": str(error) if isinstance(error, RuntimeError) else f"the benchmark's own: {error!r}"}
                text = f"FAILED: {result['error']}"
            measured[candidate.name].append(result)
            print(f"[{run}/{runs}] {candidate.name:22} {text}", flush=True)
    return [row(candidate, measured[candidate.name]) for candidate in candidates]


def row(candidate: Candidate, runs: list[Row]) -> Row:
    """Return the row of a candidate: the medians of the runs that went well, or the reason why there is none."""
    good = [run for run in runs if "error" not in run]
    errors = [run["error"] for run in runs if "error" in run]
    return {
        "candidate": candidate.name,
        "version": candidate.version,
        "guarantee": candidate.guarantee,
        "runs": runs,
        # One wrong run spoils them all: a candidate that loses records now and then has no speed.
        "reason": candidate.missing or (errors[0] if errors else ""),
        "medians": medians(good) if good and not errors else {},
    }


def medians(runs: list[Row]) -> Row:
    """Return the median of each figure."""
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def table(header: Iterable[str], rows: Iterable[Iterable[str]], texts: int = 1) -> str:
    """Return a table in Markdown: so many columns of text, the others are figures and aligned to the right."""
    cells = [list(header), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in cells]
    rule = [":".rjust(width + 2, "-") if number >= texts else "-" * (width + 2) for number, width in enumerate(widths)]
    return "\n".join([lines[0], "|" + "|".join(rule) + "|", *lines[1:]])
