# SPDX-License-Identifier: MIT
"""The comparison as Markdown."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _case(row: Row) -> list[str]:
    return [row["model"], row["norm"], row["layout"], row["pass"], str(row["batch"])]


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}" if seconds < 1 else f"{seconds * 1e3:.0f}"


CASE = ["model", "norm", "layout", "pass", "batch"]


def _times(rows: list[Row]) -> str:
    return _table(
        [*CASE, "native, ms", "replaced, ms", "lead", "quartiles", "rounds"],
        [[*_case(row), _milliseconds(row["native_seconds"]), _milliseconds(row["replaced_seconds"]),
          f"{row['lead'][1]:.3f}", f"{row['lead'][0]:.3f} – {row['lead'][2]:.3f}", str(row["rounds"])]
         for row in rows])


def _shares(rows: list[Row]) -> str:
    def cells(row: Row) -> list[str]:
        shares = (row["native_share"], row["replaced_share"])
        both = [f"{100 * share['share']:.1f} % ({_milliseconds(share['seconds'])} ms)" for share in shares]
        return [*both, f"{row['native_share']['seconds'] / row['replaced_share']['seconds']:.2f}"]

    return _table([*CASE, "native", "replaced", "native / replaced"],
                  [[*_case(row), *cells(row)] for row in rows])


def markdown(machine: dict[str, Any], rows: list[Row]) -> str:
    facts = "\n".join(
        f"- {name}: {value}" for name, value in machine.items() if name not in ("form", "share"))
    text = f"""## Whole models: {machine['form']}

{facts}

Lead: native time / replaced time, the median of pairwise ratios, and their quartiles; above 1 axisnorm is
faster.

{_times(rows)}"""
    with_shares = [row for row in rows if "native_share" in row]
    if not with_shares:
        return text
    return f"""{text}

### Share of {machine['share']} in the step, before and after

{_shares(with_shares)}"""
