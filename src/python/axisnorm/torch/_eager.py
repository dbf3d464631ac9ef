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

from .. import _core
from ._operators import call, dense, statistics_shape
from ._runtime import ELEMENTS

# What is to be computed: norm, groups, axis (or the extents of the last axes), epsilon, activation ("none" for
# none), negative_slope.
Options = tuple[str, int, int | tuple[int, ...], float, str, float]


class _Normalization(torch.autograd.Function):
    """y as a function of x, scale, shift and residual."""

    forward = staticmethod(_core.record)

    @staticmethod
    def backward(ctx, grad_y):  # type: ignore[no-untyped-def]
        """By the operators, so that it can be differentiated."""
        saved = ctx.saved_tensors
        _, (norm, groups, extents, *rest), given, statistics, wanted = ctx.kept
        mask = [bool(input_wants) for input_wants in wanted]
        if given:
            gradients = call("normalize_by_backward", grad_y, *saved, *rest, mask)
        else:
            axis = axis_of(extents, saved[0])
            both = torch.frombuffer(bytearray(statistics), dtype=ELEMENTS[saved[0].dtype])
            shape = statistics_shape(saved[0], norm, groups, axis)
            mean, rstd = (half.reshape(shape) for half in both.chunk(2))
            gradients = call(
                "normalize_backward", grad_y, *saved, mean, rstd, norm, groups, axis, *rest, mask)
        by_input = zip(gradients, wanted, strict=True)
        return tuple(gradient if wants else None for gradient, wants in by_input if wants is not None)


# Function.apply would look for transforms first, of which there are none here. Nodes go to the library past
# backward, which they would look for, and which compilers of backward passes see.
apply = super(torch.autograd.Function, _Normalization).apply
_Normalization._backward_cls.apply = _core.node_apply(_Normalization._backward_cls)  # type: ignore[attr-defined]


def axis_of(axis: int | tuple[int, ...], x: Tensor) -> int:
    """The first axis that is normalized over."""
    return axis if isinstance(axis, int) else x.dim() - len(axis)


def normalize(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, residual: Tensor | None, options: Options,
    running_mean: Tensor | None, running_variance: Tensor | None, momentum: float, given: bool,
    inplace: bool = False,
) -> Tensor | None:
    """y, or None where PyTorch looks on, or the tensors are none that the library takes.

    Running statistics normalize where they are `given`; else they are updated in place."""
    y: Tensor | None = _core.normalize(
        apply, options, x, scale, shift, residual, inplace, running_mean, running_variance, momentum, given)
    if y is x:
        overwritten(x)
    if y is not None and running_mean is not None and not given:
        _count_changes(running_mean, running_variance)  # type: ignore[arg-type]
    return y


def densified(x: Tensor, norm: str) -> Tensor:
    """x, copied where it lies as the library does not take it, if its type is known at all."""
    is_known = x.is_cpu and x.layout == torch.strided and not x.is_nested and x.dtype in ELEMENTS
    return dense(x, norm) if is_known else x


def overwritten(x: Tensor) -> Tensor:
    """x, in whose place y is now."""
    _count_changes(x)
    return x


def _count_changes(*tensors: Tensor) -> None:
    """Tells autograd of changes in place, that it may find where a tensor was still needed as it was."""
    for tensor in tensors:
        if not tensor.is_inference():
            increment_version(tensor)
