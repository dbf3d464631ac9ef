# SPDX-License-Identifier: MIT
"""The normalizations as functions of arrays."""

from __future__ import annotations

from functools import lru_cache, cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, overload

import numpy
from numpy.typing import NDArray

from . import _core
from ._core import ArgumentError, Plan

if TYPE_CHECKING:
    from typing_extensions import Buffer  # what has the buffer protocol; of Python itself from 3.12 on
else:
    Buffer = memoryview


class SupportsDLPack(Protocol):
    """What PyTorch, JAX and other libraries' arrays can do."""

    def __dlpack__(self, *args: Any, **keywords: Any) -> Any: ...
    def __dlpack_device__(self) -> tuple[Any, int]: ...


Array = NDArray[Any] | Buffer | SupportsDLPack
Layout = Literal["nchw", "nhwc"]
Parameters = Literal["per_channel", "per_element"]
Activation = Literal["relu", "leaky-relu", "silu", "gelu", "gelu-tanh"]
Statistics = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
RootMeanSquares = tuple[NDArray[Any], NDArray[Any]]
Two = tuple[Array | None, Array | None]
Three = tuple[Array | None, Array | None, Array | None]
Outputs = Array | Three

_CUMULATIVE = -1.0  # AXN_MOMENTUM_CUMULATIVE

# Plans are immutable and a run keeps its own alive, so any thread may take one from the cache at any time.
# By type as well: else 2.0 would do for 2 once there is a plan for that.
_kept_plan = lru_cache(maxsize=1024, typed=True)(Plan)


def plan_of(*arguments: Any) -> Plan:
    try:
        return _kept_plan(*arguments)
    except TypeError:
        pass
    return Plan(*arguments)  # which names what is wrong, also where it cannot be a key


def momentum_of(momentum: float | None) -> float:
    """As the library has it: for the plain average a number, which nobody may give for one."""
    if momentum is None:
        return _CUMULATIVE
    try:
        fits = 0 <= momentum <= 1
    except TypeError:
        return momentum  # no number: the plan says so
    if not fits:
        raise ArgumentError(f"momentum: {momentum} is not from 0 to 1, or None")
    return momentum


class Gradients(NamedTuple):
    """Gradients of a loss by x, scale and shift; None where not asked for."""

    grad_x: Any
    grad_scale: Any
    grad_shift: Any


@cache
def _dtype(name: str) -> numpy.dtype[Any]:
    if name == "bfloat16":
        try:
            import ml_dtypes  # names the type to NumPy
        except ImportError:
            raise ArgumentError("out: bfloat16 results need out=, or the package ml_dtypes") from None
        dtype: numpy.dtype[Any] = numpy.dtype(ml_dtypes.bfloat16)
        return dtype
    return numpy.dtype(name)


def _allocate(allocation: tuple[str, tuple[int, ...], tuple[int, ...] | None]) -> NDArray[Any]:
    name, shape, order = allocation
    array = numpy.empty(shape, _dtype(name))
    return array if order is None else array.transpose(order)


def _allocate_data(
    dense: tuple[str, tuple[int, ...], tuple[int, ...] | None],
    view: tuple[str, tuple[int, ...], tuple[int, ...]] | None,
) -> NDArray[Any]:
    """An array like x or y, with the gaps that these have."""
    if view is None:
        return _allocate(dense)
    name, shape, strides = view
    dtype = _dtype(name)
    elements = 1 + sum((extent - 1) * stride for extent, stride in zip(shape, strides) if extent > 1)
    return numpy.lib.stride_tricks.as_strided(
        numpy.empty(elements, dtype), shape, [stride * dtype.itemsize for stride in strides])


def _is_last(layout: str) -> bool:
    if layout == "nchw":
        return False
    if layout == "nhwc":
        return True
    raise ArgumentError(f"layout: {layout!r} is not 'nchw' or 'nhwc'")


def _shape(array: Array, name: str) -> tuple[int, ...]:
    shape = getattr(array, "shape", None)
    return _core.inspect(array, name, False)[1] if shape is None else tuple(shape)


def _beside(*arrays: Any) -> Any:
    """Of arrays that lie alike, the first that is there; for several outputs, the first of them."""
    for array in arrays:
        if isinstance(array, (tuple, list)):
            array = array[0] if array else None
        if array is not None:
            return array
    return None


