#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Sums up what `axisnorm bench --format json` wrote, as Markdown.

    axisnorm bench --shapes bench/shapes.csv --format json > nchw.json
    axisnorm bench --shapes bench/shapes.csv --layout nhwc --format json > nhwc.json
    python3 bench/summary.py nchw.json nhwc.json
"""
import json
import math
import sys
from typing import Dict, Iterable, List

MEBIBYTE = 1 << 20
PASSES = ("forward-training", "forward-inference", "backward")
Row = Dict[str, object]


def read(path: str) -> dict:
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        sys.exit(f"summary: {path}: {error}")


def bytes_of(row: Row) -> int:
    return math.prod(row["shape"]) * 4


def geometric_mean(values: Iterable[float]) -> float:
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))


def table(head: List[str], lines: Iterable[List[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def large(rows: List[Row]) -> str:
    """Tensors of 1 MiB and more against the limit of memory."""
    lines = []
    for layout in sorted({str(row["layout"]) for row in rows}):
        for name in PASSES:
            some = [row for row in rows if row["pass"] == name and row["layout"] == layout]
            ratios = sorted(float(row["ratio"]) for row in some if bytes_of(row) >= MEBIBYTE)
            if not ratios:
                continue
            lines.append([layout, name, str(len(ratios)), f"{geometric_mean(ratios):.2f}",
                          f"{ratios[len(ratios) // 2]:.2f}", f"{ratios[0]:.2f}",
                          f"{ratios[-1]:.2f}", str(sum(ratio > 1.35 for ratio in ratios))])
    return table(["layout", "pass", "rows", "geometric mean", "median", "least", "most",
                  "above 1.35"], lines)


def small(rows: List[Row]) -> str:
    """Smaller tensors against twice the limit and one microsecond."""
    lines = []
    for layout in sorted({str(row["layout"]) for row in rows}):
        for name in PASSES:
            some = [row for row in rows if row["pass"] == name and row["layout"] == layout
                    and bytes_of(row) < MEBIBYTE]
            within = sum(float(row["seconds"]) <= 2 * float(row["limit_seconds"]) + 1e-6
                         for row in some)
            if some:
                ratios = [float(row["ratio"]) for row in some]
                lines.append([layout, name, str(len(some)), f"{geometric_mean(ratios):.2f}",
                              f"{max(ratios):.2f}", str(within)])
    return table(["layout", "pass", "rows", "geometric mean", "most",
                  "within 2 × limit + 1 µs"], lines)


def everything(rows: List[Row]) -> str:
    cells: Dict[tuple, Dict[tuple, Row]] = {}
    for row in rows:
        key = (row["norm"], "×".join(str(extent) for extent in row["shape"]))
        cells.setdefault(key, {})[(row["layout"], row["pass"])] = row
    layouts = sorted({str(row["layout"]) for row in rows})
    columns = [(layout, name) for layout in layouts for name in PASSES]
    head = ["norm", "shape"] + [f"{layout} {name.replace('forward-', '')}"
                                for layout, name in columns]
    lines = []
    for (norm, shape), found in cells.items():
        line = [str(norm), shape]
        for column in columns:
            row = found.get(column)
            line.append("–" if row is None else
                        f"{float(row['ratio']):.2f} ({float(row['seconds']) * 1e6:.0f} µs)")
        lines.append(line)
    return table(head, lines)


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    results = [read(path) for path in sys.argv[1:]]
    rows = [row for result in results for row in result["rows"]]
    print(f"{results[0]['threads']} threads, {results[0]['isa']}\n")
    print("Tensors of 1 MiB and more, ratio to the limit:\n\n" + large(rows))
    print("Smaller tensors:\n\n" + small(rows))
    print("Every row, ratio to the limit and median time:\n\n" + everything(rows))


main()
