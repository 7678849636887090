"""docs/performance.md, made from the results: no figure in it is typed by hand."""

import json
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from bench.inputs import STREAMS
from bench.rounds import Row

INTRODUCTION = """# Performance

How fast the detector is, beside other libraries that do the same job. `make bench` measures, and `python -m bench
report` writes this page. Broker and candidates share one machine, whose speed changes by the minute: so they take
turns, and the figures are medians. Compare the figures of one table.

The peers are tuned as their documentation advises. They only look at the amount; the detector and the two
[steps](from-the-tutorial.md) that lead to it apply the whole rule. Before a speed counts, every record has been found
once, unchanged (of the tutorial's loop, only its content), and in the right topic."""

SPEED = {"records_per_second": ("records/s", ",.0f"), "cpu_us_per_record": ("CPU µs/record", ",.1f")}
RATIOS = {"speed_ratio": ("ours is × as fast", ".2f"), "cpu_ratio": ("ours takes × the CPU", ".2f")}
MEMORY = {"mb_at_half": ("MB half-way", ".0f"), "mb_at_end": ("MB at the end", ".0f"), "peak_mb": ("peak MB", ".0f")}
AGES = {f"{name}_ms": (f"{name} ms", ".0f") for name in ("p50", "p90", "p99", "max")}
CPU = {"cpu_percent": ("CPU %", ".1f"), "generator_cpu_percent": ("generator's CPU %", ".1f")}
COLD = {"cold_seconds": ("cold start s", ".1f"), "starts": ("starts", ".0f")}
SHARED = {"cores_busy": ("cores busy with them", ".1f"), "takeover_seconds": ("takeover s", ".1f")}
PAUSES = {
    f"{fault}_{which}": (f"{fault}: {which}", ".1f")
    for fault in ("killed", "frozen")
    for which in ("first", "second", "third", "median")
}
EXITS = {"exits": ("exits", ".0f")}

DRAIN = """Drain of {records:,} records in one partition, {rounds} round(s). The rate is that between the first commit
and the last. CPU time and memory are those of all processes."""
LATENCY = """From a record's creation in the generator to a reader of committed records, at {rate:,} transactions a
second, for {seconds} s, {rounds} round(s). CPU is in percent of one core. Broker, generator and candidate start at
once, and one that ends as there is no Kafka yet is started again. The cold start is the time until no record that is
read is older than {fresh} s; {warm_up} s of warm-up and the measurement follow."""
SCALE = """Detectors on as many partitions, {records_per_partition:,} records for each, {rounds} round(s). Once the
cores are full, which the broker needs too, only the CPU time per record says what one more detector would bring. The
takeover is the time from stopping one, at {rate:,}/s, until the others commit records of all partitions."""
FAILOVER = """Kafka {kafka}, {rate} transactions a second, {rounds} round(s): the seconds in which a reader of
committed records got none, as each of the three brokers was killed once, and then each was frozen once, for {frozen} s.
"""
SHAPES = """Drains as above, of streams as other producers write them; × says how many times as fast ours is. The dead
letters of confluent-kafka get the same headers as ours, those of Kafka Streams get none."""

SHAPED = ("detector", "confluent-kafka", "Kafka Streams")
"""Who drains the streams of every shape."""

FAILOVERS = ["failover-kafka4", "failover-zookeeper"]
PARTS = {
    **{
        f"throughput-{name}": (f"Throughput: {what}", DRAIN, SPEED | RATIOS | MEMORY)
        for name, (what, _) in STREAMS.items()
    },
    "latency": ("Latency, its cost, and the cold start", LATENCY, AGES | CPU | COLD),
    "scale": ("Several detectors", SCALE, SPEED | SHARED),
    **dict.fromkeys(FAILOVERS, ("A broker of three fails", FAILOVER, PAUSES | EXITS)),
}
"""The title of each section, its text with room for the settings, and its columns: a figure's heading and format."""
BEGIN, END = "<!-- written by `python -m bench report` -->", "<!-- up to here -->"
"""Where the report goes in a page that has more than that."""