Sides = tuple[int, tuple[int, ...], bool, tuple[int, ...] | None, tuple[int, ...] | None]


def _sides(x: Array, name: str, beside: Any, written_last: bool) -> Sides:
    """dtype, shape, memory_last and the strides of views, of x and of y; x or grad_y decides."""
    forward = name == "x"
    dtype, shape, memory_last, strides = _core.inspect(x, name, written_last)
    other = None
    if beside is not None:
        other_name = "y" if forward else "x"
        _, other_shape, _, other = _core.inspect(beside, other_name, written_last, memory_last)
        if other_shape != shape:
            other = None  # which the run refuses
    return (dtype, shape, memory_last, strides, other) if forward else (
        dtype, shape, memory_last, other, strides)


def _make_plan(
    norm: str, x: Array, name: str, layout: str, beside: Any, *, groups: int = 1, axis: int = 1,
    per_element: bool = False, epsilon: float = 1e-5, momentum: float | None = 0.1, unbiased: bool = True,
    threads: int = 0, ghost_batch: int = 0, activation: str | None = None, negative_slope: float = 0.01,
) -> Plan:
    written_last = _is_last(layout)
    dtype, shape, memory_last, x_strides, y_strides = _sides(x, name, beside, written_last)
    return plan_of(
        norm, dtype, shape, written_last, memory_last, groups, axis, per_element, epsilon, momentum_of(momentum),
        unbiased, threads, False, ghost_batch, "none" if activation is None else activation, negative_slope,
        x_strides, y_strides,
    )


def _forward(
    plan: Plan, x: Array, scale: Array | None, shift: Array | None, residual: Array | None,
    return_statistics: bool, out: Any, *, running_mean: Array | None = None,
    running_variance: Array | None = None, batch_count: Array | None = None, training: bool = False,
    has_mean: bool = True,
) -> Any:
    """Runs the pass that was asked for, with results of its own where `out` has none."""
    if not (training or return_statistics):
        y = _allocate_data(plan.data, plan.y_view) if out is None else out
        plan.inference(x, y, scale, shift, running_mean, running_variance, residual)
        return y
    names = ("mean", "rstd") if has_mean else ("rstd",)
    kept: list[Any] = [None] * len(names)
    if return_statistics:
        if not training and (running_mean is not None or running_variance is not None):
            raise ArgumentError("return_statistics: without training these are the running statistics")
        if isinstance(out, tuple):
            if len(out) != 1 + len(names):
                due = " and ".join((", ".join(("y", *names[:-1])), names[-1]))
                raise ArgumentError(f"out: {len(out)} arrays where {due} are expected")
            out, *kept = out
        kept = [_allocate(plan.statistics) if array is None else array for array in kept]
    y = _allocate_data(plan.data, plan.y_view) if out is None else out
    mean, rstd = kept if has_mean else (None, *kept)
    plan.training(x, y, scale, shift, mean, rstd, running_mean, running_variance, batch_count, residual)
    return (y, *kept) if return_statistics else y


def _backward(
    plan: Plan, grad_y: Array, x: Array | None, mean: Array | None, rstd: Array | None,
    scale: Array | None, shift: Array | None, residual: Array | None, output_mask: Any, out: Any,
    grad_residual: Array | None, running_mean: Array | None = None, running_variance: Array | None = None,
) -> Gradients:
    """Allocates the gradients that are asked for and not given, and runs."""
    given = (None, None, None) if out is None else out
    for name, entries in (("out", given), ("output_mask", output_mask)):
        if not isinstance(entries, (tuple, list)) or len(entries) != 3:
            raise ArgumentError(f"{name}: three entries are expected, for grad_x, grad_scale and grad_shift")
    forms = (plan.parameters, plan.parameters)
    grad_x = given[0]
    if not output_mask[0]:
        grad_x = None
    elif grad_x is None:
        grad_x = _allocate_data(plan.data, plan.x_view)
    grad_scale, grad_shift = (
        (_allocate(form) if array is None else array) if want else None
        for want, array, form in zip(output_mask[1:], given[1:], forms)
    )
    plan.backward(x, grad_y, scale, mean, rstd, running_mean, running_variance, grad_x, grad_scale,
                  grad_shift, shift, residual, grad_residual)
    return Gradients(grad_x, grad_scale, grad_shift)


