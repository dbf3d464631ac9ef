# SPDX-License-Identifier: MIT
"""The normalizations as functions of JAX's arrays."""

from __future__ import annotations

import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from .._core import ArgumentError
from .._norms import _CUMULATIVE, Activation, Layout, Parameters, _is_last, momentum_of
from . import _gradients
from ._norm import ELEMENTS, Norm

_train, _normalize, _normalize_by = (
    jax.jit(function, static_argnums=0)
    for function in (_gradients.train, _gradients.normalize, _gradients.normalize_by))


def _array(name: str, value: Any, shape: tuple[int, ...], x: Array) -> Any:
    """What goes with x: of the type of its parameters, or of its own."""
    if value is None:
        return None
    array, due = jnp.asarray(value), ELEMENTS[x.dtype][1]
    if array.dtype not in (due, x.dtype):
        raise ArgumentError(f"{name}: {array.dtype} where {due} is expected")
    if array.shape != shape:
        raise ArgumentError(f"{name}: shape {array.shape} where {shape} is expected")
    return array.astype(due)


def _residual(value: Any, x: Array) -> Any:
    if value is None:
        return None
    array = jnp.asarray(value)
    if array.dtype != x.dtype:
        raise ArgumentError(f"residual: {array.dtype} where {x.dtype} is expected")
    if array.shape != x.shape:
        raise ArgumentError(f"residual: shape {array.shape} where {x.shape} is expected")
    return array


def _count(value: Any, momentum: float, has_running: bool) -> Any:
    if value is None:
        if has_running and momentum == _CUMULATIVE:
            raise ArgumentError("batch_count: is required where momentum is None")
        return None
    array = jnp.asarray(value)
    if not has_running:
        raise ArgumentError("batch_count: counts updates of running statistics, of which there are none")
    if array.dtype not in (jnp.int32, jnp.int64) or array.size != 1:
        raise ArgumentError(f"batch_count: {array.dtype} {array.shape} where one integer is expected")
    return array


def _running(norm: Norm, mean: Any, variance: Any, x: Array) -> Any:
    if mean is None and variance is None:
        return None
    if mean is None or variance is None:
        missing, given = ("mean", "variance") if mean is None else ("variance", "mean")
        raise ArgumentError(f"running_{missing}: is None, but running_{given} is given")
    shape = (x.shape[norm.channel(x.ndim)],)
    return _array("running_mean", mean, shape, x), _array("running_variance", variance, shape, x)


def _constant(value: Any) -> Any:
    """What a scalar of JAX holds, which could not be a constant of a traced program; all else as it is."""
    is_scalar = isinstance(value, Array) and not isinstance(value, jax.core.Tracer) and value.ndim == 0
    return value.item() if is_scalar else value


def _index(name: str, value: Any) -> int:
    if not hasattr(value, "__index__"):
        raise TypeError(f"{name}: {value!r} where a whole number is expected")
    return operator.index(value)


def _norm(
    name: str, layout: str, activation: str | None, momentum: float | None = 0.1, **options: Any,
) -> Norm:
    """Of the functions' arguments, where an activation of None is none, a momentum of None the plain average."""
    constants = {key: _constant(value) for key, value in options.items()}
    return Norm(name, _is_last(layout), activation="none" if activation is None else activation,
                momentum=momentum_of(_constant(momentum)), **constants)


def _channel_norm(
    norm: Norm, x: Any, scale: Any, shift: Any, residual: Any, return_statistics: bool,
    running_mean: Any = None, running_variance: Any = None, training: bool = False, batch_count: Any = None,
) -> Any:
    """A normalization with parameters per channel."""
    x = jnp.asarray(x)
    parameters = norm.plan(x).parameters[1]
    scale, shift = _array("scale", scale, parameters, x), _array("shift", shift, parameters, x)
    residual = _residual(residual, x)
    running = _running(norm, running_mean, running_variance, x)
    if training or (return_statistics and running is None):
        norm.check_values(x)
        count = _count(batch_count, norm.momentum, running is not None)
        result = _train(norm, x, scale, shift, residual, running, count)
        kept = (result.mean, result.rstd) if return_statistics else ()
        tracked = () if running is None else result.running
        counted = () if count is None else (result.batch_count,)
        return (result.y, *kept, *tracked, *counted) if kept or tracked else result.y
    if return_statistics:
        raise ArgumentError("return_statistics: without training these are the running statistics")
    if running is not None:
        return _normalize_by(norm, x, scale, shift, residual, running)
    if norm.name in ("batch", "ghost"):
        raise ArgumentError(f"running_mean, running_variance: are None; {norm.name} normalization needs them "
                            "without training")
    return _normalize(norm, x, scale, shift, residual)


def _matrix(shape: tuple[int, ...], first: int) -> tuple[int, int]:
    """Rows to normalize, and their columns. No samples that share a statistic are no rows, of one column."""
    if first == 0 and shape[0] == 0:
        return 0, 1
    return math.prod(shape[:first]), math.prod(shape[first:])


