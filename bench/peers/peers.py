#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Normalization layers through axisnorm, PyTorch, ONNX Runtime and oneDNN: checked to be equal,
timed turn by turn, as Markdown on standard output. README.md beside this file says more."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Any

import numpy as np
import torch

import axisnorm_ctypes
import layers
import onnx_runtime
import pytorch
import report
import turns
from layers import Form, Inputs, Layer, Way
from ours import Axisnorm, argument

sys.path.append(str(Path(__file__).parents[1]))
from machine import cpu_model, foreign_seconds  # noqa: E402

Row = dict[str, Any]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", required=True, metavar="FILE.csv")
    parser.add_argument("--library", required=True, metavar="LIBAXISNORM.so")
    parser.add_argument("--onednn", metavar="PROGRAM", help="the program built of onednn.c")
    parser.add_argument("--layout", choices=("nchw", "nhwc"), default="nchw")
    parser.add_argument("--dtype", choices=tuple(layers.DTYPES), default="f32")
    parser.add_argument("--activation", choices=axisnorm_ctypes.ACTIVATIONS, default="none")
    parser.add_argument("--residual", action="store_true", help="added before the activation")
    parser.add_argument("--compile", action="store_true", help="torch.compile too (takes minutes)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.2, help="per row (0.2)")
    parser.add_argument("--json", metavar="FILE", help="write all rows there too")
    return parser.parse_args()


def keep_freed_memory() -> None:
    """PyTorch allocates most results anew. With glibc's defaults large ones would be new pages each
    time, and the kernel's work on these would be measured."""
    trim_threshold, mmap_max = -1, -4
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(trim_threshold, -1)
        libc.mallopt(mmap_max, 0)


def row_of(layer: Layer, pass_name: str, peer: str) -> Row:
    return {
        "model": layer.model,
        "norm": layer.norm,
        "shape": list(layer.shape),
        "groups": layer.groups,
        **asdict(layer.form),
        "pass": pass_name,
        "peer": peer,
    }


def onnx_ways(
    layer: Layer, inputs: Inputs, pass_name: str, threads: int
) -> tuple[list[Way], list[Row]]:
    reason = onnx_runtime.lacks(layer, pass_name)
    if reason is None:
        try:
            return [onnx_runtime.way(layer, inputs, pass_name, threads)], []
        except Exception as error:  # its exceptions share no base class but this
            if not type(error).__module__.startswith("onnxruntime"):
                raise
            reason = str(error).splitlines()[0]
    return [], [row_of(layer, pass_name, "ONNX Runtime") | {"lacks": reason}]


def copy_of(inputs: Inputs) -> Way:
    """PyTorch's copy, on its threads."""
    source = pytorch.tensor_of(inputs.x).view(-1)
    to = torch.empty_like(source)
    return Way("copy", "copy_", lambda: to.copy_(source), dict)


def timed(layer: Layer, pass_name: str, ways: list[Way], seconds: float) -> list[Row]:
    """Of axisnorm first, the copy last, and peers between. A row per peer: where it has several
    ways, the fastest counts."""
    ours, *theirs, copied = turns.take(ways, seconds)
    rows: dict[str, Row] = {}
    for way, samples in zip(ways[1:-1], theirs, strict=True):
        row = row_of(layer, pass_name, way.peer) | {
            "way": way.name,
            "rounds": len(samples),
            "axisnorm_seconds": median(ours),
            "peer_seconds": median(samples),
            "copy_seconds": median(copied),
            "lead": turns.lead(ours, samples),
        }
        if way.peer not in rows or row["lead"] < rows[way.peer]["lead"]:
            rows[way.peer] = row
    return list(rows.values())


def rows_of(
    layer: Layer, library: axisnorm_ctypes.Library, options: argparse.Namespace
) -> list[Row]:
    inputs = layers.inputs(layer)
    if layer.form.has_corner:
        inputs.avoid_corner(argument(library, layer, inputs, options.threads), layer.form.dtype)
    axisnorm = Axisnorm(library, layer, inputs, options.threads)
    peer = pytorch.PyTorch(layer, inputs, options.compile)
    copy = copy_of(inputs)
    rows: list[Row] = []
    for pass_name in layers.PASSES:
        ways, lacking = onnx_ways(layer, inputs, pass_name, options.threads)
        ways = peer.ways(pass_name) + ways
        ours = axisnorm.way(pass_name)
        ours.run()
        for way in ways:
            layers.compare(layer, ours.results(), way)
        rows += timed(layer, pass_name, [ours, *ways, copy], options.seconds) + lacking
    return rows


def form_of(options: argparse.Namespace) -> Form:
    return Form(options.layout, options.dtype, options.activation, options.residual)


def python_rows(library: axisnorm_ctypes.Library, options: argparse.Namespace) -> list[Row]:
    found = layers.read(options.shapes, form_of(options))
    rows = []
    for number, layer in enumerate(found, 1):
        print(f"peers.py: layer {number} of {len(found)}: {layer}", file=sys.stderr)
        rows += rows_of(layer, library, options)
    return rows


def environment(threads: int) -> dict[str, str]:
    """For oneDNN. Its package on PyPI reaches the processor through Intel's OpenCL, which pip puts
    where OpenCL does not look for it."""
    variables = os.environ | {"OMP_NUM_THREADS": str(threads), "DPCPP_CPU_NUM_CUS": str(threads)}
    driver = Path(sys.prefix, "lib", "libintelocl.so")
    if driver.exists():
        variables.setdefault("OCL_ICD_FILENAMES", str(driver))
    return variables


def run_onednn(options: argparse.Namespace) -> dict[str, Any]:
    command = [options.onednn, "--shapes", options.shapes, "--layout", options.layout]
    command += ["--dtype", options.dtype, "--activation", options.activation]
    command += ["--residual"] * options.residual
    command += ["--threads", str(options.threads), "--seconds", str(options.seconds)]
    variables = environment(options.threads)
    done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"peers.py: {options.onednn} failed")
    return json.loads(done.stdout)