def _layer_plan(
    norm: str, x: Array, name: str, layout: str, beside: Any, axis: int, parameters: str | None,
    scale: Array | None, activation: str | None, negative_slope: float, threads: int, epsilon: float = 1e-5,
) -> Plan:
    """Layer and RMS normalization's plan; `axis` counts the axes of x as they are written."""
    written_last = _is_last(layout)
    dtype, shape, memory_last, x_strides, y_strides = _sides(x, name, beside, written_last)
    try:
        first = axis + len(shape) if axis < 0 else axis
    except TypeError:
        raise TypeError(f"axis: {axis!r} where a whole number is expected") from None
    if parameters is None:
        per_element = scale is None or _shape(scale, "scale") == shape[first:]
    elif parameters in ("per_channel", "per_element"):
        per_element = parameters == "per_element"
    else:
        raise ArgumentError(f"parameters: {parameters!r} is not 'per_channel' or 'per_element'")
    if written_last and 1 < first < len(shape):
        # Where C is the last of the normalized axes, only parameters could tell which axis it is.
        if not per_element and first != len(shape) - 1:
            raise ArgumentError("parameters: with layout 'nhwc' and an axis after 1 they are per element")
        per_element, written_last = True, False
        dtype, shape, memory_last, x_strides, y_strides = _sides(x, name, beside, written_last)
    return plan_of(
        norm, dtype, shape, written_last, memory_last, 1, axis, per_element, epsilon, 0.1, True, threads,
        False, 0, "none" if activation is None else activation, negative_slope, x_strides, y_strides,
    )


# Overloads say what return_statistics=True returns; a checker has no shorter way to know.
@overload
def batch_norm(
    x: Array, scale: Array | None = ..., shift: Array | None = ..., running_mean: Array | None = ...,
    running_variance: Array | None = ..., *, training: bool = ..., epsilon: float = ...,
    momentum: float | None = ..., unbiased: bool = ..., batch_count: Array | None = ...,
    residual: Array | None = ..., activation: Activation | None = ..., negative_slope: float = ...,
    layout: Layout = ..., out: Outputs | None = ..., return_statistics: Literal[True], threads: int = ...,
) -> Statistics: ...
@overload
def batch_norm(
    x: Array, scale: Array | None = ..., shift: Array | None = ..., running_mean: Array | None = ...,
    running_variance: Array | None = ..., *, training: bool = ..., epsilon: float = ...,
    momentum: float | None = ..., unbiased: bool = ..., batch_count: Array | None = ...,
    residual: Array | None = ..., activation: Activation | None = ..., negative_slope: float = ...,
    layout: Layout = ..., out: Array | None = ..., return_statistics: Literal[False] = ...,
    threads: int = ...,
) -> NDArray[Any]: ...
def batch_norm(
    x: Array, scale: Array | None = None, shift: Array | None = None, running_mean: Array | None = None,
    running_variance: Array | None = None, *, training: bool = False, epsilon: float = 1e-5,
    momentum: float | None = 0.1, unbiased: bool = True, batch_count: Array | None = None,
    residual: Array | None = None, activation: Activation | None = None, negative_slope: float = 0.01,
    layout: Layout = "nchw", out: Outputs | None = None, return_statistics: bool = False,
    threads: int = 0,
) -> Any:
    """Batch normalization: one mean and variance per channel, over the batch and the spatial axes.

    Args:
        x: [N, C, spatial...] with 0 to 3 spatial axes; the order in memory is found from the strides.
        scale, shift: [C]; None: 1 and 0.
        running_mean, running_variance: [C]. In training they are updated in place, without they normalize.
        training: normalize with the statistics of x. Without, the running statistics must be given.
        epsilon: added to the variance, inside the square root.
        momentum: weight of the new value in the running statistics, 0 to 1; None: the plain average over
            all batches so far, which batch_count counts.
        unbiased: whether the variance that goes into running_variance divides by n - 1 (PyTorch), or by n.
        batch_count: [1] or a scalar array of int64, incremented in place.
        residual: like x; added to what is normalized, scaled and shifted, before the activation.
        activation: applied last, in the same pass: "relu", "leaky-relu", "silu", "gelu" or "gelu-tanh".
        negative_slope: of "leaky-relu", else ignored.
        layout: "nchw", or "nhwc" where x and the result are written [N, spatial..., C].
        out: where y goes, also x itself; with return_statistics also (y, mean, rstd), each or None.
        return_statistics: return what the backward pass takes as well.
        threads: the most to use; 0: as many as OpenMP would. Results do not depend on it.

    Returns:
        y like x, or (y, mean [C], rstd [C]) with rstd = 1 / sqrt(variance + epsilon).
    """
    plan = _make_plan("batch", x, "x", layout, _beside(out, residual), epsilon=epsilon, momentum=momentum,
                      unbiased=unbiased, threads=threads, activation=activation, negative_slope=negative_slope)
    return _forward(plan, x, scale, shift, residual, return_statistics, out, running_mean=running_mean,
                    running_variance=running_variance, batch_count=batch_count, training=training)


