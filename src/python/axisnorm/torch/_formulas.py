# SPDX-License-Identifier: MIT
"""The backward passes in PyTorch's own differentiable operators: for second and higher derivatives."""

from __future__ import annotations

import math
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


def _derivative(z: Tensor, activation: str, negative_slope: float) -> Tensor:
    """Of the activation, at its argument z."""
    if activation == "relu":
        return (z > 0).to(z.dtype)
    if activation == "leaky-relu":
        return torch.where(z > 0, 1.0, negative_slope).to(z.dtype)
    if activation == "silu":
        sigmoid = torch.sigmoid(z)
        return sigmoid * (1 + z * (1 - sigmoid))
    if activation == "gelu":
        density = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        return torch.special.ndtr(z) + z * density
    root, cubic = math.sqrt(2 / math.pi), 0.044715  # gelu-tanh
    tangent = torch.tanh(root * (z + cubic * z * z * z))
    return (1 + tangent + z * (1 - tangent * tangent) * root * (1 + 3 * cubic * z * z)) / 2


def _gradient_by_argument(
    grad_y: Tensor, normalized: Tensor, scale: Tensor | None, shift: Tensor | None, residual: Tensor | None,
    norm: str, activation: str, negative_slope: float,
) -> Tensor:
    """From the gradient by y to that by the argument of the activation."""
    if activation == "none":
        return grad_y
    z = normalized if scale is None else normalized * _spread(scale, grad_y, norm)
    z = z if shift is None else z + _spread(shift, grad_y, norm)
    return grad_y * _derivative(z if residual is None else z + residual, activation, negative_slope)


def backward_formula(
    grad_y: Tensor, x: Tensor, scale: Tensor | None, shift: Tensor | None, residual: Tensor | None,
    mean: Tensor, rstd: Tensor, norm: str, groups: int, axis: int, epsilon: float, activation: str,
    negative_slope: float, output_mask: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`normalize_backward` as a function of grad_y, x, scale, shift and residual; mean and rstd are functions
    of x."""
    parts, dims = _grouped(x, norm, groups, axis)
    has_mean = norm != "rms"
    centred = parts - parts.mean(dims, keepdim=True) if has_mean else parts
    inverse = ((centred * centred).mean(dims, keepdim=True) + epsilon).rsqrt()
    normalized = centred * inverse
    grad_z = _gradient_by_argument(
        grad_y, normalized.reshape(x.shape), scale, shift, residual, norm, activation, negative_slope)
    gradient = (grad_z if scale is None else grad_z * _spread(scale, x, norm)).reshape(parts.shape)
    slope = (gradient * normalized).mean(dims, keepdim=True)
    if has_mean:
        gradient = gradient - gradient.mean(dims, keepdim=True)
    grad_x = (gradient - normalized * slope) * inverse
    grad_scale = _sum_to_parameter(grad_z * normalized.reshape(x.shape), norm, axis)
    return grad_x.reshape(x.shape), grad_scale, _sum_to_parameter(grad_z, norm, axis), grad_z


def backward_formula_by(
    grad_y: Tensor, x: Tensor, scale: Tensor | None, shift: Tensor | None, residual: Tensor | None,
    running_mean: Tensor, running_variance: Tensor, epsilon: float, activation: str, negative_slope: float,
    output_mask: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`normalize_by_backward`, where the statistics are constants."""
    inverse = _spread(torch.rsqrt(running_variance + epsilon), x, "batch")
    normalized = (x - _spread(running_mean, x, "batch")) * inverse
    grad_z = _gradient_by_argument(
        grad_y, normalized, scale, shift, residual, "batch", activation, negative_slope)
    grad_x = grad_z * inverse if scale is None else grad_z * inverse * _spread(scale, x, "batch")
    grad_scale = _sum_to_parameter(grad_z * normalized, "batch", 1)
    return grad_x, grad_scale, _sum_to_parameter(grad_z, "batch", 1), grad_z
