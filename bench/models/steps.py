# SPDX-License-Identifier: MIT
"""A training step and an inference of a model: run, compared, timed turn by turn."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from statistics import median
from time import perf_counter, thread_time

import torch
from torch import Tensor, nn
from torch.nn import functional

PASSES = ("training", "inference")
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
# Of the largest magnitude of results; of the loss; and of the norm of all gradients, which are
# ill-conditioned: through ResNet-50's fifty layers, PyTorch's own in float32 are 2 % from those in float64.
TOLERANCES = {"f32": (1e-4, 1e-4, 5e-2), "bf16": (5e-2, 1e-2, 2e-1)}
ROUNDS_LEAST = 5
# On a busy machine, with one thread, what this thread itself takes tells more than what passes meanwhile.
CLOCKS = {"wall": perf_counter, "own": thread_time}


class Run:
    """A model with its data and its optimizer."""

    def __init__(
        self, model: nn.Module, data: tuple[dict[str, Tensor], Tensor], dtype: str, compiles: bool
    ) -> None:
        self.model, (self.inputs, self.target), self.dtype = model, data, dtype
        self.called = torch.compile(model, dynamic=False) if compiles else model
        self.optimizer = torch.optim.SGD(model.parameters(), 1e-3)

    def _types(self) -> AbstractContextManager[object]:
        return torch.autocast("cpu", torch.bfloat16) if self.dtype == "bf16" else nullcontext()

    def result(self) -> Tensor:
        with self._types():
            found: Tensor = self.called(**self.inputs, return_dict=False)[0]
        return found

    def training(self) -> Tensor:
        self.optimizer.zero_grad()
        is_map = self.target.is_floating_point()
        loss_of = functional.mse_loss if is_map else functional.cross_entropy
        loss = loss_of(self.result().float(), self.target)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def inference(self) -> None:
        with torch.no_grad():
            self.result()

    def step(self, pass_name: str) -> Callable[[], object]:
        self.model.train(pass_name == "training")
        return self.training if pass_name == "training" else self.inference


def _laid(tensor: Tensor, layout: str) -> Tensor:
    return tensor.to(memory_format=LAYOUTS[layout]) if tensor.dim() == 4 else tensor


def pair(
    model: nn.Module, data: tuple[dict[str, Tensor], Tensor], layout: str, dtype: str, compiles: bool,
    replace: Callable[[nn.Module], nn.Module],
) -> tuple[Run, Run]:
    """The native one and the replaced one."""
    inputs = {name: _laid(tensor, layout) for name, tensor in data[0].items()}
    native = model.to(memory_format=LAYOUTS[layout])
    replaced = replace(copy.deepcopy(native))
    laid = inputs, _laid(data[1], layout)
    return Run(native, laid, dtype, compiles), Run(replaced, laid, dtype, compiles)


def _all_gradients(run: Run) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in run.model.parameters()
                      if parameter.grad is not None])


def _differs(what: str, difference: float, magnitude: float, tolerance: float) -> None:
    if not difference <= tolerance * magnitude:  # also where there is a NaN
        raise SystemExit(f"models.py: {what} differ by {difference:g}, their magnitude is {magnitude:g}")


def _compare_training(native: Run, replaced: Run) -> None:
    _, loss, gradients = TOLERANCES[native.dtype]
    theirs, ours = (float(run.step("training")()) for run in (native, replaced))
    _differs("losses", abs(ours - theirs), abs(theirs), loss)
    due, found = _all_gradients(native), _all_gradients(replaced)
    _differs("gradients", float((found - due).norm()), float(due.norm()), gradients)


def compare(native: Run, replaced: Run, pass_name: str) -> None:
    """Raises unless both give the same results, or loss and gradients, within rounding."""
    if pass_name == "training":
        _compare_training(native, replaced)
        return
    for run in (native, replaced):
        run.model.eval()
    with torch.no_grad():
        theirs, ours = native.result().float(), replaced.result().float()
    tolerance = TOLERANCES[native.dtype][0]
    _differs("results", float((ours - theirs).abs().max()), float(theirs.abs().max()), tolerance)


def take(steps: list[Callable[[], object]], seconds: float, clock: Callable[[], float]) -> list[list[float]]:
    """For every step its samples, in seconds; samples [i] belong to one round. Who comes first in a round
    comes last in the next one."""
    samples: list[list[float]] = [[] for _ in steps]
    turns = list(zip(steps, samples, strict=True))
    gc.collect()
    gc.disable()
    for step in steps:
        step()  # after the comparison the second one: memory has found its place
    start = clock()
    while len(samples[0]) < ROUNDS_LEAST or clock() - start < seconds:
        for step, taken in turns:
            began = clock()
            step()
            taken.append(clock() - began)
        turns.reverse()
    gc.enable()
    return samples


def lead(native: list[float], replaced: list[float]) -> list[float]:
    """The quartiles over the rounds of native / replaced."""
    ratios = sorted(theirs / ours for theirs, ours in zip(native, replaced, strict=True))
    half = len(ratios) // 2
    return [median(ratios[:half]), median(ratios), median(ratios[-half:])]