def batch_norm_backward(
    grad_y: Array, x: Array | None, mean: Array | None = None, rstd: Array | None = None,
    scale: Array | None = None, *, running_mean: Array | None = None,
    running_variance: Array | None = None, epsilon: float = 1e-5, shift: Array | None = None,
    residual: Array | None = None, activation: Activation | None = None, negative_slope: float = 0.01,
    layout: Layout = "nchw", output_mask: tuple[bool, bool, bool] = (True, True, True),
    out: Three | None = None, grad_residual: Array | None = None, threads: int = 0,
) -> Gradients:
    """Backward pass of `batch_norm`.

    Args:
        grad_y: gradient of a loss by y; like x.
        x: as in the forward pass. May be None where neither mean, an activation nor the gradient of scale is
            there.
        mean, rstd: [C] as training returned them; gradients flow through them.
        scale: [C] as in the forward pass.
        running_mean, running_variance: [C], in place of mean and rstd where these were constants; then
            epsilon is that of the forward pass.
        residual, activation, negative_slope: as in the forward pass; with an activation also shift, since
            what went into it is computed again.
        layout: as in the forward pass.
        output_mask: which of grad_x, grad_scale and grad_shift to compute.
        out: where these go, each or None; grad_x may be grad_y.
        grad_residual: like x, with an activation alone: where the gradient of residual goes. Without an
            activation that is grad_y.
        threads: the most to use; 0: as many as OpenMP would.

    Returns:
        Gradients(grad_x like x, grad_scale [C], grad_shift [C]).
    """
    plan = _make_plan("batch", grad_y, "grad_y", layout, _beside(x, out), epsilon=epsilon, threads=threads,
                      activation=activation, negative_slope=negative_slope)
    return _backward(plan, grad_y, x, mean, rstd, scale, shift, residual, output_mask, out, grad_residual,
                     running_mean, running_variance)


@overload
def ghost_batch_norm(
    x: Array, scale: Array | None = ..., shift: Array | None = ..., running_mean: Array | None = ...,
    running_variance: Array | None = ..., *, training: bool = ..., ghost_batch: int, epsilon: float = ...,
    momentum: float | None = ..., unbiased: bool = ..., batch_count: Array | None = ...,
    residual: Array | None = ..., activation: Activation | None = ..., negative_slope: float = ...,
    layout: Layout = ..., out: Outputs | None = ..., return_statistics: Literal[True], threads: int = ...,
) -> Statistics: ...
@overload
def ghost_batch_norm(
    x: Array, scale: Array | None = ..., shift: Array | None = ..., running_mean: Array | None = ...,
    running_variance: Array | None = ..., *, training: bool = ..., ghost_batch: int, epsilon: float = ...,
    momentum: float | None = ..., unbiased: bool = ..., batch_count: Array | None = ...,
    residual: Array | None = ..., activation: Activation | None = ..., negative_slope: float = ...,
    layout: Layout = ..., out: Array | None = ..., return_statistics: Literal[False] = ...,
    threads: int = ...,
) -> NDArray[Any]: ...
def ghost_batch_norm(
    x: Array, scale: Array | None = None, shift: Array | None = None, running_mean: Array | None = None,
    running_variance: Array | None = None, *, training: bool = False, ghost_batch: int,
    epsilon: float = 1e-5, momentum: float | None = 0.1, unbiased: bool = True,
    batch_count: Array | None = None, residual: Array | None = None, activation: Activation | None = None,
    negative_slope: float = 0.01, layout: Layout = "nchw", out: Outputs | None = None,
    return_statistics: bool = False, threads: int = 0,
) -> Any:
    """Ghost batch normalization: batch normalization of each `ghost_batch` samples by themselves.

    The arguments are those of `batch_norm`, and ghost_batch: how many samples share statistics, neighbours
    together; divides N. In training the running statistics are updated by one ghost batch after the other,
    and batch_count grows by their number.

    Returns:
        y like x, or (y, mean [N / ghost_batch, C], rstd [N / ghost_batch, C]).
    """
    plan = _make_plan("ghost", x, "x", layout, _beside(out, residual), ghost_batch=ghost_batch,
                      epsilon=epsilon, momentum=momentum, unbiased=unbiased, threads=threads,
                      activation=activation, negative_slope=negative_slope)
    return _forward(plan, x, scale, shift, residual, return_statistics, out, running_mean=running_mean,
                    running_variance=running_variance, batch_count=batch_count, training=training)


