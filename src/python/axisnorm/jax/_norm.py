# SPDX-License-Identifier: MIT
"""What to normalize, as a constant of the traced program."""

from __future__ import annotations

import math
import os
from typing import Any, NamedTuple

import jax.numpy as jnp

from .._core import ArgumentError, Plan
from .._norms import plan_of

# axn_dtype, and the type of parameters and statistics that goes with it.
ELEMENTS: dict[Any, tuple[int, Any]] = {
    jnp.dtype("float32"): (1, jnp.dtype("float32")), jnp.dtype("float64"): (2, jnp.dtype("float64")),
    jnp.dtype(jnp.bfloat16): (3, jnp.dtype("float32")), jnp.dtype("float16"): (4, jnp.dtype("float32"))}

# As many as XLA's pool has, unless it was told otherwise: to plan for, not to run on.
THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

ROWS = ("layer", "rms")
TRACKED = ("batch", "ghost", "instance")  # keep running statistics, and need two values to train on


class Norm(NamedTuple):
    name: str
    channels_last: bool = False
    axis: int = 1
    groups: int = 1
    ghost_batch: int = 0
    per_element: bool = False
    epsilon: float = 1e-5
    momentum: float = 0.1
    unbiased: bool = True
    activation: str = "none"
    negative_slope: float = 0.01

    @property
    def is_active(self) -> bool:
        return self.activation != "none"

    @property
    def has_mean(self) -> bool:
        return self.name != "rms"

    @property
    def joins_samples(self) -> bool:
        """Whether a statistic is one of the whole batch, so that batches cannot be put end to end."""
        return self.name == "batch" or (self.name in ROWS and self.axis == 0)

    def channel(self, rank: int) -> int:
        return rank - 1 if self.channels_last else 1

    def plan(self, x: Any) -> Plan:
        """The library's plan for such an x: what it says of shapes and sizes, and refuses. Its loop is a
        host's, as in the handlers, whose sizes are then the same; no pass is run with it here."""
        if x.dtype not in ELEMENTS:
            raise ArgumentError(f"x: elements of type {x.dtype} are not supported")
        return plan_of(
            self.name, ELEMENTS[x.dtype][0], tuple(x.shape), self.channels_last, self.channels_last,
            self.groups, self.axis, self.per_element, self.epsilon, self.momentum, self.unbiased, THREADS, True,
            self.ghost_batch, self.activation, self.negative_slope)

    def check_values(self, x: Any) -> None:
        """Training needs two values per statistic, where the variance of one would be kept."""
        statistics = math.prod(self.plan(x).statistics[1])
        if self.name in TRACKED and x.size == statistics > 0:
            raise ArgumentError(f"shape: {self.name} normalization has one value per statistic to train on")


class Forward(NamedTuple):
    """What a training pass gives; None for what it was not given or the norm has not."""

    y: Any
    mean: Any
    rstd: Any
    running: Any
    batch_count: Any


class Gradients(NamedTuple):
    x: Any
    scale: Any
    shift: Any
    residual: Any
