"""The programs of docs/steps in the detector's place: STEP=3 puts the third of them through the fault suite."""

import json
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from embedded.pipeline import ROOT

if TYPE_CHECKING:
    from faults.trial import Verdict

STEP = int(os.environ.get("STEP") or 0)
"""Which of them; 0 is the detector."""
PARTITIONS = 1 if STEP == 1 else 3
"""Of the topics in a trial. The tutorial's loop lets the client choose; the trial looks a record up in its own."""
PROMISES_EXACTLY_ONCE = STEP not in (1, 2)
"""Whether nothing may be lost or doubled. Of the first two steps, the table says how much is."""
RESULTS = ROOT / "docs/steps/faults.json"
"""What became of each step; `python -m bench report` makes a table of it."""


def command(step: int) -> tuple[str, ...]:
    """Return how a step is started in the repository's root."""
    (file,) = (ROOT / "docs/steps").glob(f"step{step}_*.py")
    return (sys.executable, "-m", f"docs.steps.{file.stem}")


def save(verdicts: Iterable["Verdict"]) -> None:
    """Put what became of a step, under each fault, into the file."""
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for verdict in verdicts:
        fault, _, parameters = verdict.fault.rstrip("]").partition("[")
        fault = " ".join([fault, *(name for name in parameters.split("-") if name not in ("", "kafka4"))])
        found = {name: count for name, count in asdict(verdict).items() if name not in ("fault", "recoveries")}
        results.setdefault(fault, {})[str(STEP)] = {"date": time.strftime("%Y-%m-%d", time.gmtime())} | found
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