def ghost_batch_norm_backward(
    grad_y: Array, x: Array | None, mean: Array | None = None, rstd: Array | None = None,
    scale: Array | None = None, *, running_mean: Array | None = None,
    running_variance: Array | None = None, ghost_batch: int, epsilon: float = 1e-5,
    shift: Array | None = None, residual: Array | None = None, activation: Activation | None = None,
    negative_slope: float = 0.01, layout: Layout = "nchw",
    output_mask: tuple[bool, bool, bool] = (True, True, True), out: Three | None = None,
    grad_residual: Array | None = None, threads: int = 0,
) -> Gradients:
    """Backward pass of `ghost_batch_norm`: as `batch_norm_backward`, with mean, rstd [N / ghost_batch, C]."""
    plan = _make_plan("ghost", grad_y, "grad_y", layout, _beside(x, out), ghost_batch=ghost_batch,
                      epsilon=epsilon, threads=threads, activation=activation, negative_slope=negative_slope)
    return _backward(plan, grad_y, x, mean, rstd, scale, shift, residual, output_mask, out, grad_residual,
                     running_mean, running_variance)


@overload
def instance_norm(
    x: Array, scale: Array | None = ..., shift: Array | None = ..., running_mean: Array | None = ...,
    running_variance: Array | None = ..., *, training: bool = ..., epsilon: float = ...,
    momentum: float | None = ..., unbiased: bool = ..., batch_count: Array | None = ...,
    residual: Array | None = ..., activation: Activation | None = ..., negative_slope: float = ...,
    layout: Layout = ..., out: Outputs | None = ..., return_statistics: Literal[True], threads: int = ...,
) -> Statistics: ...
@overload
def instance_norm(
    x: Array, scale: Array | None = ..., shift: Array | None = ..., running_mean: Array | None = ...,
    running_variance: Array | None = ..., *, training: bool = ..., epsilon: float = ...,
    momentum: float | None = ..., unbiased: bool = ..., batch_count: Array | None = ...,
    residual: Array | None = ..., activation: Activation | None = ..., negative_slope: float = ...,
    layout: Layout = ..., out: Array | None = ..., return_statistics: Literal[False] = ...,
    threads: int = ...,
) -> NDArray[Any]: ...
def instance_norm(
    x: Array, scale: Array | None = None, shift: Array | None = None, running_mean: Array | None = None,
    running_variance: Array | None = None, *, training: bool = False, epsilon: float = 1e-5,
    momentum: float | None = 0.1, unbiased: bool = True, batch_count: Array | None = None,
    residual: Array | None = None, activation: Activation | None = None, negative_slope: float = 0.01,
    layout: Layout = "nchw", out: Outputs | None = None, return_statistics: bool = False,
    threads: int = 0,
) -> Any:
    """Instance normalization: one mean and variance per sample and channel, over the spatial axes.

    The arguments are those of `batch_norm`, with these differences: running statistics are averages over the
    samples; without training and without running statistics, those of x normalize; where a statistic has one
    value, y is then the shift, while training is an error.

    Returns:
        y like x, or (y, mean [N, C], rstd [N, C]).
    """
    plan = _make_plan("instance", x, "x", layout, _beside(out, residual), epsilon=epsilon, momentum=momentum,
                      unbiased=unbiased, threads=threads, activation=activation, negative_slope=negative_slope)
    return _forward(plan, x, scale, shift, residual, return_statistics, out, running_mean=running_mean,
                    running_variance=running_variance, batch_count=batch_count, training=training)


