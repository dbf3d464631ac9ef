# SPDX-License-Identifier: MIT
"""The backward passes in PyTorch's own differentiable operators: for second and higher derivatives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._runtime import ROWS


def _grouped(x: Tensor, norm: str, groups: int, axis: int) -> tuple[Tensor, tuple[int, ...]]:
    """x so that the reduced axes are whole ones, and which these are."""
    if norm == "batch":
        return x, (0, *range(2, x.dim()))
    if norm in ROWS:
        return x, tuple(range(axis, x.dim()))
    if norm == "instance":
        return x, tuple(range(2, x.dim()))
    split = x.reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
    return split, tuple(range(2, split.dim()))


def _spread(parameter: Tensor, x: Tensor, norm: str) -> Tensor:
    """A parameter against all axes of x."""
    return parameter if norm in ROWS else parameter.reshape(-1, *[1] * (x.dim() - 2))


def _sum_to_parameter(gradient: Tensor, norm: str, axis: int) -> Tensor:
    kept = range(axis, gradient.dim()) if norm in ROWS else (1,)
    reduced = [dim for dim in range(gradient.dim()) if dim not in kept]
    return gradient.sum(reduced) if reduced else gradient


def backward_formula(
    grad_y: Tensor, x: Tensor, scale: Tensor | None, mean: Tensor, rstd: Tensor, norm: str, groups: int,
    axis: int, epsilon: float, output_mask: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """`normalize_backward` as a function of grad_y, x and scale; mean and rstd are functions of x."""
    parts, dims = _grouped(x, norm, groups, axis)
    has_mean = norm != "rms"
    centred = parts - parts.mean(dims, keepdim=True) if has_mean else parts
    inverse = ((centred * centred).mean(dims, keepdim=True) + epsilon).rsqrt()
    normalized = centred * inverse
    gradient = (grad_y if scale is None else grad_y * _spread(scale, x, norm)).reshape(parts.shape)
    slope = (gradient * normalized).mean(dims, keepdim=True)
    if has_mean:
        gradient = gradient - gradient.mean(dims, keepdim=True)
    grad_x = (gradient - normalized * slope) * inverse
    grad_scale = _sum_to_parameter(grad_y * normalized.reshape(x.shape), norm, axis)
    return grad_x.reshape(x.shape), grad_scale, _sum_to_parameter(grad_y, norm, axis)


def backward_formula_by(
    grad_y: Tensor, x: Tensor, scale: Tensor | None, running_mean: Tensor, running_variance: Tensor,
    epsilon: float, output_mask: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """`normalize_by_backward`, where the statistics are constants."""
    inverse = _spread(torch.rsqrt(running_variance + epsilon), x, "batch")
    grad_x = grad_y * inverse if scale is None else grad_y * inverse * _spread(scale, x, "batch")
    normalized = (x - _spread(running_mean, x, "batch")) * inverse
    return grad_x, _sum_to_parameter(grad_y * normalized, "batch", 1), _sum_to_parameter(grad_y, "batch", 1)
