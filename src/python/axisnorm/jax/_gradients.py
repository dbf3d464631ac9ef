# SPDX-License-Identifier: MIT
"""The passes with derivatives: the first by the library's backward pass, higher ones by formulas.

Statistics that a pass returns, and running ones that it is given, are constants in these."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax

from . import _calls, _formulas
from ._norm import Forward, Gradients, Norm


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _pull_back(
    norm: Norm, grad_y: Any, x: Any, scale: Any, shift: Any, residual: Any, statistics: Any, running: Any,
) -> Gradients:
    wanted = (scale is not None, shift is not None, norm.is_active and residual is not None)
    return _calls.backward(norm, grad_y, x, scale, shift, residual, statistics, running, wanted)


def _pull_back_forward(norm: Norm, *args: Any) -> tuple[Gradients, Any]:
    *variables, _, running = args
    return _pull_back(norm, *args), (variables, running)


def _pull_back_backward(norm: Norm, saved: Any, cotangents: Gradients) -> tuple[Any, ...]:
    variables, running = saved
    formula = partial(_formulas.backward, norm, running=running)
    return *jax.vjp(formula, *variables)[1](cotangents), None, None


_pull_back.defvjp(_pull_back_forward, _pull_back_backward)


def _save(norm: Norm, x: Any, scale: Any, shift: Any, residual: Any, statistics: Any, running: Any) -> Any:
    """What the backward pass takes; of a residual without an activation only that there was one."""
    if residual is not None and not norm.is_active:
        residual = ()
    return x, scale, shift, residual, statistics, running


def _gradients(norm: Norm, saved: Any, grad_y: Any) -> Gradients:
    x, scale, shift, residual, statistics, running = saved
    if norm.is_active or residual is None:
        return _pull_back(norm, grad_y, x, scale, shift, residual, statistics, running)
    return _pull_back(norm, grad_y, x, scale, shift, None, statistics, running)._replace(residual=grad_y)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def train(norm: Norm, x: Any, scale: Any, shift: Any, residual: Any, running: Any, batch_count: Any) -> Forward:
    """By statistics of x, which are returned; running ones are updated."""
    return _calls.training(norm, x, scale, shift, residual, running, batch_count)


def _train_forward(
    norm: Norm, x: Any, scale: Any, shift: Any, residual: Any, running: Any, batch_count: Any,
) -> tuple[Forward, Any]:
    result = train(norm, x, scale, shift, residual, running, batch_count)
    return result, _save(norm, x, scale, shift, residual, (result.mean, result.rstd), None)


def _train_backward(norm: Norm, saved: Any, cotangents: Forward) -> tuple[Any, ...]:
    return *_gradients(norm, saved, cotangents.y), None, None


train.defvjp(_train_forward, _train_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def normalize(norm: Norm, x: Any, scale: Any, shift: Any, residual: Any) -> Any:
    """By statistics of x."""
    return _calls.inference(norm, x, scale, shift, residual)


def _normalize_forward(norm: Norm, x: Any, scale: Any, shift: Any, residual: Any) -> tuple[Any, Any]:
    result = train(norm, x, scale, shift, residual, None, None)
    return result.y, _save(norm, x, scale, shift, residual, (result.mean, result.rstd), None)


normalize.defvjp(_normalize_forward, lambda norm, saved, grad_y: tuple(_gradients(norm, saved, grad_y)))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def normalize_by(norm: Norm, x: Any, scale: Any, shift: Any, residual: Any, running: Any) -> Any:
    """By running statistics."""
    return _calls.inference(norm, x, scale, shift, residual, running)


def _normalize_by_forward(
    norm: Norm, x: Any, scale: Any, shift: Any, residual: Any, running: Any,
) -> tuple[Any, Any]:
    y = normalize_by(norm, x, scale, shift, residual, running)
    return y, _save(norm, x, scale, shift, residual, None, running)


normalize_by.defvjp(_normalize_by_forward, lambda norm, saved, grad_y: (*_gradients(norm, saved, grad_y), None))
