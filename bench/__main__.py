"""Measure the detector and its peers, and write docs/performance.md and tables of other pages."""

import argparse
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench import drain, failover, latency, report, scale, steps
from bench.candidates import Candidate, all_candidates, checkout
from bench.inputs import STREAMS
from bench.rounds import Row, save
from embedded import KAFKA_3, KAFKA_4, JarError, ServerError, jars
from embedded.pipeline import ROOT

RESULTS, PAGE = Path(__file__).with_name("results.json"), ROOT / "docs/performance.md"


def main() -> int:
    """Do what the command line says and return the exit code: 1 where something failed that is no candidate's fault."""
    arguments = _parse()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)  # leaves all blocks in order
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # what matters raises
    # A quick run says nothing about speed: it does not replace results, unless told where to put its own.
    results = arguments.results or (RESULTS if arguments.part == "report" or not arguments.quick else Path(os.devnull))
    try:
        if arguments.part == "report":
            report.write(results, arguments.page or PAGE)
            if not arguments.page:
                report.insert(steps.PAGE, steps.block(results))
                report.write_failover(results, ROOT / "docs/clusters.md")
            return 0
        jars.prepare()
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            os.environ["STATE_FOLDER"] = folder  # Quix and Kafka Streams want one, even where there is no state
            for section, (settings, rows) in _measure(arguments, Path(folder)):
                save(results, section, settings, rows)
                print(report.section(section, settings, rows))
    except (RuntimeError, JarError, ServerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _measure(arguments: argparse.Namespace, folder: Path) -> Iterator[tuple[str, tuple[Row, list[Row]]]]:
    # Yields the name of each section of the results, its settings and its rows.
    quick, part, records = arguments.quick, arguments.part, arguments.records
    rounds = arguments.rounds or (1 if quick or part == "failover" else 5)
    candidates = _candidates(arguments, folder)
    if part == "throughput":
        for name in arguments.stream or [name for name in STREAMS if name != "long"]:
            usually = 45_000 if quick else 2_000_000 if name == "long" else 400_000
            chosen = [c for c in candidates if arguments.only or name in ("usual", "long") or c.name in report.SHAPED]
            chosen += [c for c in candidates if c not in chosen and c.name.startswith("detector at ")]
            yield f"{part}-{name}", drain.measure(chosen, rounds, records or usually, name)
    elif part == "latency":
        seconds, rate, warm_up = (3, 200, 0) if quick else (30, 1000, 15)
        yield part, latency.measure(candidates, rounds, seconds, rate, warm_up)
    elif part == "failover":
        chosen = [c for c in candidates if arguments.only or c.name in report.SHAPED]
        for name, line in list(zip(report.FAILOVERS, (KAFKA_4, KAFKA_3), strict=True))[: 1 if quick else 2]:
            yield name, failover.measure(chosen, rounds, line, 1 if quick else 6)
    else:
        yield part, scale.measure(candidates[0], 2 if quick else 4, rounds, records or (30_000 if quick else 200_000))


def _candidates(arguments: argparse.Namespace, folder: Path) -> list[Candidate]:
    before = checkout(arguments.before, folder) if arguments.before else None
    candidates = all_candidates(download=not arguments.quick, before=before)
    names = arguments.only.lower().split(",")
    chosen = [candidate for candidate in candidates if any(name in candidate.name.lower() for name in names)]
    if not chosen:
        raise RuntimeError(f"no candidate has {arguments.only} in its name")
    return chosen


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("part", choices=["throughput", "latency", "scale", "failover", "report"])
    parser.add_argument("--quick", action="store_true", help="only see that all works: few records, one round")
    parser.add_argument("--rounds", type=int, help="how often each is measured (default: 5; failover: 1)")
    parser.add_argument("--records", type=int, help="records to drain; for scale, records of each partition")
    parser.add_argument("--stream", action="append", choices=STREAMS, help="throughput: one of the streams only")
    parser.add_argument("--only", default="", help="candidates whose names contain one of these: quix,streams")
    parser.add_argument("--before", metavar="COMMIT", help="measure the detector of this commit as well")
    parser.add_argument("--results", type=Path, help="where the results are (default: bench/results.json)")
    parser.add_argument("--page", type=Path, help="report: where to write it (default: docs/performance.md)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
