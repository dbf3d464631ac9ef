# SPDX-License-Identifier: MIT
"""The layers that are compared, from a CSV file, and arrays for them."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

PASSES = ("forward-training", "forward-inference", "backward")
EPSILON = 1e-5
TOLERANCE = 1e-4  # of an array's largest magnitude


@dataclass(frozen=True)
class Layer:
    model: str
    norm: str
    shape: tuple[int, ...]  # N, C, then the spatial axes, whatever the layout
    groups: int | None
    layout: str

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
        return (n, *space, c) if self.layout == "nhwc" else self.shape

    def __str__(self) -> str:
        groups = f", {self.groups} groups" if self.groups else ""
        return f"{self.model}: {self.norm} {'×'.join(map(str, self.shape))}{groups} {self.layout}"


def _layer(row: dict[str, str], layout: str) -> Layer:
    names = ["n", "c"] + (["d"] if row.get("d") else []) + ["h", "w"]
    shape = tuple(int(row.get(name) or 1) for name in names)
    if all(extent == 1 for extent in shape[2:]):
        shape = shape[:2]
    groups = int(row["groups"]) if row["norm"] == "group" else None
    return Layer(row.get("model", ""), row["norm"], shape, groups, layout)


def read(path: str, layout: str) -> list[Layer]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        return [_layer(row, layout) for row in csv.DictReader(file)]


def empty(shape: int | tuple[int, ...]) -> np.ndarray:
    """At a cache line's boundary, as frameworks allocate; NumPy promises less. Full of NaN: what a
    pass leaves unwritten then differs from any result."""
    size = 4 * int(np.prod(shape))
    memory = np.empty(size + 64, dtype=np.uint8)
    start = -memory.ctypes.data % 64
    array = memory[start : start + size].view(np.float32).reshape(shape)
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


def inputs(layer: Layer) -> Inputs:
    random = np.random.default_rng(1)

    def normal(shape: int | tuple[int, ...], mean: float, deviation: float) -> np.ndarray:
        values = empty(shape)
        random.standard_normal(dtype=np.float32, out=values)
        values *= np.float32(deviation)
        values += np.float32(mean)
        return values

    channels = layer.shape[1]
    return Inputs(
        x=normal(layer.stored_shape, 0.5, 1.2),
        grad_y=normal(layer.stored_shape, 0, 1.2),
        scale=normal(channels, 1, 0.3),
        shift=normal(channels, 0, 0.3),
        running_mean=normal(channels, 0.5, 0.1),
        running_variance=normal(channels, 1.5, 0.1),
    )


@dataclass
class Way:
    """One way of an implementation to compute a pass: a call, and where its results then are."""

    peer: str
    name: str
    run: Callable[[], object]
    results: Callable[[], dict[str, np.ndarray]]  # in the layout's order
    idle: float = 15e-3  # seconds until its worker threads sleep (GNU OpenMP's spin 4 to 9 ms)


def compare(layer: Layer, ours: dict[str, np.ndarray], way: Way) -> None:
    """Raises unless the way's results are those of axisnorm."""
    theirs = way.results()
    for name, expected in ours.items():
        found = theirs[name].reshape(expected.shape)
        largest = float(np.max(np.abs(expected)))
        difference = float(np.max(np.abs(expected - found)))
        if not difference <= TOLERANCE * largest:  # also where there is a NaN
            raise SystemExit(
                f"peers.py: {layer}: {way.peer}, {way.name}: {name} differs by {difference:g}, "
                f"its largest magnitude is {largest:g}"
            )