def write(results: Path, page: Path) -> None:
    """Write the page. Raises RuntimeError where there are no results."""
    if not results.exists():
        raise RuntimeError(f"there is no {results}: measure something first")
    measured: dict[str, dict[str, Any]] = json.loads(results.read_text())
    texts = [INTRODUCTION]
    for name, (title, _, _) in PARTS.items():
        if name == "throughput-long":
            texts += shapes(measured)
        if name in measured and name not in [f"throughput-{shape}" for shape in [*STREAMS][1:-1]] + FAILOVERS:
            texts += [f"## {title}", *dated(name, measured[name])]
    page.write_text("\n\n".join(texts) + "\n")
    print(f"Wrote {page}")


def write_failover(results: Path, page: Path) -> None:
    """Write what happens when a broker fails into a page."""
    measured: dict[str, dict[str, Any]] = json.loads(results.read_text())
    insert(page, "\n\n".join(text for name in FAILOVERS if name in measured for text in dated(name, measured[name])))


def dated(name: str, content: dict[str, Any]) -> list[str]:
    """Return a section's content, and when and on what it was measured."""
    when = f"Measured on {content['date']}: {content['machine']}."
    return [section(name, content["settings"], content["rows"]), when]


def insert(page: Path, text: str) -> None:
    """Put a text into a page, between its two marks."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")
    print(f"Wrote the table of {page}")


def section(name: str, settings: Row, rows: list[Row]) -> str:
    """Return a section of the page, without its title."""
    _, text, columns = PARTS[name]
    ours = rows[0]["medians"]
    lines = [["candidate", "version", "guarantee", *(heading for heading, _ in columns.values())]]
    for row in rows:
        figures = row["medians"]
        if "records_per_second" in ours and "records_per_second" in figures:
            figures = figures | {
                "speed_ratio": ours["records_per_second"] / figures["records_per_second"],
                "cpu_ratio": ours["cpu_us_per_record"] / figures["cpu_us_per_record"],
            }
        cells = [format(figures[key], form) if key in figures else "-" for key, (_, form) in columns.items()]
        lines.append([row["candidate"], row["version"] or "-", row["guarantee"], *cells])
    parts = [text.format(**settings).replace("\n", " "), table(lines, labels=3)]
    for row in [row for row in rows if row["reason"]]:
        reason = row["reason"].splitlines()
        parts.append(f"No figures of {row['candidate']}: {' '.join(dict.fromkeys((reason[0], reason[-1])))}")
    return "\n\n".join(parts)


def shapes(measured: dict[str, dict[str, Any]]) -> list[str]:
    """Return the section that compares streams of every shape: ratios, and their geometric means."""
    lines, ratios = [], {name: list[float]() for name in (*SHAPED[1:], "detector at")}
    for name in [name for name in [*STREAMS][:-1] if f"throughput-{name}" in measured]:
        ours, *others = measured[f"throughput-{name}"]["rows"]
        rates = {row["candidate"][: len("detector at")]: row["medians"].get("records_per_second") for row in others}
        rate, line = ours["medians"].get("records_per_second", 0), [STREAMS[name][0]]
        for peer, found in ratios.items():
            found += [rate / other] if (other := rates.get(peer[: len("detector at")])) else []
            line.append(f"{rate / other:.2f}" if other else "-")
        lines.append([line[0], f"{rate:,.0f}", *line[1:], f"{ours['medians'].get('peak_mb', 0):.0f}"])
    means = [f"{geometric_mean(found):.2f}" if found else "-" for found in ratios.values()]
    header = ["stream", "records/s", *(f"× {name}" for name in SHAPED[1:]), "× before", "peak MB"]
    page = table([header, *lines, ["geometric mean", "-", *means, "-"]], labels=1)
    return ["## Throughput by the shape of records", SHAPES.replace("\n", " "), page] if lines else []


def table(lines: list[list[str]], labels: int) -> str:
    """Return a table in Markdown, its first line the header; the columns after the labels are aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines]
    rule = ["-" * (width + 1) + ("-" if number < labels else ":") for number, width in enumerate(widths)]
    return "\n".join([rows[0], "|" + "|".join(rule) + "|", *rows[1:]])
