# SPDX-License-Identifier: MIT
"""The axisnorm command, which lies beside this file: one program, whoever starts it."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

from ._core import ArgumentError, Error

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def command() -> Any:
    """A context manager that gives the path of the command."""
    return as_file(files(__package__) / "axisnorm-command")


def _list(values: str | int | Iterable[Any]) -> str:
    return str(values) if isinstance(values, (str, int)) else ",".join(str(value) for value in values)


def _run(arguments: list[str], file: str = "") -> list[dict[str, Any]]:
    """The rows; `file` holds what the caller knows as x."""
    if file:
        arguments = [*arguments, f"--input={file}"]
    with command() as program:
        arguments = [str(program), "compare", "--format=json", *arguments]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return list(json.loads(done.stdout)["rows"])
    message = done.stderr.strip().removeprefix("axisnorm: ") or f"the command ended with {done.returncode}"
    if file:
        message = message.replace(file, "x")
    raise (ArgumentError if done.returncode in (1, 2) else Error)(message)


def compare(
    x: ArrayLike | None = None, *, shape: Sequence[int] | None = None,
    batch: int | Iterable[int] | None = None, norms: str | Iterable[str] | None = None,
    groups: int | None = None, axis: int | None = None, epsilon: float | None = None,
    layout: str | None = None, seed: int | None = None, threads: int | None = None,
    ghost_batch: int | None = None, activation: str | None = None, negative_slope: float | None = None,
) -> list[dict[str, Any]]:
    """What each normalization does as the batch shrinks: the analysis of the command's ``compare``.

    It is the command that computes, so the numbers are the same; ``man axisnorm`` defines them.

    Args:
        x: activations of float32, float64, float16 or bfloat16, [N, C, spatial...]; with layout "nhwc"
            [N, spatial..., C]. They reach the command as a file. All samples together stand for the population,
            so there should be many more of them than in the largest batch. Without x and shape: the
            activations that ship with the command.
        shape: N, C, spatial of random activations instead.
        batch: batch sizes.
        norms: names, or "all"; by default "batch", "layer", "instance", "group".
        groups, axis, epsilon, layout, seed, threads, ghost_batch, activation, negative_slope: as the options of
            the command.

    Returns:
        A dict per norm and batch size, with the keys norm, groups, activation, batch, ghost_batch,
        values_per_statistic, statistics, mean_noise, variance_noise, output_deviation, gradient_deviation,
        forward_seconds, inference_seconds, backward_seconds, copy_seconds. What is not defined is None.
    """
    options = {"groups": groups, "axis": axis, "epsilon": epsilon, "layout": layout, "seed": seed,
               "threads": threads, "ghost-batch": ghost_batch, "activation": activation,
               "negative-slope": negative_slope}
    lists = {"shape": shape, "batch": batch, "norms": norms}
    arguments = [f"--{name}={value}" for name, value in options.items() if value is not None]
    arguments += [f"--{name}={_list(values)}" for name, values in lists.items() if values is not None]
    if x is None:
        return _run(arguments)
    array = numpy.ascontiguousarray(x)
    if array.dtype.name == "bfloat16":
        array = array.view("uint16")
        arguments.append("--dtype=bf16")
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "x.npy"
        numpy.save(file, array, allow_pickle=False)
        return _run(arguments, str(file))