def instance_norm_backward(
    grad_y: Array, x: Array | None, mean: Array | None = None, rstd: Array | None = None,
    scale: Array | None = None, *, running_mean: Array | None = None,
    running_variance: Array | None = None, epsilon: float = 1e-5, shift: Array | None = None,
    residual: Array | None = None, activation: Activation | None = None, negative_slope: float = 0.01,
    layout: Layout = "nchw", output_mask: tuple[bool, bool, bool] = (True, True, True),
    out: Three | None = None, grad_residual: Array | None = None, threads: int = 0,
) -> Gradients:
    """Backward pass of `instance_norm`: as `batch_norm_backward`, with mean and rstd [N, C]."""
    plan = _make_plan("instance", grad_y, "grad_y", layout, _beside(x, out), epsilon=epsilon, threads=threads,
                      activation=activation, negative_slope=negative_slope)
    return _backward(plan, grad_y, x, mean, rstd, scale, shift, residual, output_mask, out, grad_residual,
                     running_mean, running_variance)


@overload
def layer_norm(
    x: Array, scale: Array | None = ..., shift: Array | None = ..., *, axis: int = ...,
    epsilon: float = ..., parameters: Parameters | None = ..., residual: Array | None = ...,
    activation: Activation | None = ..., negative_slope: float = ..., layout: Layout = ...,
    out: Outputs | None = ..., return_statistics: Literal[True], threads: int = ...,
) -> Statistics: ...
@overload
def layer_norm(
    x: Array, scale: Array | None = ..., shift: Array | None = ..., *, axis: int = ...,
    epsilon: float = ..., parameters: Parameters | None = ..., residual: Array | None = ...,
    activation: Activation | None = ..., negative_slope: float = ..., layout: Layout = ...,
    out: Array | None = ..., return_statistics: Literal[False] = ..., threads: int = ...,
) -> NDArray[Any]: ...
def layer_norm(
    x: Array, scale: Array | None = None, shift: Array | None = None, *, axis: int = 1,
    epsilon: float = 1e-5, parameters: Parameters | None = None, residual: Array | None = None,
    activation: Activation | None = None, negative_slope: float = 0.01, layout: Layout = "nchw",
    out: Outputs | None = None, return_statistics: bool = False, threads: int = 0,
) -> Any:
    """Layer normalization: one mean and variance over all axes of x from `axis` to the last.

    Args:
        x: 2 to 5 axes; [N, C, spatial...] where parameters are per channel or elements lie channels last.
        scale, shift: x.shape[axis:], one per element, or [C]; None: 1 and 0. Per element they lie in memory
            in the order in which x does.
        axis: the first normalized axis of x as it is written; negative: from the end.
        epsilon: added to the variance, inside the square root.
        parameters: "per_element" or "per_channel"; None: as the shape of scale or shift says, per element
            where both are possible.
        residual, activation, negative_slope, layout, out, return_statistics, threads: as in `batch_norm`.

    Returns:
        y like x, or (y, mean x.shape[:axis], rstd x.shape[:axis]).
    """
    plan = _layer_plan("layer", x, "x", layout, _beside(out, residual), axis, parameters,
                       _beside(scale, shift), activation, negative_slope, threads, epsilon)
    return _forward(plan, x, scale, shift, residual, return_statistics, out)


def layer_norm_backward(
    grad_y: Array, x: Array, mean: Array, rstd: Array, scale: Array | None = None, *, axis: int = 1,
    parameters: Parameters | None = None, shift: Array | None = None, residual: Array | None = None,
    activation: Activation | None = None, negative_slope: float = 0.01, layout: Layout = "nchw",
    output_mask: tuple[bool, bool, bool] = (True, True, True), out: Three | None = None,
    grad_residual: Array | None = None, threads: int = 0,
) -> Gradients:
    """Backward pass of `layer_norm`.

    As `batch_norm_backward`, with mean and rstd x.shape[:axis], and the gradients of scale and shift in the
    shape of these: x.shape[axis:] where both are None and parameters is not "per_channel".
    """
    plan = _layer_plan("layer", grad_y, "grad_y", layout, _beside(x, out), axis, parameters,
                       _beside(scale, shift), activation, negative_slope, threads)
    return _backward(plan, grad_y, x, mean, rstd, scale, shift, residual, output_mask, out, grad_residual)


