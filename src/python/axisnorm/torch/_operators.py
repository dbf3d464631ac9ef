# SPDX-License-Identifier: MIT
"""The operators axisnorm::..., for CPU tensors: implementation, shapes, gradients, vmap.

`normalize` takes statistics from x, `normalize_and_track` also returns updated running statistics,
`normalize_by` takes given ones; the first two share a backward pass. None of them writes to its arguments, so
that compilers and function transforms may treat them as functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .._core import ArgumentError
from ._formulas import backward_formula, backward_formula_by
from ._runtime import ELEMENTS, ROWS, plan_for

_library = torch.library.Library("axisnorm", "DEF")

_library.define(
    "normalize(Tensor x, Tensor? scale, Tensor? shift, str norm, int groups, int axis, float epsilon)"
    " -> (Tensor y, Tensor mean, Tensor rstd)")
_library.define(
    "normalize_and_track(Tensor x, Tensor? scale, Tensor? shift, Tensor running_mean,"
    " Tensor running_variance, str norm, float epsilon, float momentum)"
    " -> (Tensor y, Tensor mean, Tensor rstd, Tensor new_mean, Tensor new_variance)")
_library.define(
    "normalize_backward(Tensor grad_y, Tensor x, Tensor? scale, Tensor mean, Tensor rstd, str norm,"
    " int groups, int axis, float epsilon, bool[3] output_mask)"
    " -> (Tensor grad_x, Tensor grad_scale, Tensor grad_shift)")
_library.define(
    "normalize_by(Tensor x, Tensor? scale, Tensor? shift, Tensor running_mean, Tensor running_variance,"
    " float epsilon) -> Tensor")
_library.define(
    "normalize_by_backward(Tensor grad_y, Tensor x, Tensor? scale, Tensor running_mean,"
    " Tensor running_variance, float epsilon, bool[3] output_mask)"
    " -> (Tensor grad_x, Tensor grad_scale, Tensor grad_shift)")

operators = torch.ops.axisnorm


def _dense(x: Tensor, norm: str) -> tuple[Tensor, bool]:
    """x as the library can walk it, and whether channels are last; other layouts are copied."""
    if x.dtype not in ELEMENTS:
        raise ArgumentError(f"x: {x.dtype} is not supported")
    if norm not in ROWS and x.dim() > 2 and not x.is_contiguous() and x.movedim(1, -1).is_contiguous():
        return x, True
    return x.contiguous(), False


def _like(grad_y: Tensor, x: Tensor) -> Tensor:
    """grad_y with the strides of x."""
    if grad_y.shape != x.shape or grad_y.dtype != x.dtype or grad_y.device != x.device:
        raise ArgumentError(f"grad_y: {grad_y.dtype} {list(grad_y.shape)} is not like x")
    return grad_y if grad_y.stride() == x.stride() else torch.empty_like(x).copy_(grad_y)


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _held(x: Tensor, shape: Sequence[int], **tensors: Tensor | None) -> list[Tensor | None]:
    """What goes with x, contiguous, to be held until the library has run: it is given addresses alone."""
    dtype, held = ELEMENTS[x.dtype][1], []
    for name, tensor in tensors.items():
        if tensor is not None:
            if tensor.shape != shape or tensor.dtype != dtype or tensor.device != x.device:
                raise ArgumentError(f"{name}: {tensor.dtype} {list(tensor.shape)} on {tensor.device} where "
                                    f"{dtype} {list(shape)} on {x.device} is due")
            tensor = tensor.contiguous()
        held.append(tensor)
    return held


def _parameters_shape(x: Tensor, norm: str, axis: int) -> Sequence[int]:
    return x.shape[axis:] if norm in ROWS else x.shape[1:2]


def _statistics_shape(x: Tensor, norm: str, groups: int, axis: int) -> Sequence[int]:
    if norm in ROWS:
        return x.shape[:axis]
    return {"batch": x.shape[1:2], "instance": x.shape[:2]}.get(norm, (x.shape[0], groups))


def _outputs(x: Tensor, norm: str, groups: int, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    shape, dtype = _statistics_shape(x, norm, groups, axis), ELEMENTS[x.dtype][1]
    return torch.empty_like(x), x.new_empty(shape, dtype=dtype), x.new_empty(shape, dtype=dtype)


def _gradients(x: Tensor, norm: str, axis: int, mask: Sequence[bool]) -> list[Tensor]:
    """Room for the gradients that are wanted; of no elements for the others."""
    shape, parameter = _parameters_shape(x, norm, axis), ELEMENTS[x.dtype][1]
    return [torch.empty_like(x) if mask[0] else x.new_empty(0),
            *(x.new_empty(shape if wanted else 0, dtype=parameter) for wanted in mask[1:])]


def _wanted(gradients: list[Tensor], mask: Sequence[bool]) -> list[int | None]:
    return [_address(gradient) if wanted else None for gradient, wanted in zip(gradients, mask, strict=True)]


def _normalize(x, scale, shift, norm, groups, axis, epsilon):  # type: ignore[no-untyped-def]
    x, last = _dense(x, norm)
    held = _held(x, _parameters_shape(x, norm, axis), scale=scale, shift=shift)
    y, mean, rstd = _outputs(x, norm, groups, axis)
    plan_for(norm, x, last, groups, axis, epsilon).training_at(
        *map(_address, (x, y, *held, mean, rstd)), None, None, None, None)
    return y, mean, rstd


def _normalize_and_track(  # type: ignore[no-untyped-def]
        x, scale, shift, running_mean, running_variance, norm, epsilon, momentum):
    x, last = _dense(x, norm)
    scale, shift, *_ = _held(x, x.shape[1:2], scale=scale, shift=shift, running_mean=running_mean,
                             running_variance=running_variance)
    y, mean, rstd = _outputs(x, norm, 1, 1)
    running = [tensor.clone(memory_format=torch.contiguous_format)
               for tensor in (running_mean, running_variance)]
    plan_for(norm, x, last, epsilon=epsilon, momentum=momentum).training_at(
        *map(_address, (x, y, scale, shift, mean, rstd, *running)), None, None)
    return y, mean, rstd, *running


def _normalize_backward(  # type: ignore[no-untyped-def]
        grad_y, x, scale, mean, rstd, norm, groups, axis, epsilon, output_mask):
    x, last = _dense(x, norm)
    grad_y = _like(grad_y, x)
    scale, = _held(x, _parameters_shape(x, norm, axis), scale=scale)
    held = _held(x, _statistics_shape(x, norm, groups, axis), mean=mean, rstd=rstd)
    gradients = _gradients(x, norm, axis, output_mask)
    plan_for(norm, x, last, groups, axis, epsilon).backward_at(
        *map(_address, (x, grad_y, scale, *held)), None, None, *_wanted(gradients, output_mask), None, None,
        None)
    return tuple(gradients)


def _normalize_by(x, scale, shift, running_mean, running_variance, epsilon):  # type: ignore[no-untyped-def]
    x, last = _dense(x, "batch")
    held = _held(x, x.shape[1:2], scale=scale, shift=shift, running_mean=running_mean,
                 running_variance=running_variance)
    y = torch.empty_like(x)
    plan_for("batch", x, last, epsilon=epsilon).inference_at(*map(_address, (x, y, *held)), None)
    return y


def _normalize_by_backward(  # type: ignore[no-untyped-def]
        grad_y, x, scale, running_mean, running_variance, epsilon, output_mask):
    x, last = _dense(x, "batch")
    grad_y = _like(grad_y, x)
    scale, *running = _held(x, x.shape[1:2], scale=scale, running_mean=running_mean,
                            running_variance=running_variance)
    gradients = _gradients(x, "batch", 1, output_mask)
    plan_for("batch", x, last, epsilon=epsilon).backward_at(
        *map(_address, (x, grad_y, scale)), None, None, *map(_address, running),
        *_wanted(gradients, output_mask), None, None, None)
    return tuple(gradients)


# Shapes and strides without data, for compilers and the meta device.


def _normalize_fake(x, scale, shift, norm, groups, axis, epsilon):  # type: ignore[no-untyped-def]
    return _outputs(_dense(x, norm)[0], norm, groups, axis)


def _normalize_and_track_fake(  # type: ignore[no-untyped-def]
        x, scale, shift, running_mean, running_variance, norm, epsilon, momentum):
    running = [torch.empty_like(tensor, memory_format=torch.contiguous_format)
               for tensor in (running_mean, running_variance)]
    return *_outputs(_dense(x, norm)[0], norm, 1, 1), *running


def _normalize_backward_fake(  # type: ignore[no-untyped-def]
        grad_y, x, scale, mean, rstd, norm, groups, axis, epsilon, output_mask):
    return tuple(_gradients(_dense(x, norm)[0], norm, axis, output_mask))


def _normalize_by_fake(  # type: ignore[no-untyped-def]
        x, scale, shift, running_mean, running_variance, epsilon):
    return torch.empty_like(_dense(x, "batch")[0])


def _normalize_by_backward_fake(  # type: ignore[no-untyped-def]
        grad_y, x, scale, running_mean, running_variance, epsilon, output_mask):
    return tuple(_gradients(_dense(x, "batch")[0], "batch", 1, output_mask))


# Gradients. Those of mean, rstd and the updated running statistics are not offered, as in PyTorch.


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    x, scale, _, ctx.norm, ctx.groups, ctx.axis, ctx.epsilon = inputs
    ctx.save_for_backward(x, scale, *output[1:3])
    ctx.mark_non_differentiable(*output[1:])


def _keep_tracked(ctx: Any, inputs: Any, output: Any) -> None:
    x, scale, _, _, _, ctx.norm, ctx.epsilon, _ = inputs
    ctx.groups = ctx.axis = 1
    ctx.save_for_backward(x, scale, *output[1:3])
    ctx.mark_non_differentiable(*output[1:])


def _of_all(ctx: Any, gradients: Sequence[Tensor], mask: Sequence[bool]) -> tuple[Tensor | None, ...]:
    """The gradients of all arguments: of x, scale and shift where they are wanted, else none."""
    wanted = [gradient if computed else None for gradient, computed in zip(gradients, mask, strict=True)]
    return *wanted, *[None] * (len(ctx.needs_input_grad) - 3)


def _backward(ctx: Any, grad_y: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    mask = list(ctx.needs_input_grad[:3])
    x, scale, mean, rstd = ctx.saved_tensors
    gradients = call(
        "normalize_backward", grad_y, x, scale, mean, rstd, ctx.norm, ctx.groups, ctx.axis, ctx.epsilon, mask)
    return _of_all(ctx, gradients, mask)


def _keep_given(ctx: Any, inputs: Any, output: Any) -> None:
    x, scale, _, running_mean, running_variance, ctx.epsilon = inputs
    ctx.save_for_backward(x, scale, running_mean, running_variance)


def _backward_given(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    mask = list(ctx.needs_input_grad[:3])
    gradients = call("normalize_by_backward", grad_y, *ctx.saved_tensors, ctx.epsilon, mask)
    return _of_all(ctx, gradients, mask)


def _keep_all(ctx: Any, inputs: Any, output: Any) -> None:
    tensors = [value for value in inputs if isinstance(value, Tensor)]
    ctx.places = [place for place, value in enumerate(inputs) if isinstance(value, Tensor)]
    ctx.rest = [None if isinstance(value, Tensor) else value for value in inputs]
    ctx.save_for_backward(*tensors)


def _double(formula: Callable[..., Any]) -> Callable[..., tuple[Tensor | None, ...]]:
    """The gradient of a backward pass: that of its formula, by PyTorch's own operators."""

    def double(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inputs = list(ctx.rest)
        for place, tensor in zip(ctx.places, ctx.saved_tensors, strict=True):
            inputs[place] = tensor
        wanted = [place for place in range(3) if ctx.needs_input_grad[place]]  # grad_y, x, scale
        mask = inputs[-1]

        def computed(values: Sequence[Tensor]) -> tuple[Tensor, ...]:
            return tuple(value for value, is_computed in zip(values, mask, strict=True) if is_computed)

        def function(*variables: Tensor) -> tuple[Tensor, ...]:
            for place, variable in zip(wanted, variables, strict=True):
                inputs[place] = variable
            return computed(formula(*inputs))

        pull_back = torch.func.vjp(function, *(inputs[place] for place in wanted))[1]
        by_place = dict(zip(wanted, pull_back(computed(gradients)), strict=True))
        return tuple(by_place.get(place) for place in range(len(inputs)))

    return double


def _one_by_one(name: str) -> Callable[..., Any]:
    """vmap: the operator for each of the batch, since parameters may be batched as well."""

    def rule(info: Any, in_dims: Sequence[Any], *args: Any) -> tuple[Any, Any]:
        def at(index: int) -> list[Any]:
            return [value.select(dim, index) if isinstance(value, Tensor) and dim is not None else value
                    for value, dim in zip(args, in_dims, strict=True)]

        results = [call(name, *at(index)) for index in range(info.batch_size)]
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        return tuple(map(torch.stack, zip(*results, strict=True))), (0,) * len(results[0])

    return rule


# torch.func does not see the gradients that torch.library holds, so within its transforms the same ones are
# offered once more, as autograd.Function.
_functions: dict[str, Any] = {}


def call(name: str, *args: Any) -> Any:
    """The operator of that name, also inside transforms of torch.func."""
    if torch._C._are_functorch_transforms_active():
        return _functions[name].apply(*args)
    return getattr(operators, name)(*args)


def _register(name: str, implementation: Any, fake: Any, setup_context: Any, backward: Any) -> None:
    qualified, rule = f"axisnorm::{name}", _one_by_one(name)
    _library.impl(name, implementation, "CPU")
    torch.library.register_fake(qualified, fake, lib=_library)
    torch.library.register_autograd(qualified, backward, setup_context=setup_context, lib=_library)
    torch.library.register_vmap(qualified, rule, lib=_library)
    operator = getattr(operators, name)
    methods = {"forward": lambda *args: operator(*args), "setup_context": setup_context, "backward": backward,
               "vmap": rule}
    _functions[name] = type(name, (torch.autograd.Function,), {
        method: staticmethod(function) for method, function in methods.items()})


_register("normalize", _normalize, _normalize_fake, _keep, _backward)
_register("normalize_and_track", _normalize_and_track, _normalize_and_track_fake, _keep_tracked, _backward)
_register("normalize_backward", _normalize_backward, _normalize_backward_fake, _keep_all,
          _double(backward_formula))
_register("normalize_by", _normalize_by, _normalize_by_fake, _keep_given, _backward_given)
_register("normalize_by_backward", _normalize_by_backward, _normalize_by_backward_fake, _keep_all,
          _double(backward_formula_by))
