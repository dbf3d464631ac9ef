#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Whole models with PyTorch's normalizations and with axisnorm's in their place: checked to be equal, timed
turn by turn, as Markdown on standard output. README.md beside this file says more."""

from __future__ import annotations

import argparse
import inspect
import json
import platform
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Any

import torch
from torch import nn

import architectures
import axisnorm.torch
import report
import share
import steps
from architectures import Architecture

sys.path.append(str(Path(__file__).parents[1]))
from machine import cpu_model, foreign_seconds  # noqa: E402

Row = dict[str, Any]
FUSE = {"sequential": True, "trace": "trace"}
DEFAULT_MODELS = ["resnet", "convnext", "vit", "unet"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=tuple(architectures.FULL), default=DEFAULT_MODELS,
                        help="resnet convnext vit unet, where vit is ViT-S; vit-b on demand")
    parser.add_argument("--layouts", nargs="+", choices=tuple(steps.LAYOUTS), default=list(steps.LAYOUTS))
    parser.add_argument("--passes", nargs="+", choices=steps.PASSES, default=list(steps.PASSES))
    parser.add_argument("--training-batch", type=int, help="instead of each model's own")
    parser.add_argument("--inference-batch", type=int, help="instead of each model's own")
    parser.add_argument("--small", action="store_true", help="tiny models, to see that all works")
    parser.add_argument("--fuse", choices=tuple(FUSE), help="replace(model, fuse=...): activations too")
    parser.add_argument("--itself", action="store_true",
                        help="a copy of the native model in the replaced one's place: how far equals differ")
    parser.add_argument("--compile", action="store_true", help="both by torch.compile (takes minutes)")
    parser.add_argument("--dtype", choices=("f32", "bf16"), default="f32", help="bf16: autocast")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=tuple(steps.CLOCKS), default="wall",
                        help="own: time of the thread itself, for a busy machine; with --threads 1")
    parser.add_argument("--seconds", type=float, default=12, help="per row (12)")
    parser.add_argument("--clocked", type=int, default=5, metavar="STEPS",
                        help="per row, for the share of normalization (5; 0: none)")
    parser.add_argument("--json", metavar="FILE", help="write all rows there too, with every sample")
    options = parser.parse_args()
    if options.itself and options.fuse:
        parser.error("--itself: replaces nothing, so nothing is fused")
    if options.clock == "own" and options.threads != 1:
        parser.error("--clock own: the time of one thread, so --threads 1")
    return options


def replacement(fuse: str | None, itself: bool) -> Callable[[nn.Module], nn.Module]:
    if itself:
        return lambda model: model
    if fuse is None:
        return axisnorm.torch.replace
    if "fuse" not in inspect.signature(axisnorm.torch.replace).parameters:
        raise SystemExit("models.py: --fuse: this axisnorm's replace has no such argument")
    return lambda model: axisnorm.torch.replace(model, fuse=FUSE[fuse])


def shares(
    runs: tuple[steps.Run, steps.Run], pass_name: str, options: argparse.Namespace
) -> list[dict[str, float]]:
    """Of both, the median of some steps with clocks."""
    found: list[list[tuple[float, float]]] = [[], []]
    for _ in range(options.clocked):
        for run, samples in zip(runs, found, strict=True):
            samples.append(share.seconds_of(run.model, run.step(pass_name), options.fuse is not None,
                                            steps.CLOCKS[options.clock]))
    return [{"seconds": median(normal for normal, _ in samples),
             "share": median(normal / whole for normal, whole in samples)} for samples in found]


def row_of(
    architecture: Architecture, layout: str, pass_name: str, options: argparse.Namespace
) -> Row:
    torch.manual_seed(1)
    is_training = pass_name == "training"
    batch = (options.training_batch or architecture.training_batch if is_training
             else options.inference_batch or architecture.inference_batch)
    runs = steps.pair(architecture.model(), architecture.data(batch), layout, options.dtype, options.compile,
                      replacement(options.fuse, options.itself))
    steps.compare(*runs, pass_name)
    native, replaced = steps.take([run.step(pass_name) for run in runs], options.seconds,
                                  steps.CLOCKS[options.clock])
    row: Row = {
        "model": architecture.name, "norm": architecture.norms, "layout": layout, "pass": pass_name,
        "batch": batch, "parameters": sum(parameter.numel() for parameter in runs[0].model.parameters()),
        "rounds": len(native), "native_seconds": median(native), "replaced_seconds": median(replaced),
        "lead": steps.lead(native, replaced), "native_samples": native, "replaced_samples": replaced}
    # What is compiled is no longer apart, and the clocks' hooks keep a Sequential from fusing.
    if options.clocked and not options.compile and options.fuse != "sequential":
        row["native_share"], row["replaced_share"] = shares(runs, pass_name, options)
    return row


def rows_of(options: argparse.Namespace) -> list[Row]:
    known = architectures.SMALL if options.small else architectures.FULL
    rows = []
    for name in options.models:
        if name not in known:
            raise SystemExit(f"models.py: there is no small {name}")
        for layout in options.layouts:
            for pass_name in options.passes:
                print(f"models.py: {name} {layout} {pass_name}", file=sys.stderr)
                torch.compiler.reset()
                rows.append(row_of(known[name], layout, pass_name, options))
    return rows


def facts_of(options: argparse.Namespace) -> dict[str, Any]:
    form = ["bfloat16 by autocast" if options.dtype == "bf16" else "float32",
            "torch.compile" if options.compile else "eager"]
    if options.fuse:
        form.append(f"fused: {options.fuse}")
    if options.itself:
        form.append("nothing replaced")
    return {
        "form": ", ".join(form),
        "share": "normalization and activations" if options.fuse else "normalization",
        "processor": cpu_model(), "system": platform.platform(),
        "threads": options.threads, "clock": options.clock, "Python": platform.python_version(),
        **{name: version(name) for name in ("axisnorm", "torch", "transformers", "diffusers")}}


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    facts = facts_of(options)
    began, foreign = monotonic(), foreign_seconds()
    rows = rows_of(options)
    elapsed = monotonic() - began
    facts["other processes ran for"] = f"{foreign_seconds() - foreign:.1f} s of {elapsed:.1f} s"
    if options.json:
        text = json.dumps({"machine": facts, "rows": rows}, indent=1, ensure_ascii=False)
        Path(options.json).write_text(text + "\n", encoding="utf-8")
    print(report.markdown(facts, rows))


if __name__ == "__main__":
    main()
