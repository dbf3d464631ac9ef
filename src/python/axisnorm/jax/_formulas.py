# SPDX-License-Identifier: MIT
"""The passes in JAX's own operators: on devices without a handler, and for second and higher derivatives."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ._norm import ELEMENTS, Forward, Gradients, Norm, ROWS


def _parts(norm: Norm, x: Any) -> tuple[Any, tuple[int, ...]]:
    """x so that the reduced axes are whole ones, and which these are."""
    axes = range(x.ndim)
    channel = norm.channel(x.ndim)
    if norm.name == "ghost":
        split = x.reshape(x.shape[0] // norm.ghost_batch, norm.ghost_batch, *x.shape[1:])
        return split, (1, *(axis + 1 for axis in axes if axis not in (0, channel)))
    if norm.name == "group":
        split = x.reshape(*x.shape[:channel], norm.groups, x.shape[channel] // norm.groups,
                          *x.shape[channel + 1:])
        return split, tuple(axis for axis in range(split.ndim) if axis not in (0, channel))
    if norm.name in ROWS:
        return x, tuple(range(norm.axis, x.ndim))
    kept = {"batch": (channel,), "instance": (0, channel)}.get(norm.name)
    return x, (channel,) if kept is None else tuple(axis for axis in axes if axis not in kept)


def _statistics(norm: Norm, x: Any) -> tuple[Any, Any, Any]:
    """Mean, biased variance and rstd; of root mean squares no mean."""
    parts, axes = _parts(norm, x.astype(ELEMENTS[x.dtype][1]))
    mean = parts.mean(axes) if norm.has_mean else None
    centred = parts if mean is None else parts - jnp.expand_dims(mean, axes)
    variance = (centred * centred).mean(axes)
    return mean, variance, jax.lax.rsqrt(variance + norm.epsilon)


def normalized(norm: Norm, x: Any, mean: Any, rstd: Any) -> Any:
    parts, axes = _parts(norm, x.astype(rstd.dtype))
    if mean is not None:
        parts = parts - jnp.expand_dims(mean, axes)
    return (parts * jnp.expand_dims(rstd, axes)).reshape(x.shape)


def _spread(norm: Norm, parameter: Any, rank: int) -> Any:
    """[C], or one per column of a matrix, against all axes of x."""
    shape = [1] * rank
    shape[norm.channel(rank)] = -1
    return parameter.reshape(shape)


def normalized_by(norm: Norm, x: Any, running: Any) -> Any:
    mean, variance = (_spread(norm, statistic, x.ndim) for statistic in running)
    return (x.astype(mean.dtype) - mean) * jax.lax.rsqrt(variance + norm.epsilon)


def sum_to_parameter(norm: Norm, array: Any, leading: int = 0) -> Any:
    """The sum over all axes but the parameters' and some leading ones, which x has not."""
    kept = {*range(leading), leading + norm.channel(array.ndim - leading)}
    return array.sum([axis for axis in range(array.ndim) if axis not in kept])


def _activate(norm: Norm, z: Any) -> Any:
    if norm.activation == "relu":
        return jnp.where(z > 0, z, 0)
    if norm.activation == "leaky-relu":
        return jnp.where(z > 0, z, z * norm.negative_slope)
    if norm.activation == "silu":
        return jax.nn.silu(z)
    return jax.nn.gelu(z, approximate=norm.activation == "gelu-tanh") if norm.is_active else z


def _finish(norm: Norm, z: Any, x: Any, scale: Any, shift: Any, residual: Any) -> Any:
    if scale is not None:
        z = z * _spread(norm, scale, x.ndim)
    if shift is not None:
        z = z + _spread(norm, shift, x.ndim)
    if residual is not None:
        z = z + residual
    return _activate(norm, z).astype(x.dtype)


def inference(norm: Norm, x: Any, scale: Any, shift: Any, residual: Any, running: Any) -> Any:
    if running is not None:
        z = normalized_by(norm, x, running)
    else:
        mean, _, rstd = _statistics(norm, x)
        z = normalized(norm, x, mean, rstd)
    return _finish(norm, z, x, scale, shift, residual)


def _track(norm: Norm, running: Any, count: Any, new: tuple[Any, Any]) -> tuple[Any, Any]:
    """Running statistics after the new ones, [..., C], and the count of batches."""
    if norm.name != "ghost":  # whose batches count in turn
        new = jax.tree.map(lambda statistic: statistic.mean(range(statistic.ndim - 1))[None], new)

    def step(state: Any, each: Any) -> tuple[Any, None]:
        running, count = state
        weight = norm.momentum if norm.momentum >= 0 else 1 / (count + 1).astype(each[0].dtype).reshape(())
        running = jax.tree.map(lambda old, value: (1 - weight) * old + weight * value, running, each)
        return (running, None if count is None else count + 1), None

    tracked: tuple[Any, Any] = jax.lax.scan(step, (running, count), new)[0]
    return tracked


def training(
    norm: Norm, x: Any, scale: Any, shift: Any, residual: Any, running: Any, batch_count: Any,
) -> Forward:
    mean, variance, rstd = _statistics(norm, x)
    y = _finish(norm, normalized(norm, x, mean, rstd), x, scale, shift, residual)
    if running is not None:
        values = x.size // max(rstd.size, 1)
        kept = variance * (values / (values - 1)) if norm.unbiased else variance
        running, batch_count = _track(norm, running, batch_count, (mean, kept))
    return Forward(y, mean, rstd, running, batch_count)


def backward(
    norm: Norm, grad_y: Any, x: Any, scale: Any, shift: Any, residual: Any, running: Any,
) -> Gradients:
    """A function of all these but `running`: statistics of x are functions of x."""

    def forward(x: Any, scale: Any, shift: Any, residual: Any) -> Any:
        return inference(norm, x, scale, shift, residual, running)

    return Gradients(*jax.vjp(forward, x, scale, shift, residual)[1](grad_y))
