# SPDX-License-Identifier: MIT
"""The passes as functions of traced arrays: custom calls of the library on CPUs, formulas elsewhere, with
their rules for vmap. They have no derivatives; _gradients.py gives them some."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy

from .. import _core
from . import _formulas
from ._norm import ELEMENTS, THREADS, Forward, Gradients, Norm

for _name, _handler in _core.xla_handlers().items():
    jax.ffi.register_ffi_target(_name, _handler, platform="cpu")

ShapeDtypeStruct: Any = jax.ShapeDtypeStruct  # which JAX gives no types

_BITS = {name: 1 << bit for bit, name in enumerate((
    "scale", "shift", "residual", "mean", "rstd", "running", "batch_count", "grad_scale", "grad_shift",
    "grad_residual"))}  # enum operand of xla.c


def _call(target: str, norm: Norm, workspace: int, arguments: Sequence[Any], results: dict[str, Any],
          present: dict[str, Any]) -> dict[str, Any]:
    """One custom call; what is None is left out. The last result is the library's workspace: XLA allocates
    it with all else, and nobody reads it."""
    wanted = {name: struct for name, struct in results.items() if struct is not None}
    bits = sum(_BITS[name] for name, value in present.items() if value is not None)
    call = jax.ffi.ffi_call(target, [*wanted.values(), ShapeDtypeStruct((workspace,), jnp.uint8)])
    given = call(
        *(argument for argument in arguments if argument is not None), norm=norm.name,
        activation=norm.activation, axis=numpy.int64(norm.axis), groups=numpy.int64(norm.groups),
        ghost_batch=numpy.int64(norm.ghost_batch), channels_last=numpy.int64(norm.channels_last),
        per_element=numpy.int64(norm.per_element), unbiased=numpy.int64(norm.unbiased),
        threads=numpy.int64(THREADS), epsilon=numpy.float64(norm.epsilon), momentum=numpy.float64(norm.momentum),
        negative_slope=numpy.float64(norm.negative_slope), operands=numpy.int64(bits))
    return dict.fromkeys(results) | dict(zip(wanted, given[:-1], strict=True))


def _like(array: Any) -> Any:
    return None if array is None else ShapeDtypeStruct(array.shape, array.dtype)


def _pair(statistics: Any) -> Any:
    return (None, None) if statistics is None else statistics


def _training(
    norm: Norm, x: Any, scale: Any, shift: Any, residual: Any, running: Any, batch_count: Any,
) -> Forward:
    plan = norm.plan(x)
    norm.check_values(x)
    statistic = ShapeDtypeStruct(plan.statistics[1], ELEMENTS[x.dtype][1])
    mean = statistic if norm.has_mean else None
    running_mean, running_variance = _pair(running)
    given = _call(
        "axisnorm_training", norm, plan.workspaces[0],
        (x, scale, shift, residual, running_mean, running_variance, batch_count),
        {"y": _like(x), "mean": mean, "rstd": statistic, "running_mean": _like(running_mean),
         "running_variance": _like(running_variance), "batch_count": _like(batch_count)},
        {"scale": scale, "shift": shift, "residual": residual, "mean": mean, "rstd": statistic,
         "running": running, "batch_count": batch_count})
    tracked = None if running is None else (given["running_mean"], given["running_variance"])
    return Forward(given["y"], given["mean"], given["rstd"], tracked, given["batch_count"])


def _inference(norm: Norm, x: Any, scale: Any, shift: Any, residual: Any, running: Any) -> Any:
    return _call(
        "axisnorm_inference", norm, norm.plan(x).workspaces[1], (x, scale, shift, residual, *_pair(running)),
        {"y": _like(x)}, {"scale": scale, "shift": shift, "residual": residual, "running": running})["y"]


def _backward(
    norm: Norm, grad_y: Any, x: Any, scale: Any, shift: Any, residual: Any, statistics: Any, running: Any,
    wanted: Sequence[bool],
) -> Gradients:
    plan = norm.plan(x)
    parameter = ShapeDtypeStruct(plan.parameters[1], ELEMENTS[x.dtype][1])
    mean, rstd = _pair(statistics)
    results = {"grad_x": _like(x), "grad_scale": parameter if wanted[0] else None,
               "grad_shift": parameter if wanted[1] else None, "grad_residual": _like(x) if wanted[2] else None}
    given = _call(
        "axisnorm_backward", norm, plan.workspaces[2],
        (grad_y, x, scale, shift, residual, mean, rstd, *_pair(running)), results,
        {"scale": scale, "shift": shift, "residual": residual, "mean": mean, "rstd": rstd,
         "running": running} | {name: results[name] for name in results if name != "grad_x"})
    return Gradients(*given.values())


# vmap. A batch goes along the samples where these do not see each other and parameters are shared: one call
# for all. Otherwise one call for each of it, in turn.


def _is_batched(tree: Any) -> bool:
    return any(jax.tree.leaves(tree))


def _fold(size: int, batched: Any, tree: Any) -> Any:
    """Arrays of samples, the batch along these."""
    def fold(is_batched: bool, array: Any) -> Any:
        if not is_batched:
            array = jnp.broadcast_to(array, (size, *array.shape))
        return array.reshape(size * array.shape[1], *array.shape[2:])

    return jax.tree.map(fold, batched, tree)


def _unfold(size: int, tree: Any) -> Any:
    return jax.tree.map(lambda array: array.reshape(size, array.shape[0] // size, *array.shape[1:]), tree)


def _in_turn(call: Callable[..., Any], batched: Sequence[Any], args: Sequence[Any]) -> Any:
    leaves, tree = jax.tree.flatten(args)
    is_batched = jax.tree.leaves(batched)

    def one(some: list[Any]) -> Any:
        each = iter(some)
        return call(*jax.tree.unflatten(tree, [
            next(each) if moves else leaf for moves, leaf in zip(is_batched, leaves, strict=True)]))

    return jax.lax.map(one, [leaf for moves, leaf in zip(is_batched, leaves, strict=True) if moves])


def _with_rule(call: Callable[..., Any], fold: Callable[..., Any]) -> Callable[..., Any]:
    """`fold` computes a batch in one call, or says that it cannot: None."""
    function = jax.custom_batching.custom_vmap(call)

    @function.def_vmap
    def rule(size: int, batched: Sequence[Any], *args: Any) -> Any:
        results = fold(size, batched, *args) if size > 0 else None
        if results is None:
            results = _in_turn(function, batched, args)
        return results, jax.tree.map(lambda _: True, results)

    return function


@cache
def _training_of(norm: Norm) -> Callable[..., Forward]:
    def call(*args: Any) -> Any:
        return jax.lax.platform_dependent(
            *args, cpu=lambda *args: _training(norm, *args),
            default=lambda *args: _formulas.training(norm, *args))

    def fold(size: int, batched: Any, x: Any, scale: Any, shift: Any, residual: Any, *tracked: Any) -> Any:
        if norm.joins_samples or _is_batched(batched[1:3]) or jax.tree.leaves(tracked):
            return None
        x, residual = _fold(size, (batched[0], batched[3]), (x, residual))
        return _unfold(size, training(norm, x, scale, shift, residual))

    return _with_rule(call, fold)


def training(
    norm: Norm, x: Any, scale: Any, shift: Any, residual: Any, running: Any = None, batch_count: Any = None,
) -> Forward:
    return _training_of(norm)(x, scale, shift, residual, running, batch_count)


@cache
def _inference_of(norm: Norm) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        return jax.lax.platform_dependent(
            *args, cpu=lambda *args: _inference(norm, *args),
            default=lambda *args: _formulas.inference(norm, *args))

    def fold(size: int, batched: Any, x: Any, scale: Any, shift: Any, residual: Any, running: Any) -> Any:
        if (running is None and norm.joins_samples) or _is_batched((batched[1:3], batched[4])):
            return None
        x, residual = _fold(size, (batched[0], batched[3]), (x, residual))
        return _unfold(size, inference(norm, x, scale, shift, residual, running))

    return _with_rule(call, fold)


def inference(norm: Norm, x: Any, scale: Any, shift: Any, residual: Any, running: Any = None) -> Any:
    return _inference_of(norm)(x, scale, shift, residual, running)


def _formulas_backward(
    norm: Norm, grad_y: Any, x: Any, scale: Any, shift: Any, residual: Any, statistics: Any, running: Any,
    wanted: Sequence[bool],
) -> Gradients:
    zero = jnp.zeros(norm.plan(x).parameters[1], ELEMENTS[x.dtype][1])
    gradients = _formulas.backward(
        norm, grad_y, x, zero + 1 if scale is None else scale, zero if shift is None else shift,
        jnp.zeros_like(x) if residual is None else residual, running)
    return Gradients(gradients.x, *(
        gradient if due else None for gradient, due in zip(gradients[1:], wanted, strict=True)))


@cache
def _backward_of(norm: Norm, wanted: tuple[bool, bool, bool]) -> Callable[..., Gradients]:
    def call(*args: Any) -> Any:
        return jax.lax.platform_dependent(
            *args, cpu=partial(_backward, norm, wanted=wanted),
            default=partial(_formulas_backward, norm, wanted=wanted))

    def fold(size: int, batched: Any, grad_y: Any, x: Any, scale: Any, shift: Any, residual: Any,
             statistics: Any, running: Any) -> Any:
        if (running is None and norm.joins_samples) or _is_batched((batched[2:4], batched[6])):
            return None
        data = (batched[0], batched[1], batched[4], batched[5])
        grad_y, x, residual, statistics = _fold(size, data, (grad_y, x, residual, statistics))
        # Each of the batch has gradients of its own by the parameters that are shared: sums of what the
        # library returns per element, the gradient by the activation's argument.
        sums = wanted[0] or wanted[1]
        folded = backward(norm, grad_y, x, scale, shift, residual, statistics, running,
                          (False, False, norm.is_active and (sums or wanted[2])))
        by_z = folded.residual if norm.is_active else grad_y
        by_z = by_z.astype(ELEMENTS[x.dtype][1]) if sums else None
        grad_scale = grad_shift = None
        if wanted[0]:
            z = (_formulas.normalized(norm, x, *statistics) if running is None
                 else _formulas.normalized_by(norm, x, running))
            grad_scale = _formulas.sum_to_parameter(norm, _unfold(size, by_z * z), 1)
        if wanted[1]:
            grad_shift = _formulas.sum_to_parameter(norm, _unfold(size, by_z), 1)
        grad_residual = _unfold(size, folded.residual) if wanted[2] else None
        return Gradients(_unfold(size, folded.x), grad_scale, grad_shift, grad_residual)

    return _with_rule(call, fold)


def backward(
    norm: Norm, grad_y: Any, x: Any, scale: Any, shift: Any, residual: Any, statistics: Any, running: Any,
    wanted: tuple[bool, bool, bool],
) -> Gradients:
    return _backward_of(norm, wanted)(grad_y, x, scale, shift, residual, statistics, running)
