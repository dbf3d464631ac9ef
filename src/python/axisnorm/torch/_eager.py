# SPDX-License-Identifier: MIT
"""Calls outside of all transforms, compilers and modes: straight to the library.

PyTorch's dispatcher would take longer than the normalization of a small tensor. What comes out is the same,
and so are derivatives of derivatives, for which the operators are called.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.compiler import is_dynamo_compiling

from .. import _core
from ._operators import call, dense, statistics_shape
from ._runtime import ELEMENTS

# What is to be computed: norm, groups, axis, epsilon, activation ("none" for none), negative_slope.
Options = tuple[str, int, int, float, str, float]


class _Normalization(torch.autograd.Function):
    """y as a function of x, scale, shift and residual."""

    @staticmethod
    def forward(ctx, x, scale, shift, residual, call):  # type: ignore[no-untyped-def]
        plan, running_mean, running_variance, given, options = ctx.call = call
        y, ctx.statistics = plan.forward(x, scale, shift, residual, running_mean, running_variance, given)
        if options[4] == "none":  # then backward does not take these
            residual = None
            if scale is not None:
                shift = None
        if given:
            ctx.save_for_backward(x, scale, shift, residual, running_mean, running_variance)
        else:
            ctx.save_for_backward(x, scale, shift, residual)
        return y

    @staticmethod
    def backward(ctx, grad_y):  # type: ignore[no-untyped-def]
        if not is_dynamo_compiling():
            gradients = ctx.call[0].gradients(
                grad_y, ctx.needs_input_grad, ctx.statistics, *ctx.saved_tensors)
            if gradients is not None:
                return gradients
        return _differentiable_gradients(ctx, grad_y)


# Function.apply looks for transforms first, of which there are none here.
_apply = super(torch.autograd.Function, _Normalization).apply


def _differentiable_gradients(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    saved, mask = ctx.saved_tensors, list(ctx.needs_input_grad[:4])
    *_, given, options = ctx.call
    norm, groups, axis, *rest = options
    if given:
        gradients = call("normalize_by_backward", grad_y, *saved, *rest, mask)
    else:
        both = torch.frombuffer(bytearray(ctx.statistics), dtype=ELEMENTS[saved[0].dtype])
        shape = statistics_shape(saved[0], norm, groups, axis)
        mean, rstd = (half.reshape(shape) for half in both.chunk(2))
        gradients = call("normalize_backward", grad_y, *saved, mean, rstd, *options, mask)
    return *(gradient if wanted else None for gradient, wanted in zip(gradients, mask, strict=True)), None


def normalize(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, residual: Tensor | None, options: Options,
    running_mean: Tensor | None = None, running_variance: Tensor | None = None, momentum: float = 0.1,
    given: bool = False,
) -> Tensor | None:
    """y, or None where PyTorch looks on, or the tensors are none that the library takes.

    Running statistics normalize where they are `given`; else they are updated in place."""
    y: Tensor | None = _core.normalize(
        _apply, options, x, scale, shift, residual, running_mean, running_variance, momentum, given)
    if y is None:
        copied = _dense(x, options[0])
        if copied is not x:
            return normalize(
                copied, scale, shift, residual, options, running_mean, running_variance, momentum, given)
    elif running_mean is not None and not given:
        _count_changes(running_mean, running_variance)  # type: ignore[arg-type]
    return y


def _dense(x: Tensor, norm: str) -> Tensor:
    is_known = x.is_cpu and x.layout == torch.strided and not x.is_nested and x.dtype in ELEMENTS
    return dense(x, norm) if is_known else x


def _count_changes(*tensors: Tensor) -> None:
    """Tells autograd of changes in place, that it may find where a tensor was still needed as it was."""
    for tensor in tensors:
        if not tensor.is_inference():
            increment_version(tensor)
