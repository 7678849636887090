"""The README's section about performance, made from the results: no figure in it is typed by hand."""

import json
import re
from pathlib import Path
from typing import Any

from bench.results import Row, table

MARKERS = ("<!-- bench -->", "<!-- /bench -->")
OURS = {"CPython": "detector, CPython", "PyPy": "detector, PyPy"}

Results = dict[str, dict[str, Any]]


def write(results: Path, readme: Path, docs: Path) -> None:
    """Print the section, put it between the markers of the README, and draw the plots into the folder.

    Raises RuntimeError where there are no results or no markers.
    """
    if not results.exists():
        raise RuntimeError(f"there is no {results}: measure something first")
    measured: Results = json.loads(results.read_text())
    try:
        from bench import plots
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        print("The plots are left out: matplotlib is not installed.")
    else:
        docs.mkdir(exist_ok=True)
        for path in plots.draw(measured, docs):
            print(f"wrote {path}")
    images = {name: f"docs/{name}.svg" for name in measured if (docs / f"{name}.svg").exists()}
    text = section(measured, images)
    print(text)
    if not readme.exists() or not all(marker in readme.read_text() for marker in MARKERS):
        raise RuntimeError(f"{readme} has no markers {' and '.join(MARKERS)} to put the section between")
    begin, end = map(re.escape, MARKERS)
    block = f"{MARKERS[0]}\n{text}\n{MARKERS[1]}"
    readme.write_text(re.sub(f"{begin}.*{end}", lambda _: block, readme.read_text(), count=1, flags=re.DOTALL))


def section(measured: Results, images: dict[str, str] | None = None) -> str:
    """Return the text: a part for each thing that was measured."""
    parts = {"throughput": _throughput, "latency": _latency, "generator": _generator, "scale": _scale}
    contents = {name: measured[name] for name in parts if name in measured}
    machines = [_machine(content) if "machine" in content else "" for content in contents.values()]
    texts = []
    for (name, content), machine, following in zip(contents.items(), machines, [*machines[1:], ""], strict=True):
        texts.append(parts[name](content["settings"], content["rows"]))
        if images and name in images:
            texts.append(f"![{name}]({images[name]})")
        if machine and machine != following:  # once for all that have been measured on it
            texts.append(machine)
    return "\n\n".join(texts)


def _machine(content: dict[str, Any]) -> str:
    m = content["machine"]
    return (
        f"Measured on {content['date']}: {m['cores']} cores ({m['cpu']}), {m['memory_gb']} GB, {m['system']},"
        f" {m['python']}, Kafka {m['kafka']} on Java {m['java']}. The broker and all else share the machine."
    )


def _throughput(settings: Row, rows: list[Row]) -> str:
    rates = {row["candidate"]: row["medians"]["records_per_second"] for row in rows if row["medians"]}
    ours = {name: rates[candidate] for name, candidate in OURS.items() if candidate in rates}
    lines = []
    for row in rows:
        m = row["medians"]
        if m:
            figures = [f"{m['records_per_second']:,.0f}", f"{m['cpu_us_per_record']:.1f}", f"{m['peak_mb']:.0f}"]
            figures += [f"{rate / m['records_per_second']:.2f}" for rate in ours.values()]
        else:
            figures = [_reason(row), "-", "-", *["-" for _ in ours]]
        lines.append([row["candidate"], row["version"] or "-", row["guarantee"], *figures])
    header = ["candidate", "version", "guarantee", "records/s", "CPU µs/record", "peak MB"]
    header += [f"ours on {name} is × as fast" for name in ours]
    return (
        f"Drain of a topic with {settings['records']:,} transactions of {settings['record_bytes']} bytes in one"
        f" partition, medians of {settings['runs']} run(s), taken in turns. The rate is that between the first commit"
        " and the last; CPU time is that of all the candidate's processes. Before a speed counts, every record has been"
        " found once, unchanged and in the right topic"
        " (the tutorial's loop writes the JSON anew: there the content is compared).\n\n"
        + table(header, lines, texts=3)
    )


def _latency(settings: Row, rows: list[Row]) -> str:
    lines = []
    for row in rows:
        m = row["medians"]
        figures = ["-"] * 5
        if m:
            figures = [f"{m[f'{name}_ms']:.0f}" for name in ("p50", "p90", "p99", "max")]
            figures.append(f"{m['startup_seconds']:.1f}")
        else:
            figures[0] = _reason(row)
        lines.append([row["candidate"], row["guarantee"], *figures])
    header = ["candidate", "guarantee", "p50 ms", "p90 ms", "p99 ms", "max ms", "start-up s"]
    return (
        f"Latency at {settings['rate']:,} transactions a second, over {settings['seconds']} s after"
        f" {settings['warm_up_seconds']} s to warm up, medians of {settings['runs']} run(s), taken in turns: from a"
        " record's creation in the generator to a reader of committed records on the outputs. Start-up is the time from"
        " the start of the process, with Kafka up, until that reader has its first record.\n\n"
        + table(header, lines, texts=2)
    )


def _generator(settings: Row, rows: list[Row]) -> str:
    lines = []
    for row in rows:
        delivered = row["delivered_per_second"]
        asked = "unlimited" if row["asked"] == "unlimited" else f"{float(row['asked']):,g}"
        figures = [f"{delivered:,.2f}" if delivered < 1000 else f"{delivered:,.0f}"]
        figures.append(f"{row['cpu_us_per_record']:,.0f}" if row["records"] > 1000 else "-")
        lines.append([row["interpreter"], asked, *figures])
    header = ["generator", "asked for, 1/s", "delivered, 1/s", "CPU µs/record"]
    return (
        f"The generator's rate by the timestamps of its records, over {settings['seconds']} s after"
        f" {settings['warm_up_seconds']} s to warm up.\n\n" + table(header, lines)
    )


def _scale(settings: Row, rows: list[Row]) -> str:
    *scaled, takeover = rows
    lines = []
    for row in scaled:
        m = row["medians"]
        if m:
            figures = [f"{m['records_per_second']:,.0f}", f"{m['cpu_us_per_record']:.1f}", f"{m['cores_busy']:.1f}"]
        else:
            figures = [_reason(row), "-", "-"]
        lines.append([str(row["instances"]), *figures])
    outcome = (
        f"The trial of stopping another failed: {_reason(takeover)}"
        if takeover["reason"]
        else (
            f"When another is stopped under {settings['rate']:,} transactions a second, all partitions go on after"
            f" {takeover['medians']['takeover_seconds']:.1f} s, and no record is lost or doubled."
        )
    )
    header = ["detectors = partitions", "records/s in all", "CPU µs/record", "cores busy with them"]
    return (
        f"Several detectors that share a topic, {settings['records_per_partition']:,} records for each partition,"
        f" medians of {settings['runs']} run(s). The broker needs its share of the cores as well: once they are full,"
        " only the CPU time per record says what one more detector would bring on a larger machine.\n\n"
        + table(header, lines)
        + f"\n\nWith {takeover['instances']} detectors on {takeover['partitions']} partitions one idles. {outcome}"
    )


def _reason(row: Row) -> str:
    """Return why there is no figure, short enough for a cell."""
    lines = row["reason"].splitlines()
    return f"{lines[0]} {lines[-1]}"[:150].replace("|", "/") if len(lines) > 1 else lines[0].replace("|", "/")