def machine(library: axisnorm_ctypes.Library, threads: int) -> dict[str, Any]:
    return {
        "processor": cpu_model(),
        "system": platform.platform(),
        "threads": threads,
        "axisnorm": f"{library.version()} ({isa_of(library)})",
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        **pytorch.versions(),
        **onnx_runtime.versions(),
    }


def isa_of(library: axisnorm_ctypes.Library) -> str:
    layer = Layer("", "layer", (1, 2), None, Form())
    plan = Axisnorm(library, layer, layers.inputs(layer), 1).plan
    return library.isa_name(plan.info.isa)


def in_order(rows: list[Row]) -> list[Row]:
    """Rows of one case side by side, cases as in the file."""
    cases = list(dict.fromkeys(report.case(row) for row in rows))
    places = {case: place for place, case in enumerate(cases)}
    return sorted(rows, key=lambda row: places[report.case(row)])


def main() -> None:
    options = arguments()
    keep_freed_memory()
    pytorch.start(options.threads)
    # After PyTorch, so that both use the OpenMP library that it brings: one team of threads.
    library = axisnorm_ctypes.Library(options.library)
    facts = machine(library, options.threads)
    rows: list[Row] = []
    began, foreign = monotonic(), foreign_seconds()
    if options.onednn:
        found = run_onednn(options)
        facts |= found["versions"]
        rows += found["rows"]
    rows = in_order(rows + python_rows(library, options))
    disturbance = f"{foreign_seconds() - foreign:.1f} s of {monotonic() - began:.1f} s"
    facts["other processes ran for"] = disturbance
    if options.json:
        found = {"machine": facts, "form": asdict(form_of(options)), "rows": rows}
        text = json.dumps(found, indent=1, ensure_ascii=False)
        Path(options.json).write_text(text + "\n", encoding="utf-8")
    print(report.markdown(facts, asdict(form_of(options)), rows))


if __name__ == "__main__":
    main()
