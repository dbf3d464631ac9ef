#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Two curves of `axisnorm bench`, drawn with gnuplot: the time of one element against the size of
the tensor, and speed against the number of threads. README.md beside this file says more."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Optional

sys.path.append(str(Path(__file__).parents[1]))
from machine import cpu_model  # noqa: E402

Row = dict[str, Any]
Shape = tuple[int, int, int, int]
Curve = tuple[Callable[[], Row], Callable[[Row], str], Callable[[Row], str]]

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
ELEMENT = 4  # bytes of a float32
SMALLEST, STEP = KIB, 2
GROUPS = 8
CHANNELS, CHANNELS_LEAST = 64, 16  # both divisible into the groups
SPATIAL = (28, 14, 7, 4)
NORMS = ("batch", "layer", "instance", "group")
TRAINING, INFERENCE, BACKWARD = "forward-training", "forward-inference", "backward"
# Inference is timed for batch normalization alone: the others compute there what they train with.
SIZE_CASES = (
    (("batch",), (TRAINING, INFERENCE, BACKWARD)),
    (("layer", "instance", "group"), (TRAINING, BACKWARD)),
)
THREAD_CASES = (("layer", (1, 64, 112, 112)), ("batch", (32, 64, 56, 56)))
ROUNDS = 3  # of all thread counts in turn: a change in the machine's speed meets all of them
L3_MOST = 256 * MIB  # virtual machines may report the whole host's cache, or nonsense
# Okabe & Ito's colours: told apart also by the colour-blind.
COLOURS = {"batch": "#D55E00", "layer": "#0072B2", "instance": "#009E73", "group": "#CC79A7"}
POINTS = {"batch": 7, "layer": 5, "instance": 9, "group": 13}


class Failure(Exception):
    """What ends the program, as one line."""


# ---- the programs ----


def run(program: str, arguments: list[str], text: Optional[str] = None) -> str:
    name = Path(program).name
    try:
        done = subprocess.run([program, *arguments], input=text, capture_output=True, text=True)
    except OSError as error:
        raise Failure(f"{program}: {error.strerror}") from None
    if done.returncode < 0:
        raise Failure(f"{name}: ended by signal {-done.returncode}; is there enough memory?")
    if done.returncode > 0:
        # gnuplot points to the place with a line of its own before the one that says what is wrong
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        why = lines[-1] if lines else f"exit status {done.returncode}"
        raise Failure(why if why.startswith("axisnorm: ") else f"{name}: {why}")
    return done.stdout


def find(option: str, program: str) -> str:
    found = shutil.which(program)
    if found is None:
        raise Failure(f"{option}: {program}: no such program")
    return found


@dataclass
class Bench:
    """axisnorm bench, and what is to be said of its runs."""

    program: str
    isa: str = ""
    threads: int = 0  # of the last run
    commands: list[str] = field(default_factory=list)

    def rows(
        self, norms: tuple[str, ...], passes: tuple[str, ...], shape: Shape, threads: int
    ) -> list[Row]:
        arguments = ["bench", "--norms", ",".join(norms), "--passes", ",".join(passes)]
        arguments += ["--shape", ",".join(map(str, shape)), "--threads", str(threads)]
        if "group" in norms:
            arguments += ["--groups", str(GROUPS)]
        arguments += ["--format", "json"]
        command = " ".join(["axisnorm", *arguments])
        if command not in self.commands:
            self.commands.append(command)
        return self._parsed(run(self.program, arguments))

    def _parsed(self, output: str) -> list[Row]:
        names = ("norm", "pass", "seconds", "limit_kind", "limit_seconds")
        try:
            result = json.loads(output)
            self.isa, self.threads = result["isa"], result["threads"]
            return [{name: row[name] for name in names} for row in result["rows"]]
        except (ValueError, KeyError, TypeError):
            raise Failure("axisnorm: bench --format json printed something else") from None


# ---- the machine ----


def cores() -> int:
    """Those that this process may use, where the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def kernels_cache(level: int) -> int:
    for directory in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            if int((directory / "level").read_text()) == level:
                return int((directory / "size").read_text().strip().rstrip("K")) * KIB
        except (OSError, ValueError):
            continue
    return 0


def getconfs_cache(level: int) -> int:
    try:
        return int(run("getconf", [f"LEVEL{level}_CACHE_SIZE"]))
    except (Failure, ValueError):
        return 0


def caches() -> dict[str, int]:
    """Bytes of the second and third level. In a virtual machine the two sources can differ; the
    kernel's, which lscpu shows too, is the likelier."""
    found = {f"L{level}": kernels_cache(level) or getconfs_cache(level) for level in (2, 3)}
    return {name: size for name, size in found.items() if 0 < size <= L3_MOST}