def _row_norm(
    name: str, x: Any, scale: Any, shift: Any, axis: int, epsilon: float, parameters: str | None,
    residual: Any, activation: str | None, negative_slope: float, layout: str, return_statistics: bool,
) -> Any:
    """Layer and RMS normalization. Where parameters are per element, x is a matrix."""
    x = jnp.asarray(x)
    channels_last, shape, axis = _is_last(layout), x.shape, _index("axis", axis)
    first = axis + x.ndim if axis < 0 else axis
    if not 0 <= first < x.ndim:
        raise ArgumentError(f"axis: {axis}, of {x.ndim} axes")
    if parameters not in (None, "per_channel", "per_element"):
        raise ArgumentError(f"parameters: {parameters!r} is not 'per_channel' or 'per_element'")
    like = shift if scale is None else scale
    per_element = parameters == "per_element" or (
        parameters is None and (like is None or jnp.shape(like) == shape[first:]))
    if not per_element and channels_last and first > 1:
        if first != x.ndim - 1:
            raise ArgumentError("parameters: with layout 'nhwc' and an axis after 1 they are per element")
        per_element = True
    norm = _norm(name, layout, activation, axis=first, per_element=per_element, epsilon=epsilon,
                 negative_slope=negative_slope)
    residual = _residual(residual, x)
    if per_element:
        norm = norm._replace(channels_last=False, axis=1)
        matrix = _matrix(shape, first)
        x, residual = jax.tree.map(lambda array: array.reshape(matrix), (x, residual))
        norm.plan(x)
        scale, shift = (None if array is None or x.size == 0 else array.reshape(-1) for array in (
            _array("scale", scale, shape[first:], x), _array("shift", shift, shape[first:], x)))
    else:
        due = norm.plan(x).parameters[1]
        scale, shift = _array("scale", scale, due, x), _array("shift", shift, due, x)
    if not return_statistics:
        return _normalize(norm, x, scale, shift, residual).reshape(shape)
    result = _train(norm, x, scale, shift, residual, None, None)
    kept = (result.mean, result.rstd) if norm.has_mean else (result.rstd,)
    return (result.y.reshape(shape), *(
        statistic.reshape(shape[:first]) if x.size > 0 else jnp.zeros(shape[:first], statistic.dtype)
        for statistic in kept))


def batch_norm(
    x: ArrayLike, scale: ArrayLike | None = None, shift: ArrayLike | None = None,
    running_mean: ArrayLike | None = None, running_variance: ArrayLike | None = None, *,
    training: bool = False, epsilon: float = 1e-5, momentum: float | None = 0.1, unbiased: bool = True,
    batch_count: ArrayLike | None = None, residual: ArrayLike | None = None,
    activation: Activation | None = None, negative_slope: float = 0.01, layout: Layout = "nchw",
    return_statistics: bool = False,
) -> Any:
    """Batch normalization: one mean and variance per channel, over the batch and the spatial axes.

    Args:
        x: [N, C, spatial...] with 0 to 3 spatial axes.
        scale, shift: [C]; None: 1 and 0.
        running_mean, running_variance: [C]. In training new ones are returned, without they normalize.
        training: normalize with the statistics of x. Without, the running statistics must be given.
        epsilon: added to the variance, inside the square root.
        momentum: weight of the new value in the running statistics, 0 to 1; None: the plain average over
            all batches so far, which batch_count counts.
        unbiased: whether the variance that goes into running_variance divides by n - 1 (PyTorch), or by n.
        batch_count: [1] or a scalar, int32 or int64; in training a new one is returned.
        residual: like x; added to what is normalized, scaled and shifted, before the activation.
        activation: applied last, in the same pass: "relu", "leaky-relu", "silu", "gelu" or "gelu-tanh".
        negative_slope: of "leaky-relu", else ignored.
        layout: "nchw", or "nhwc" where x and y are [N, spatial..., C].
        return_statistics: return mean and rstd as well.

    All but arrays must be known when a function is traced. Derivatives are those by x, scale, shift and
    residual of y; statistics, given or returned, are constants in them.

    Returns:
        y like x; or a tuple of y and, where asked for, mean [C] and rstd [C] with
        rstd = 1 / sqrt(variance + epsilon); and, in training with running statistics, the new running_mean
        and running_variance, and the new batch_count where one was given.
    """
    norm = _norm("batch", layout, activation, momentum, epsilon=epsilon, unbiased=unbiased,
                 negative_slope=negative_slope)
    return _channel_norm(norm, x, scale, shift, residual, return_statistics, running_mean, running_variance,
                         training, batch_count)


