# SPDX-License-Identifier: MIT
"""The layers that are compared, from a CSV file, and arrays for them."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes
import numpy as np

PASSES = ("forward-training", "forward-inference", "backward")
EPSILON = 1e-5
NEGATIVE_SLOPE = 0.01
DTYPES = {
    "f32": np.dtype(np.float32),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "f16": np.dtype(np.float16),
}
# Of an array's largest magnitude. A 16-bit type rounds once for each step that is not fused.
TOLERANCES = {"f32": 1e-4, "bf16": 2e-2, "f16": 2.5e-3}
COARSE = 0.5  # for what a way is known to sum in a 16-bit type: that it is no other thing, at least


@dataclass(frozen=True)
class Form:
    """What all layers of a run have in common."""

    layout: str = "nchw"
    dtype: str = "f32"  # of x, y, the residual and their gradients; all others are float32
    activation: str = "none"
    residual: bool = False

    @property
    def has_activation(self) -> bool:
        return self.activation != "none"

    @property
    def gives_grad_residual(self) -> bool:
        """Without an activation it is grad_y, and nobody writes it."""
        return self.residual and self.has_activation

    @property
    def has_corner(self) -> bool:
        return self.activation in ("relu", "leaky-relu")

    def __str__(self) -> str:
        ending = (["residual"] if self.residual else []) + [self.activation] * self.has_activation
        return " ".join([self.layout, self.dtype, *ending])


@dataclass(frozen=True)
class Layer:
    model: str
    norm: str
    shape: tuple[int, ...]  # N, C, then the spatial axes, whatever the layout
    groups: int | None
    form: Form

    @property
    def per_element(self) -> bool:
        """Layer normalization of a matrix has a scale and shift per element, as in transformers."""
        return self.norm == "layer" and len(self.shape) == 2

    @property
    def as_groups(self) -> int:
        """In how many groups group normalization does the same (not for batch normalization)."""
        return self.groups or (self.shape[1] if self.norm == "instance" else 1)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        n, c, *space = self.shape
        return (n, *space, c) if self.form.layout == "nhwc" else self.shape

    def __str__(self) -> str:
        groups = f", {self.groups} groups" if self.groups else ""
        return f"{self.model}: {self.norm} {'×'.join(map(str, self.shape))}{groups} {self.form}"


def _layer(row: dict[str, str], form: Form) -> Layer:
    names = ["n", "c"] + (["d"] if row.get("d") else []) + ["h", "w"]
    shape = tuple(int(row.get(name) or 1) for name in names)
    if all(extent == 1 for extent in shape[2:]):
        shape = shape[:2]
    groups = int(row["groups"]) if row["norm"] == "group" else None
    return Layer(row.get("model", ""), row["norm"], shape, groups, form)


def read(path: str, form: Form) -> list[Layer]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        return [_layer(row, form) for row in csv.DictReader(file)]


def empty(shape: int | tuple[int, ...], dtype: str = "f32") -> np.ndarray:
    """At a cache line's boundary, as frameworks allocate; NumPy promises less. Full of NaN: what a
    pass leaves unwritten then differs from any result."""
    size = DTYPES[dtype].itemsize * int(np.prod(shape))
    memory = np.empty(size + 64, dtype=np.uint8)
    start = -memory.ctypes.data % 64
    array = memory[start : start + size].view(DTYPES[dtype]).reshape(shape)
    array.fill(np.nan)
    return array


@dataclass
class Inputs:
    """What every implementation reads, in the layout's order."""

    x: np.ndarray
    grad_y: np.ndarray
    scale: np.ndarray
    shift: np.ndarray
    running_mean: np.ndarray
    running_variance: np.ndarray
    residual: np.ndarray | None

    def avoid_corner(self, argument: np.ndarray, dtype: str) -> None:
        """Makes grad_y 0 where the activation's argument is so close to 0 that rounding decides on
        which side of ReLU's corner it falls: its derivative there is anyone's."""
        self.grad_y[np.abs(argument.astype(np.float32)) < 2 * TOLERANCES[dtype]] = 0


def inputs(layer: Layer) -> Inputs:
    random = np.random.default_rng(1)

    def normal(
        shape: int | tuple[int, ...], mean: float, deviation: float, dtype: str = "f32"
    ) -> np.ndarray:
        values = empty(shape, dtype)
        drawn = random.standard_normal(shape, np.float32)
        values[...] = drawn * np.float32(deviation) + np.float32(mean)
        return values

    channels, stored, dtype = layer.shape[1], layer.stored_shape, layer.form.dtype
    return Inputs(
        x=normal(stored, 0.5, 1.2, dtype),
        grad_y=normal(stored, 0, 1.2, dtype),
        scale=normal(channels, 1, 0.3),
        shift=normal(channels, 0, 0.3),
        running_mean=normal(channels, 0.5, 0.1),
        running_variance=normal(channels, 1.5, 0.1),
        residual=normal(stored, 0, 1.2, dtype) if layer.form.residual else None,
    )


@dataclass
class Way:
    """One way of an implementation to compute a pass: a call, and where its results then are."""

    peer: str
    name: str
    run: Callable[[], object]
    results: Callable[[], dict[str, np.ndarray]]  # in the layout's order
    idle: float = 15e-3  # seconds until its worker threads sleep (GNU OpenMP's spin 4 to 9 ms)
    coarse: tuple[str, ...] = ()  # results that are off by more than the type


def compare(layer: Layer, ours: dict[str, np.ndarray], way: Way) -> None:
    """Raises unless the way's results are those of axisnorm."""
    theirs = way.results()
    for name, result in ours.items():
        tolerance = COARSE if name in way.coarse else TOLERANCES[layer.form.dtype]
        expected = result.astype(np.float32)
        found = theirs[name].reshape(expected.shape).astype(np.float32)
        largest = float(np.max(np.abs(expected)))
        difference = float(np.max(np.abs(expected - found)))
        if not difference <= tolerance * largest:  # also where there is a NaN
            raise SystemExit(
                f"peers.py: {layer}: {way.peer}, {way.name}: {name} differs by {difference:g}, "
                f"its largest magnitude is {largest:g}"
            )