@overload
def rms_norm(
    x: Array, scale: Array | None = ..., shift: Array | None = ..., *, axis: int = ...,
    epsilon: float = ..., parameters: Parameters | None = ..., residual: Array | None = ...,
    activation: Activation | None = ..., negative_slope: float = ..., layout: Layout = ...,
    out: Array | Two | None = ..., return_statistics: Literal[True], threads: int = ...,
) -> RootMeanSquares: ...
@overload
def rms_norm(
    x: Array, scale: Array | None = ..., shift: Array | None = ..., *, axis: int = ...,
    epsilon: float = ..., parameters: Parameters | None = ..., residual: Array | None = ...,
    activation: Activation | None = ..., negative_slope: float = ..., layout: Layout = ...,
    out: Array | None = ..., return_statistics: Literal[False] = ..., threads: int = ...,
) -> NDArray[Any]: ...
def rms_norm(
    x: Array, scale: Array | None = None, shift: Array | None = None, *, axis: int = 1,
    epsilon: float = 1e-5, parameters: Parameters | None = None, residual: Array | None = None,
    activation: Activation | None = None, negative_slope: float = 0.01, layout: Layout = "nchw",
    out: Array | Two | None = None, return_statistics: bool = False, threads: int = 0,
) -> Any:
    """RMS normalization: x divided by the root of the mean of its squares, over all axes from `axis` on.

    The arguments are those of `layer_norm`; epsilon is added to the mean of the squares. No mean is taken
    away and none is returned.

    Returns:
        y like x, or (y, rstd x.shape[:axis]) with rstd = 1 / sqrt(mean of x * x + epsilon).
    """
    plan = _layer_plan("rms", x, "x", layout, _beside(out, residual), axis, parameters, _beside(scale, shift),
                       activation, negative_slope, threads, epsilon)
    return _forward(plan, x, scale, shift, residual, return_statistics, out, has_mean=False)


def rms_norm_backward(
    grad_y: Array, x: Array, rstd: Array, scale: Array | None = None, *, axis: int = 1,
    parameters: Parameters | None = None, shift: Array | None = None, residual: Array | None = None,
    activation: Activation | None = None, negative_slope: float = 0.01, layout: Layout = "nchw",
    output_mask: tuple[bool, bool, bool] = (True, True, True), out: Three | None = None,
    grad_residual: Array | None = None, threads: int = 0,
) -> Gradients:
    """Backward pass of `rms_norm`: as `layer_norm_backward`, with rstd x.shape[:axis] alone."""
    plan = _layer_plan("rms", grad_y, "grad_y", layout, _beside(x, out), axis, parameters,
                       _beside(scale, shift), activation, negative_slope, threads)
    return _backward(plan, grad_y, x, None, rstd, scale, shift, residual, output_mask, out, grad_residual)


@overload
def group_norm(
    x: Array, scale: Array | None = ..., shift: Array | None = ..., *, groups: int, epsilon: float = ...,
    residual: Array | None = ..., activation: Activation | None = ..., negative_slope: float = ...,
    layout: Layout = ..., out: Outputs | None = ..., return_statistics: Literal[True], threads: int = ...,
) -> Statistics: ...
@overload
def group_norm(
    x: Array, scale: Array | None = ..., shift: Array | None = ..., *, groups: int, epsilon: float = ...,
    residual: Array | None = ..., activation: Activation | None = ..., negative_slope: float = ...,
    layout: Layout = ..., out: Array | None = ..., return_statistics: Literal[False] = ...,
    threads: int = ...,
) -> NDArray[Any]: ...
def group_norm(
    x: Array, scale: Array | None = None, shift: Array | None = None, *, groups: int,
    epsilon: float = 1e-5, residual: Array | None = None, activation: Activation | None = None,
    negative_slope: float = 0.01, layout: Layout = "nchw", out: Outputs | None = None,
    return_statistics: bool = False, threads: int = 0,
) -> Any:
    """Group normalization: one mean and variance per sample and group of channels.

    Args:
        x: [N, C, spatial...] with 0 to 3 spatial axes.
        scale, shift: [C]; None: 1 and 0.
        groups: into how many groups the channels are cut, neighbours together; divides C.
        epsilon: added to the variance, inside the square root.
        residual, activation, negative_slope, layout, out, return_statistics, threads: as in `batch_norm`.

    Returns:
        y like x, or (y, mean [N, groups], rstd [N, groups]).
    """
    plan = _make_plan("group", x, "x", layout, _beside(out, residual), groups=groups, epsilon=epsilon,
                      threads=threads, activation=activation, negative_slope=negative_slope)
    return _forward(plan, x, scale, shift, residual, return_statistics, out)


