# SPDX-License-Identifier: MIT
"""Calls outside of all transforms, compilers and modes: straight to the library.

PyTorch's dispatcher would take longer than the normalization of a small tensor. What comes out is the same,
and so are derivatives of derivatives, for which the operators are called.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy
import torch
from torch import Tensor, empty_like, is_grad_enabled
from torch.autograd.graph import increment_version
from torch.compiler import is_dynamo_compiling

from .. import _core
from ._operators import call, like, statistics_shape
from ._runtime import ELEMENTS, plan_or_none

EAGER, EAGER_WITH_GRADIENTS = 1, 2  # what _core.eager answers

# What is to be computed: norm, groups, axis, epsilon, activation ("none" for none), negative_slope.
Options = tuple[str, int, int, float, str, float]
_Running = tuple[Tensor | None, Tensor | None]


class _Call(NamedTuple):
    plan: _core.Plan
    options: Options
    running: _Running
    given: bool  # running statistics normalize; else they are updated in place


class _Normalization(torch.autograd.Function):
    """y as a function of x, scale, shift and residual."""

    @staticmethod
    def forward(ctx, x, scale, shift, residual, call):  # type: ignore[no-untyped-def]
        y = empty_like(x)
        plan, options, running, given = ctx.call = call
        if given:
            plan.inference_of_tensors(x, y, scale, shift, *running, residual)
            statistics = running
        else:
            # Arrays of NumPy: made sooner than tensors, and autograd need not keep them.
            count, dtype = plan.statistics_count, "float64" if x.dtype == torch.float64 else "float32"
            mean, rstd = ctx.statistics = numpy.empty(count, dtype), numpy.empty(count, dtype)
            plan.training_of_tensors(x, y, scale, shift, mean, rstd, *running, None, residual)
            statistics = ()
        if options[4] == "none":  # then backward does not take these
            residual = None
            if scale is not None:
                shift = None
        ctx.save_for_backward(x, scale, shift, residual, *statistics)
        return y

    @staticmethod
    def backward(ctx, grad_y):  # type: ignore[no-untyped-def]
        saved, mask = ctx.saved_tensors, ctx.needs_input_grad
        if is_grad_enabled() or is_dynamo_compiling() or not _core.eager(grad_y, *saved):
            return *_differentiable_gradients(ctx, grad_y, saved, mask[:4]), None
        return *_gradients(ctx, grad_y, saved, mask), None


# Function.apply looks for transforms first, of which there are none here.
_apply = super(torch.autograd.Function, _Normalization).apply


def _gradients(ctx: Any, grad_y: Tensor, saved: Any, mask: Any) -> tuple[Tensor | None, ...]:
    x, scale, shift, residual, *running = saved
    plan, options, _, given = ctx.call
    if grad_y.stride() != x.stride():
        grad_y = like(grad_y, x)
    active = options[4] != "none"
    grad_scale = empty_like(scale) if mask[1] else None
    grad_shift = empty_like(scale if shift is None else shift) if mask[2] else None
    grad_residual = empty_like(x) if mask[3] and active else None
    # An activation's derivative is written to one of them first.
    grad_x = empty_like(x) if mask[0] or (active and grad_residual is None) else None
    statistics = (None, None, *running) if given else (*ctx.statistics, None, None)
    plan.backward_of_tensors(x, grad_y, scale, *statistics, grad_x, grad_scale, grad_shift,
                             shift if active else None, residual, grad_residual)
    if mask[3] and not active:
        grad_residual = grad_y
    return grad_x if mask[0] else None, grad_scale, grad_shift, grad_residual


def _differentiable_gradients(ctx: Any, grad_y: Tensor, saved: Any, mask: Any) -> list[Tensor | None]:
    _, options, _, given = ctx.call
    norm, groups, axis, *rest = options
    if given:
        gradients = call("normalize_by_backward", grad_y, *saved, *rest, list(mask))
    else:
        shape = statistics_shape(saved[0], norm, groups, axis)
        mean, rstd = (torch.from_numpy(array).reshape(shape) for array in ctx.statistics)
        gradients = call("normalize_backward", grad_y, *saved, mean, rstd, *options, list(mask))
    return [gradient if wanted else None for gradient, wanted in zip(gradients, mask, strict=True)]


_NONE = None, None


def normalize(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, residual: Tensor | None, options: Options,
    running: _Running = _NONE, momentum: float = 0.1, given: bool = False,
) -> Tensor | None:
    """y, or None where PyTorch looks on, or the tensors are none that the library takes.

    Running statistics normalize where they are `given`; else they are updated in place."""
    how = _core.eager(x, scale, shift, residual, *running)
    if not how:
        return None
    norm, groups, axis, epsilon, activation, slope = options
    plan = plan_or_none("batch" if given else norm, x, scale, shift, residual, *running, groups, axis, epsilon,
                        momentum, activation, slope)
    if plan is None:
        dense = _contiguous(x)
        return None if dense is x else normalize(
            dense, scale, shift, residual, options, running, momentum, given)
    if how == EAGER_WITH_GRADIENTS:
        y: Tensor = _apply(x, scale, shift, residual, _Call(plan, options, running, given))
    else:
        y = _without_gradients(x, scale, shift, residual, plan, norm, running, given)
    if running[0] is not None and not given:
        _count_change(running)
    return y


def _without_gradients(x, scale, shift, residual, plan, norm, running, given):  # type: ignore[no-untyped-def]
    y = empty_like(x)
    if given or norm not in ("batch", "instance"):
        plan.inference_of_tensors(x, y, scale, shift, *running, residual)
    else:
        plan.training_of_tensors(x, y, scale, shift, None, None, *running, None, residual)
    return y


def _contiguous(x: Tensor) -> Tensor:
    return x.contiguous() if x.is_cpu and x.layout == torch.strided and x.dtype in ELEMENTS else x


def _count_change(tensors: Any) -> None:
    """Tells autograd of a change in place, that it may find where a tensor was still needed as it was."""
    for tensor in tensors:
        if not tensor.is_inference():
            increment_version(tensor)