def machine(bench: Bench, gnuplot: str) -> dict[str, Any]:
    return {
        "versions": {
            "axisnorm": run(bench.program, ["--version"]).split("\n")[0].replace("axisnorm ", ""),
            "gnuplot": run(gnuplot, ["--version"]).strip().replace("gnuplot ", ""),
            "Python": platform.python_version(),
        },
        "cpu": cpu_model(),
        "cores": cores(),
        "caches": caches(),
        "isa": bench.isa,
        "dtype": "f32",
        "layout": "nchw",
    }


# ---- size ----


def bytes_of(shape: Shape) -> int:
    n, c, h, w = shape
    return n * c * h * w * ELEMENT


def shape_of(size: int) -> Shape:
    """The largest that fits: rows as long as they can be, then channels, then samples."""
    side = next((s for s in SPATIAL if bytes_of((1, CHANNELS_LEAST, s, s)) <= size), SPATIAL[-1])
    channels = CHANNELS
    while channels > CHANNELS_LEAST and bytes_of((1, channels, side, side)) > size:
        channels //= 2
    return (max(1, size // bytes_of((1, channels, side, side))), channels, side, side)


def sizes(largest: int) -> list[int]:
    result = [SMALLEST]
    while result[-1] * STEP <= largest:
        result.append(result[-1] * STEP)
    return result


def limit(rows: list[Row], kind: str) -> Optional[float]:
    """Every row measured it anew, beside its own norm: the middle of what they found."""
    found = [row["limit_seconds"] for row in rows if row["limit_kind"] == kind]
    return median(found) if found else None


def nanoseconds(rows: list[Row], elements: int) -> dict[str, Optional[float]]:
    seconds: dict[str, Optional[float]] = {
        f"{row['norm']} {row['pass']}": row["seconds"] for row in rows
    }
    seconds.update({kind: limit(rows, kind) for kind in ("copy", "triad")})
    return {
        name: None if s is None else round(s / elements * 1e9, 6) for name, s in seconds.items()
    }


def measure_sizes(bench: Bench, largest: int, threads: int) -> Row:
    points = []
    for size in sizes(largest):
        shape = shape_of(size)
        say(f"{readable(size)}: {times(shape)}")
        rows: list[Row] = []
        for norms, passes in SIZE_CASES:
            rows += bench.rows(norms, passes, shape, threads)
        values = nanoseconds(rows, bytes_of(shape) // ELEMENT)
        points.append(
            {
                "size": size,
                "shape": shape,
                "bytes": bytes_of(shape),
                "nanoseconds_per_element": values,
            }
        )
    return {"threads": bench.threads, "groups": GROUPS, "points": points}


# ---- threads ----


def thread_rows(bench: Bench, threads: int) -> dict[str, float]:
    rows = {}
    for norm, shape in THREAD_CASES:
        for row in bench.rows((norm,), (TRAINING, BACKWARD), shape, threads):
            rows[f"{norm} {row['pass']}"] = row["seconds"]
    return rows


def counts_up_to(most: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, 16 and so on, and the most."""
    counts = {most}
    power = 1
    while power <= most:
        counts |= {power, power * 3 // 2}
        power *= 2
    return sorted(count for count in counts if count <= most)


def measure_threads(bench: Bench, most: int) -> Row:
    counts = counts_up_to(most)
    rounds = []
    for number in range(ROUNDS):
        say(f"1 to {most} threads, round {number + 1} of {ROUNDS}")
        rounds.append([thread_rows(bench, count) for count in counts])
    points = []
    for i, count in enumerate(counts):
        seconds = {name: [taken[i][name] for taken in rounds] for name in rounds[0][0]}
        speed = {
            name: median(taken[0][name] / taken[i][name] for taken in rounds) for name in seconds
        }
        points.append(
            {
                "threads": count,
                "speed": {k: round(v, 4) for k, v in speed.items()},
                "seconds": seconds,
            }
        )
    return {"shapes": dict(THREAD_CASES), "points": points}


# ---- words ----


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def readable(size: int) -> str:
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size >= 0.99 * unit:  # 1 GiB rather than 1.02e+03 MiB
            return f"{size / unit:.3g} {name}"
    return f"{size} B"


def times(shape: Shape) -> str:
    return "×".join(map(str, shape))


def table(head: list[str], rows: list[list[str]]) -> str:
    ruler = ["---:"] * len(head)
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ruler, *rows]) + "\n"


def significant(value: Optional[float]) -> str:
    """Three digits, also of 1.00 and never as 1e+03."""
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"


def size_table(result: Row) -> str:
    names = list(result["points"][0]["nanoseconds_per_element"])
    rows = []
    for point in result["points"]:
        values = point["nanoseconds_per_element"]
        cells = [readable(point["bytes"]), times(point["shape"])]
        rows.append(cells + [significant(values[name]) for name in names])
    above = f"{title('Nanoseconds per element', result)}, {result['cpu']}:\n\n"
    return above + table(["tensor", "N×C×H×W", *names], rows)


def thread_table(result: Row) -> str:
    points = result["points"]
    names = list(points[0]["speed"])
    heads = [f"{name}, {times(result['shapes'][name.split()[0]])}" for name in names]
    rows = [[str(p["threads"]), *(f"{p['speed'][name]:.2f}" for name in names)] for p in points]
    above = f"Speed relative to one thread, {result['isa']}, {result['cpu']}:\n\n"
    return above + table(["threads", *heads], rows)


# ---- pictures ----


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def frame(width: int, height: int) -> list[str]:
    return [
        f"set terminal svg size {width},{height} dynamic noenhanced background rgb 'white' "
        "font 'Helvetica,14'",
        "set encoding utf8",
        "set datafile missing '?'",
        "set border 3 lc rgb '#555555'",
        "set tics nomirror",
        "set grid xtics ytics lc rgb '#E4E4E4' lt 1",
    ]


def key(sample: float) -> str:
    return f"set key outside bottom center horizontal reverse Left samplen {sample} width 2"


def block(name: str, lines: list[list[Optional[float]]]) -> list[str]:
    """Data in the script itself: gnuplot then needs no file beside it."""
    text = [" ".join("?" if value is None else f"{value:.9g}" for value in line) for line in lines]
    return [f"${name} << EOD", *text, "EOD"]


def style(norm: str, dash: str = "1") -> str:
    return f"with linespoints lw 2 lc rgb '{COLOURS[norm]}' pt {POINTS[norm]} ps 0.6 dt {dash}"


def size_curve(name: str) -> tuple[str, str]:
    """How a column looks, and what the key calls it."""
    norm, _, pass_name = name.partition(" ")
    if not pass_name:
        return "with lines lw 3 lc rgb '#333333' dt (2,3)", f"fastest {name}"
    if pass_name == INFERENCE:
        return style(norm, "(6,4)"), f"{norm}, inference"
    return style(norm), norm


def size_panel(names: list[str], wanted: tuple[str, ...]) -> str:
    curves = []
    for column, name in enumerate(names, start=2):
        if name.split()[-1] in wanted:
            look, text = size_curve(name)
            curves.append(f"$size using 1:{column} {look} title {quoted(text)}")
    return "plot " + ", \\\n  ".join(curves)


def cache_lines(found: dict[str, int], least: float, most: float) -> list[str]:
    """Labels stand above the frame, on either side of their lines: they never meet."""
    script = []
    for side, (name, size) in zip(("right", "left"), found.items()):
        if least < size < most:
            script += [
                f"set arrow from {size}, graph 0 to {size}, graph 1 nohead back "
                "lw 1 lc rgb '#888888'",
                f"set label {quoted(f'{name} {readable(size)}')} at {size}, graph 1.025 {side} "
                "textcolor rgb '#555555' font ',12'",
            ]
    return script


def size_ticks(least: float, most: float) -> str:
    """At every fourth power of two from 1 KiB on, where a decade would say 1048576."""
    places = [KIB << shift for shift in range(0, 40, 4) if least <= KIB << shift <= most]
    return "set xtics (" + ", ".join(f"{quoted(readable(size))} {size}" for size in places) + ")"


def time_ticks(least: float, most: float) -> str:
    """1, 2 and 5 of every decade: gnuplot's own, 0.1 and 1, leave the eye without a hold."""
    places = [float(f"{digit}e{power}") for power in range(-6, 7) for digit in (1, 2, 5)]
    return "set ytics (" + ", ".join(f"{y:.9g}" for y in places if least <= y <= most) + ")"


def size_script(result: Row) -> str:
    points = result["points"]
    names = list(points[0]["nanoseconds_per_element"])
    data = [[p["bytes"], *(p["nanoseconds_per_element"][name] for name in names)] for p in points]
    values = [value for line in data for value in line[1:] if value]
    lowest, highest = min(values) / 1.3, max(values) * 1.3
    least, most = points[0]["bytes"] / 1.4, points[-1]["bytes"] * 1.4
    script = frame(1120, 540) + block("size", data)
    script += [
        "set multiplot layout 1,2 margins 0.085,0.985,0.25,0.87 spacing 0.075",
        f"set logscale x 2\nset xrange [{least:.9g}:{most:.9g}]\n{size_ticks(least, most)}",
        f"set logscale y\nset yrange [{lowest:.6g}:{highest:.6g}]\n{time_ticks(lowest, highest)}",
        "set xlabel 'size of the tensor (float32)' offset 0,0.3",
        "set ylabel 'nanoseconds per element' offset 0.5",
        key(2.5),
        *cache_lines(result["caches"], least, most),
        f"set title {quoted(title('Forward', result))} offset 0,0.9",
        size_panel(names, (TRAINING, INFERENCE, "copy")),
        f"unset ylabel\nset title {quoted(title('Backward', result))} offset 0,0.9",
        size_panel(names, (BACKWARD, "triad")),
        "unset multiplot",
    ]
    return "\n".join(script) + "\n"


def title(what: str, result: Row) -> str:
    plural = "" if result["threads"] == 1 else "s"
    return f"{what}, {result['threads']} thread{plural}, {result['isa']}"


def step(most: float) -> int:
    """Between ticks, so that there are 16 at most."""
    return max(1, math.ceil(most / 16))


def thread_script(result: Row) -> str:
    points = result["points"]
    names = list(points[0]["speed"])
    data = [[p["threads"], *(p["speed"][name] for name in names)] for p in points]
    most = points[-1]["threads"]
    top = max(most, *(value for line in data for value in line[1:]))
    curves = ["$threads using 1:1 with lines lw 2 lc rgb '#333333' dt (2,3) title 'ideal'"]
    for column, name in enumerate(names, start=2):
        norm, _, pass_name = name.partition(" ")
        text = f"{norm} {times(result['shapes'][norm])}, {pass_name}"
        look = style(norm, "(6,4)" if pass_name == BACKWARD else "1")
        curves.append(f"$threads using 1:{column} {look} title {quoted(text)}")
    script = frame(720, 600) + block("threads", data)
    script += [
        f"set xrange [{1 - 0.03 * most:.3f}:{most * 1.03:.3f}]\nset yrange [0:{top * 1.05:.4f}]",
        f"set xtics {step(most)}\nset ytics {step(top) if top > 3 else 0.25}",
        # The line that follows keeps the key at a distance.
        'set xlabel "threads\\n" offset 0,0.3',
        "set ylabel 'speed relative to one thread'",
        key(3.5),
        f"set title {quoted('Speed over threads, float32, ' + result['isa'])}",
        "plot " + ", \\\n  ".join(curves),
    ]
    return "\n".join(script) + "\n"


# ---- files ----


def write(path: Path, text: str) -> None:
    """Whole or not at all."""
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, path)
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}") from None


def draw(gnuplot: str, script: str) -> str:
    picture = run(gnuplot, ["-d"], script)  # -d: without the user's own start-up files
    if "</svg>" not in picture:
        raise Failure("gnuplot: drew nothing")
    return picture


def arguments() -> argparse.Namespace:
    def positive(text: str) -> int:
        value = int(text)
        if value < 1:
            raise ValueError
        return value

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--command", required=True, metavar="AXISNORM", help="the built or installed command"
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="made where it is missing"
    )
    parser.add_argument(
        "--largest", type=positive, default=GIB, metavar="BYTES", help="of the tensors (1 GiB)"
    )
    parser.add_argument("--threads", type=int, default=0, help="of the size curve (0: all)")
    parser.add_argument(
        "--threads-most",
        type=positive,
        default=cores(),
        metavar="T",
        help="of the thread curve (all cores)",
    )
    parser.add_argument("--only", choices=("size", "threads"), help="one of the curves")
    options = parser.parse_args()
    if options.largest < SMALLEST:
        parser.error(f"--largest: at least {SMALLEST}")
    return options


def work(options: argparse.Namespace) -> None:
    bench = Bench(find("--command", options.command))
    gnuplot = find("PATH", "gnuplot")
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Failure(f"--output: {options.output}: {error.strerror}") from None
    curves: dict[str, Curve] = {
        "size": (
            lambda: measure_sizes(bench, options.largest, options.threads),
            size_script,
            size_table,
        ),
        "threads": (
            lambda: measure_threads(bench, options.threads_most),
            thread_script,
            thread_table,
        ),
    }
    for name, (measure, script, words) in curves.items():
        if options.only not in (None, name):
            continue
        bench.commands = []
        measured = measure()
        result = {**machine(bench, gnuplot), "commands": bench.commands, **measured}
        write(
            options.output / f"{name}.json", json.dumps(result, indent=1, ensure_ascii=False) + "\n"
        )
        write(options.output / f"{name}.svg", draw(gnuplot, script(result)))
        print(words(result), flush=True)


def main() -> int:
    try:
        work(arguments())
    except Failure as failure:
        print(f"curves: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