def group_norm_backward(
    grad_y: Array, x: Array, mean: Array, rstd: Array, scale: Array | None = None, *, groups: int,
    shift: Array | None = None, residual: Array | None = None, activation: Activation | None = None,
    negative_slope: float = 0.01, layout: Layout = "nchw",
    output_mask: tuple[bool, bool, bool] = (True, True, True), out: Three | None = None,
    grad_residual: Array | None = None, threads: int = 0,
) -> Gradients:
    """Backward pass of `group_norm`: as `batch_norm_backward`, with mean and rstd [N, groups]."""
    plan = _make_plan("group", grad_y, "grad_y", layout, _beside(x, out), groups=groups, threads=threads,
                      activation=activation, negative_slope=negative_slope)
    return _backward(plan, grad_y, x, mean, rstd, scale, shift, residual, output_mask, out, grad_residual)


@overload
def positional_norm(
    x: Array, scale: Array | None = ..., shift: Array | None = ..., *, epsilon: float = ...,
    residual: Array | None = ..., activation: Activation | None = ..., negative_slope: float = ...,
    layout: Layout = ..., out: Outputs | None = ..., return_statistics: Literal[True], threads: int = ...,
) -> Statistics: ...
@overload
def positional_norm(
    x: Array, scale: Array | None = ..., shift: Array | None = ..., *, epsilon: float = ...,
    residual: Array | None = ..., activation: Activation | None = ..., negative_slope: float = ...,
    layout: Layout = ..., out: Array | None = ..., return_statistics: Literal[False] = ...,
    threads: int = ...,
) -> NDArray[Any]: ...
def positional_norm(
    x: Array, scale: Array | None = None, shift: Array | None = None, *, epsilon: float = 1e-5,
    residual: Array | None = None, activation: Activation | None = None, negative_slope: float = 0.01,
    layout: Layout = "nchw", out: Outputs | None = None, return_statistics: bool = False,
    threads: int = 0,
) -> Any:
    """Positional normalization: one mean and variance per sample and position, over the channels alone.

    This is the layer normalization of ConvNeXt, in any layout. The arguments are those of `group_norm`
    without groups.

    Returns:
        y like x, or (y, mean [N, spatial...], rstd [N, spatial...]).
    """
    plan = _make_plan("positional", x, "x", layout, _beside(out, residual), epsilon=epsilon, threads=threads,
                      activation=activation, negative_slope=negative_slope)
    return _forward(plan, x, scale, shift, residual, return_statistics, out)


def positional_norm_backward(
    grad_y: Array, x: Array, mean: Array, rstd: Array, scale: Array | None = None, *,
    shift: Array | None = None, residual: Array | None = None, activation: Activation | None = None,
    negative_slope: float = 0.01, layout: Layout = "nchw",
    output_mask: tuple[bool, bool, bool] = (True, True, True), out: Three | None = None,
    grad_residual: Array | None = None, threads: int = 0,
) -> Gradients:
    """Backward pass of `positional_norm`: as `batch_norm_backward`, with mean and rstd [N, spatial...]."""
    plan = _make_plan("positional", grad_y, "grad_y", layout, _beside(x, out), threads=threads,
                      activation=activation, negative_slope=negative_slope)
    return _backward(plan, grad_y, x, mean, rstd, scale, shift, residual, output_mask, out, grad_residual)