def ghost_batch_norm(
    x: ArrayLike, scale: ArrayLike | None = None, shift: ArrayLike | None = None,
    running_mean: ArrayLike | None = None, running_variance: ArrayLike | None = None, *,
    training: bool = False, ghost_batch: int, epsilon: float = 1e-5, momentum: float | None = 0.1,
    unbiased: bool = True, batch_count: ArrayLike | None = None, residual: ArrayLike | None = None,
    activation: Activation | None = None, negative_slope: float = 0.01, layout: Layout = "nchw",
    return_statistics: bool = False,
) -> Any:
    """Ghost batch normalization: batch normalization of each `ghost_batch` samples by themselves.

    Arguments and results are those of `batch_norm`, with mean and rstd [N / ghost_batch, C]; running
    statistics and batch_count take the ghost batches in turn.
    """
    norm = _norm("ghost", layout, activation, momentum, ghost_batch=ghost_batch, epsilon=epsilon,
                 unbiased=unbiased, negative_slope=negative_slope)
    return _channel_norm(norm, x, scale, shift, residual, return_statistics, running_mean, running_variance,
                         training, batch_count)


def instance_norm(
    x: ArrayLike, scale: ArrayLike | None = None, shift: ArrayLike | None = None,
    running_mean: ArrayLike | None = None, running_variance: ArrayLike | None = None, *,
    training: bool = False, epsilon: float = 1e-5, momentum: float | None = 0.1, unbiased: bool = True,
    batch_count: ArrayLike | None = None, residual: ArrayLike | None = None,
    activation: Activation | None = None, negative_slope: float = 0.01, layout: Layout = "nchw",
    return_statistics: bool = False,
) -> Any:
    """Instance normalization: one mean and variance per sample and channel, over the spatial axes.

    Arguments and results are those of `batch_norm`, with mean and rstd [N, C]; running statistics are averages
    over the samples; without training and without running statistics, those of x normalize.
    """
    norm = _norm("instance", layout, activation, momentum, epsilon=epsilon, unbiased=unbiased,
                 negative_slope=negative_slope)
    return _channel_norm(norm, x, scale, shift, residual, return_statistics, running_mean, running_variance,
                         training, batch_count)


def group_norm(
    x: ArrayLike, scale: ArrayLike | None = None, shift: ArrayLike | None = None, *, groups: int,
    epsilon: float = 1e-5, residual: ArrayLike | None = None, activation: Activation | None = None,
    negative_slope: float = 0.01, layout: Layout = "nchw", return_statistics: bool = False,
) -> Any:
    """Group normalization: one mean and variance per sample and group of neighbouring channels.

    `groups` divides C; the other arguments are those of `batch_norm`. Returns y, or (y, mean [N, groups],
    rstd [N, groups]).
    """
    norm = _norm("group", layout, activation, groups=groups, epsilon=epsilon, negative_slope=negative_slope)
    return _channel_norm(norm, x, scale, shift, residual, return_statistics)


def positional_norm(
    x: ArrayLike, scale: ArrayLike | None = None, shift: ArrayLike | None = None, *, epsilon: float = 1e-5,
    residual: ArrayLike | None = None, activation: Activation | None = None, negative_slope: float = 0.01,
    layout: Layout = "nchw", return_statistics: bool = False,
) -> Any:
    """Positional normalization: one mean and variance per sample and position, over the channels alone.

    The arguments are those of `batch_norm`. Returns y, or (y, mean [N, spatial...], rstd [N, spatial...]).
    """
    norm = _norm("positional", layout, activation, epsilon=epsilon, negative_slope=negative_slope)
    return _channel_norm(norm, x, scale, shift, residual, return_statistics)


def layer_norm(
    x: ArrayLike, scale: ArrayLike | None = None, shift: ArrayLike | None = None, *, axis: int = 1,
    epsilon: float = 1e-5, parameters: Parameters | None = None, residual: ArrayLike | None = None,
    activation: Activation | None = None, negative_slope: float = 0.01, layout: Layout = "nchw",
    return_statistics: bool = False,
) -> Any:
    """Layer normalization: one mean and variance over all axes of x from `axis` to the last.

    Args:
        x: of any rank where scale and shift are per element, else [N, C, spatial...].
        scale, shift: x.shape[axis:], one per element, or [C]; None: 1 and 0.
        axis: the first normalized axis; negative: from the end.
        epsilon: added to the variance, inside the square root.
        parameters: "per_element" or "per_channel"; None: as the shape of scale or shift says, per element
            where both are possible.
        residual, activation, negative_slope, layout, return_statistics: as in `batch_norm`.

    Returns:
        y like x, or (y, mean x.shape[:axis], rstd x.shape[:axis]).
    """
    return _row_norm("layer", x, scale, shift, axis, epsilon, parameters, residual, activation, negative_slope,
                     layout, return_statistics)


def rms_norm(
    x: ArrayLike, scale: ArrayLike | None = None, shift: ArrayLike | None = None, *, axis: int = 1,
    epsilon: float = 1e-5, parameters: Parameters | None = None, residual: ArrayLike | None = None,
    activation: Activation | None = None, negative_slope: float = 0.01, layout: Layout = "nchw",
    return_statistics: bool = False,
) -> Any:
    """RMS normalization: x divided by the root of the mean of its squares, over all axes from `axis` on.

    The arguments are those of `layer_norm`; epsilon is added to the mean of the squares. Returns y like x, or
    (y, rstd x.shape[:axis]).
    """
    return _row_norm("rms", x, scale, shift, axis, epsilon, parameters, residual, activation, negative_slope,
                     layout, return_statistics)
