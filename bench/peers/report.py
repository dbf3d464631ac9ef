# SPDX-License-Identifier: MIT
"""The comparison as Markdown."""

from __future__ import annotations

from collections import defaultdict
from statistics import geometric_mean
from typing import Any

Row = dict[str, Any]


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _shape(row: Row) -> str:
    groups = f" / {row['groups']}" if row["groups"] else ""
    return "×".join(str(extent) for extent in row["shape"]) + groups


def case(row: Row) -> tuple[str, ...]:
    return tuple(str(row[key]) for key in ("model", "norm", "shape", "groups", "layout", "pass"))


def _title(form: Row) -> str:
    types = form["dtype"] if form["dtype"] == "f32" else f"{form['dtype']}, parameters f32"
    residual = "with" if form["residual"] else "without"
    return f"{form['layout']}, {types}, activation {form['activation']}, {residual} residual"


def _timed(rows: list[Row]) -> list[Row]:
    return [row for row in rows if "lead" in row]


def _times(rows: list[Row]) -> str:
    head = ["model", "norm", "shape", "layout", "pass", "peer", "through"]
    head += ["axisnorm", "peer's time", "plain copy", "lead"]
    return _table(
        head,
        [
            [str(row["model"]), str(row["norm"]), _shape(row), str(row["layout"])]
            + [str(row["pass"]), str(row["peer"]), str(row["way"])]
            + [_time(row[f"{name}_seconds"]) for name in ("axisnorm", "peer", "copy")]
            + [f"{row['lead']:.2f}"]
            for row in _timed(rows)
        ],
    )


def _leads(rows: list[Row]) -> str:
    """Geometric means per norm and pass (down) and peer (across)."""
    leads: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in _timed(rows):
        leads[row["norm"], row["pass"]][row["peer"]].append(row["lead"])
    peers = list(dict.fromkeys(row["peer"] for row in _timed(rows)))

    def mean(found: list[float]) -> str:
        return f"{geometric_mean(found):.2f} ({len(found)})" if found else "–"

    lines = [[*case, *(mean(by_peer[peer]) for peer in peers)] for case, by_peer in leads.items()]
    return _table(["norm", "pass", *peers], lines)


def _fastest(rows: list[Row]) -> str:
    cases: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in _timed(rows):
        cases[case(row)].append(row)
    behind = [row for row in _timed(rows) if row["lead"] < 1]
    won = sum(all(row["lead"] >= 1 for row in found) for found in cases.values())
    text = f"axisnorm is the fastest of all in {won} of {len(cases)} cases."
    return text + (f" Not in these:\n\n{_times(behind)}" if behind else "")


def _lacking(rows: list[Row]) -> str:
    head = ["peer", "norm", "layout", "pass", "lacks"]
    found = {tuple(str(row[key]) for key in head) for row in rows if "lacks" in row}
    return _table(head, [list(line) for line in sorted(found)]) if found else "Nothing."


def markdown(machine: dict[str, object], form: Row, rows: list[Row]) -> str:
    title = _title(form)
    facts = "\n".join(f"- {name}: {value}" for name, value in machine.items())
    return f"""## Peers: {title}

{facts}

Lead: the peer's time / axisnorm's, the median of pairwise ratios; above 1 axisnorm is faster.

{_times(rows)}

### Geometric mean of the lead (number of rows): {title}

{_leads(rows)}

{_fastest(rows)}

### What the peers lack: {title}

{_lacking(rows)}"""
