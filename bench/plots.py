"""The plots for the README, as SVG files that are the same for the same results."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from bench.results import Row

OURS, OTHERS, DOTS = "#1f77b4", "#b8b8b8", "#333333"
WIDTH = 8.5
"""Inches; a README is about as wide at the usual 72 points an inch and more."""


def draw(measured: dict[str, Any], folder: Path) -> Iterator[Path]:
    """Draw what has been measured, and yield the path of each file."""
    # Fixed names inside the file and no date: it changes only when the results do. Text stays text.
    settings = {"svg.hashsalt": "bench", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 11}
    with mpl.rc_context({**settings, "axes.spines.top": False, "axes.spines.right": False}):
        for name, plot in (
            ("throughput", _throughput),
            ("latency", _latency),
            ("generator", _generator),
            ("scale", _scale),
        ):
            if name not in measured:
                continue
            figure, axes = plt.subplots(figsize=(WIDTH, 4.2), layout="constrained")
            plot(axes, measured[name]["settings"], measured[name]["rows"])
            path = folder / f"{name}.svg"
            figure.patch.set_facecolor("white")
            figure.savefig(path, metadata={"Date": None})
            plt.close(figure)
            yield path


def _colours(rows: list[Row]) -> list[str]:
    return [OURS if row["candidate"].startswith("detector") else OTHERS for row in rows]


def _label(row: Row) -> str:
    return f"{row['candidate']}\n({row['guarantee']})"


def _throughput(axes: Axes, settings: Row, rows: list[Row]) -> None:
    rows = sorted((row for row in rows if row["medians"]), key=lambda row: float(row["medians"]["records_per_second"]))
    labels = [_label(row) for row in rows]
    rates = [row["medians"]["records_per_second"] for row in rows]
    axes.barh(labels, rates, color=_colours(rows))
    for label, rate, row in zip(labels, rates, rows, strict=True):
        each = [run["records_per_second"] for run in row["runs"]]
        axes.plot(each, [label] * len(each), "|", color=DOTS, markersize=10)
        axes.annotate(f"{rate:,.0f}", (max(each), label), (8, 0), textcoords="offset points", va="center")
    axes.margins(x=0.15)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.tick_params("y", labelsize=9)
    axes.set_xlabel("records/s; a line for each run, the bar is their median")
    axes.set_title(f"Drain of {settings['records']:,} records from one partition")


def _latency(axes: Axes, settings: Row, rows: list[Row]) -> None:
    rows = sorted((row for row in rows if row["medians"]), key=lambda row: -float(row["medians"]["p99_ms"]))
    labels = [_label(row) for row in rows]
    axes.barh(labels, [row["medians"]["p99_ms"] for row in rows], color=_colours(rows), alpha=0.45, label="p99")
    bars = axes.barh(labels, [row["medians"]["p50_ms"] for row in rows], color=_colours(rows), height=0.4, label="p50")
    for bar, row in zip(bars, rows, strict=True):
        m = row["medians"]
        text = f"{m['p50_ms']:.0f} / {m['p99_ms']:.0f}"
        axes.annotate(
            text, (m["p99_ms"], bar.get_y() + bar.get_height() / 2), (6, 0), textcoords="offset points", va="center"
        )
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.tick_params("y", labelsize=9)
    axes.set_xlabel("ms, logarithmic; the narrow bar is p50, the wide one p99")
    axes.set_title(f"From creation to a reader of committed records, at {settings['rate']:,} records/s")


def _generator(axes: Axes, settings: Row, rows: list[Row]) -> None:
    for name, colour, marker in (("CPython", OURS, "o"), ("PyPy", "#ff7f0e", "x")):
        limited = [row for row in rows if row["interpreter"] == name and row["asked"] != "unlimited"]
        if not limited:
            continue
        asked = [float(row["asked"]) for row in limited]
        axes.plot(asked, [row["delivered_per_second"] for row in limited], marker, color=colour, label=name)
        for row in rows:
            if row["interpreter"] == name and row["asked"] == "unlimited":
                most = row["delivered_per_second"]
                axes.axhline(most, color=colour, linestyle=":", label=f"{name}, unlimited: {most:,.0f}/s")
    both = [
        min(float(r["asked"]) for r in rows if r["asked"] != "unlimited"),
        max(r["delivered_per_second"] for r in rows),
    ]
    axes.plot(both, both, color=OTHERS, zorder=0, label="as asked for")
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:,g}")
    axes.set_xlabel("asked for, records/s")
    axes.set_ylabel("delivered, records/s")
    axes.legend(frameon=False)
    axes.set_title("The generator's rate, by the timestamps of its records")


def _scale(axes: Axes, settings: Row, rows: list[Row]) -> None:
    scaled = [row for row in rows if "records_per_second" in row["medians"]]
    counts = [row["instances"] for row in scaled]
    bars = axes.bar(
        [str(c) for c in counts], [row["medians"]["records_per_second"] for row in scaled], color=OURS, width=0.6
    )
    cpu = [
        f"{row['medians']['records_per_second']:,.0f}/s\n{row['medians']['cpu_us_per_record']:.1f} µs CPU each"
        for row in scaled
    ]
    axes.bar_label(bars, cpu, padding=4, fontsize=10)
    axes.margins(y=0.2)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("detectors, and partitions")
    axes.set_ylabel("records/s in all")
    axes.set_title("Several detectors that share a topic")
