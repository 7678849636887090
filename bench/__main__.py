"""Measure the detector, its peers and the generator, and write the README's section about it."""

import argparse
import logging
import signal
import sys
from pathlib import Path

from bench import generator, latency, report, results, scale, throughput
from bench.candidates import Candidate, all_candidates, detector
from bench.results import Row
from bench.topics import ROOT
from embedded import JarError, ServerError, jars

RESULTS = Path(__file__).with_name("results.json")


def main() -> int:
    """Do what the command line says and return the exit code: 1 where something failed that is no candidate's fault."""
    arguments = _parse()
    # Whatever ends the benchmark, the blocks that stop its processes are left in order.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # what matters raises
    # A quick run says nothing about speed: it does not replace results, unless told where to put its own.
    path = arguments.results or (None if arguments.quick and arguments.command != "report" else RESULTS)
    try:
        if arguments.command == "report":
            report.write(path or RESULTS, arguments.readme, arguments.docs)
            return 0
        jars.prepare()
        settings, rows = _measure(arguments)
        results.save(path, arguments.command, settings, rows)
        print(report.section({arguments.command: {"settings": settings, "rows": rows}}))
    except (RuntimeError, JarError, ServerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _measure(arguments: argparse.Namespace) -> tuple[Row, list[Row]]:
    quick, pypy = arguments.quick, arguments.pypy
    runs = arguments.runs or (1 if quick else 3)
    match arguments.command:
        case "throughput":
            return throughput.measure(_chosen(arguments), runs, arguments.records or (30_000 if quick else 300_000))
        case "latency":
            seconds = arguments.seconds or (3 if quick else 30)
            return latency.measure(
                _chosen(arguments), runs, seconds, rate=200 if quick else 1000, warm_up=1 if quick else 5
            )
        case "generator":
            rates = ["10", "1000", "unlimited"] if quick else generator.RATES
            seconds = arguments.seconds or (2 if quick else 10)
            return generator.measure(pypy, seconds, rates, generator.FAST_RATES, warm_up=1 if quick else 8)
        case _:
            records = arguments.records or (40_000 if quick else 100_000)
            ours = detector("CPython", sys.executable)
            return scale.measure(ours, 2 if quick else 4, runs, records)


def _chosen(arguments: argparse.Namespace) -> list[Candidate]:
    # A quick run uses what is there: it downloads nothing.
    candidates = all_candidates(arguments.pypy, download=not arguments.quick)
    names = arguments.only.lower().split(",")
    return [candidate for candidate in candidates if any(name in candidate.name.lower() for name in names)]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("command", choices=["throughput", "latency", "generator", "scale", "report"])
    parser.add_argument("--quick", action="store_true", help="only see that all works: few records, one run")
    parser.add_argument("--runs", type=int, help="how often all is measured (default: 3)")
    parser.add_argument("--records", type=int, help="records to drain, for scale of each partition")
    parser.add_argument("--seconds", type=int, help="how long each candidate, or rate, is measured")
    parser.add_argument(
        "--pypy",
        type=lambda path: str(Path(path).absolute()),
        help="a PyPy that has the detector's requirements: ours are measured on it too",
    )
    parser.add_argument("--only", default="", help="the candidates whose names have one of these in them: quix,faust")
    parser.add_argument("--results", type=Path, help="where the results are (default: bench/results.json)")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md", help="report: the file with the section")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="report: the folder for the plots")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
