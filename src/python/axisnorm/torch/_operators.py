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

from .. import _core
from .._core import ArgumentError
from ._formulas import backward_formula, backward_formula_by
from ._runtime import ELEMENTS, ROWS

_library = torch.library.Library("axisnorm", "DEF")

_OPTIONS = "str norm, int groups, int axis, float epsilon, str activation, float negative_slope"
_GRADIENTS = "(Tensor grad_x, Tensor grad_scale, Tensor grad_shift, Tensor grad_residual)"
_library.define(
    f"normalize(Tensor x, Tensor? scale, Tensor? shift, Tensor? residual, {_OPTIONS})"
    " -> (Tensor y, Tensor mean, Tensor rstd)")
_library.define(
    "normalize_and_track(Tensor x, Tensor? scale, Tensor? shift, Tensor? residual, Tensor running_mean,"
    " Tensor running_variance, str norm, float epsilon, float momentum, str activation, float negative_slope)"
    " -> (Tensor y, Tensor mean, Tensor rstd, Tensor new_mean, Tensor new_variance)")
_library.define(
    "normalize_backward(Tensor grad_y, Tensor x, Tensor? scale, Tensor? shift, Tensor? residual, Tensor mean,"
    f" Tensor rstd, {_OPTIONS}, bool[4] output_mask) -> {_GRADIENTS}")
_library.define(
    "normalize_by(Tensor x, Tensor? scale, Tensor? shift, Tensor? residual, Tensor running_mean,"
    " Tensor running_variance, float epsilon, str activation, float negative_slope) -> Tensor")
_library.define(
    "normalize_by_backward(Tensor grad_y, Tensor x, Tensor? scale, Tensor? shift, Tensor? residual,"
    " Tensor running_mean, Tensor running_variance, float epsilon, str activation, float negative_slope,"
    f" bool[4] output_mask) -> {_GRADIENTS}")

operators = torch.ops.axisnorm


def dense(x: Tensor, norm: str) -> Tensor:
    """x as the library can walk it: channels last as it is, other layouts copied; parts of tensors with channels
    last so that they stay so."""
    if x.dtype not in ELEMENTS:
        raise ArgumentError(f"x: {x.dtype} is not supported")
    if norm not in ROWS and x.dim() > 2 and not x.is_contiguous() and x.stride(1) == 1:
        last = x.movedim(1, -1)
        return x if last.is_contiguous() else last.contiguous().movedim(-1, 1)
    return x.contiguous()


def like(tensor: Tensor | None, x: Tensor, name: str = "grad_y") -> Tensor | None:
    """A tensor of x's shape and type, with x's strides."""
    if tensor is None:
        return None
    if tensor.shape != x.shape or tensor.dtype != x.dtype or tensor.device != x.device:
        raise ArgumentError(f"{name}: {tensor.dtype} {list(tensor.shape)} on {tensor.device} is not like x")
    return tensor if tensor.stride() == x.stride() else torch.empty_like(x).copy_(tensor)


def _contiguous(
    x: Tensor, dtypes: Sequence[torch.dtype], shape: Sequence[int], **tensors: Tensor | None,
) -> list[Tensor | None]:
    """What goes with x, of one of these types."""
    for name, tensor in tensors.items():
        if tensor is not None and not (
                tensor.shape == shape and tensor.dtype in dtypes and tensor.device == x.device):
            raise ArgumentError(f"{name}: {tensor.dtype} {list(tensor.shape)} on {tensor.device} where "
                                f"{dtypes[-1]} {list(shape)} on {x.device} is expected")
    return [None if tensor is None else tensor.contiguous() for tensor in tensors.values()]


def _parameters_shape(x: Tensor, norm: str, axis: int) -> Sequence[int]:
    return x.shape[axis:] if norm in ROWS else x.shape[1:2]


def _parameters(
    x: Tensor, norm: str, axis: int, scale: Tensor | None, shift: Tensor | None,
) -> list[Tensor | None]:
    """Scale and shift, both of x's type or both of that of its statistics."""
    dtypes = [x.dtype, ELEMENTS[x.dtype]] if scale is None else [scale.dtype]
    if dtypes[0] not in (x.dtype, ELEMENTS[x.dtype]):
        dtypes = [ELEMENTS[x.dtype]]
    return _contiguous(x, dtypes, _parameters_shape(x, norm, axis), scale=scale, shift=shift)


def _statistics(x: Tensor, shape: Sequence[int], **tensors: Tensor | None) -> list[Tensor | None]:
    return _contiguous(x, [ELEMENTS[x.dtype]], shape, **tensors)


def statistics_shape(x: Tensor, norm: str, groups: int, axis: int) -> Sequence[int]:
    if norm in ROWS:
        return x.shape[:axis]
    return {"batch": x.shape[1:2], "instance": x.shape[:2]}.get(norm, (x.shape[0], groups))


def _outputs(x: Tensor, norm: str, groups: int, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    shape, dtype = statistics_shape(x, norm, groups, axis), ELEMENTS[x.dtype]
    return torch.empty_like(x), x.new_empty(shape, dtype=dtype), x.new_empty(shape, dtype=dtype)


def _gradients(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, norm: str, axis: int, mask: Sequence[bool],
) -> list[Tensor]:
    """Room for the gradients that are wanted; of no elements for the others."""
    shape, given = _parameters_shape(x, norm, axis), shift if scale is None else scale
    dtype = ELEMENTS[x.dtype] if given is None else given.dtype
    of_x = [torch.empty_like(x) if wanted else x.new_empty(0) for wanted in (mask[0], mask[3])]
    of_parameters = [x.new_empty(shape if wanted else 0, dtype=dtype) for wanted in mask[1:3]]
    return [of_x[0], *of_parameters, of_x[1]]


def _run_backward(
    plan: _core.Plan, x: Tensor, grad_y: Tensor | None, scale: Tensor | None, shift: Tensor | None,
    residual: Tensor | None, statistics: Sequence[Tensor | None], activation: str, gradients: list[Tensor],
    mask: Sequence[bool],
) -> tuple[Tensor, ...]:
    """Fills the gradients that are wanted."""
    room = [gradient if wanted else None for gradient, wanted in zip(gradients, mask, strict=True)]
    if activation == "none":
        if mask[3] and grad_y is not None:
            gradients[3].copy_(grad_y)
        room[3] = None
    elif room[0] is None and room[3] is None:
        room[0] = torch.empty_like(x)  # for what the activation's derivative makes of grad_y
    plan.backward_of_tensors(x, grad_y, scale, *statistics, *room[:3], shift, residual, room[3])
    return tuple(gradients)


def _plan(*call: Any) -> _core.Plan:
    plan = _core.plan_for_tensors(*call)
    if plan is None:
        raise ArgumentError("x: its shape and type are none that the library takes")
    return plan


def _normalize(  # type: ignore[no-untyped-def]
        x, scale, shift, residual, norm, groups, axis, epsilon, activation, negative_slope):
    x = dense(x, norm)
    residual = like(residual, x, "residual")
    scale, shift = _parameters(x, norm, axis, scale, shift)
    y, mean, rstd = _outputs(x, norm, groups, axis)
    plan = _plan(norm, x, scale, shift, residual, None, None, groups, axis, epsilon, 0.1, activation,
                 negative_slope)
    plan.training_of_tensors(x, y, scale, shift, mean, rstd, None, None, None, residual)
    return y, mean, rstd


def _normalize_and_track(  # type: ignore[no-untyped-def]
        x, scale, shift, residual, running_mean, running_variance, norm, epsilon, momentum, activation,
        negative_slope):
    x = dense(x, norm)
    residual = like(residual, x, "residual")
    scale, shift = _parameters(x, norm, 1, scale, shift)
    running = _statistics(x, x.shape[1:2], running_mean=running_mean, running_variance=running_variance)
    y, mean, rstd = _outputs(x, norm, 1, 1)
    running = [None if tensor is None else tensor.clone() for tensor in running]
    plan = _plan(norm, x, scale, shift, residual, *running, 1, 1, epsilon, momentum, activation,
                 negative_slope)
    plan.training_of_tensors(x, y, scale, shift, mean, rstd, *running, None, residual)
    return y, mean, rstd, *running


def _normalize_backward(  # type: ignore[no-untyped-def]
        grad_y, x, scale, shift, residual, mean, rstd, norm, groups, axis, epsilon, activation, negative_slope,
        output_mask):
    x = dense(x, norm)
    grad_y, residual = like(grad_y, x), like(residual, x, "residual")
    scale, shift = _parameters(x, norm, axis, scale, shift)
    statistics = _statistics(x, statistics_shape(x, norm, groups, axis), mean=mean, rstd=rstd)
    gradients = _gradients(x, scale, shift, norm, axis, output_mask)
    plan = _plan(norm, x, scale, shift, residual, None, None, groups, axis, epsilon, 0.1, activation,
                 negative_slope)
    return _run_backward(plan, x, grad_y, scale, shift, residual, [*statistics, None, None], activation,
                         gradients, output_mask)


def _normalize_by(  # type: ignore[no-untyped-def]
        x, scale, shift, residual, running_mean, running_variance, epsilon, activation, negative_slope):
    x = dense(x, "batch")
    residual = like(residual, x, "residual")
    scale, shift = _parameters(x, "batch", 1, scale, shift)
    running = _statistics(x, x.shape[1:2], running_mean=running_mean, running_variance=running_variance)
    y = torch.empty_like(x)
    plan = _plan("batch", x, scale, shift, residual, *running, 1, 1, epsilon, 0.1, activation, negative_slope)
    plan.inference_of_tensors(x, y, scale, shift, *running, residual)
    return y


def _normalize_by_backward(  # type: ignore[no-untyped-def]
        grad_y, x, scale, shift, residual, running_mean, running_variance, epsilon, activation, negative_slope,
        output_mask):
    x = dense(x, "batch")
    grad_y, residual = like(grad_y, x), like(residual, x, "residual")
    scale, shift = _parameters(x, "batch", 1, scale, shift)
    running = _statistics(x, x.shape[1:2], running_mean=running_mean, running_variance=running_variance)
    gradients = _gradients(x, scale, shift, "batch", 1, output_mask)
    plan = _plan("batch", x, scale, shift, residual, *running, 1, 1, epsilon, 0.1, activation, negative_slope)
    return _run_backward(plan, x, grad_y, scale, shift, residual, [None, None, *running], activation,
                         gradients, output_mask)


# Shapes and strides without data, for compilers and the meta device.


def _normalize_fake(  # type: ignore[no-untyped-def]
        x, scale, shift, residual, norm, groups, axis, epsilon, activation, negative_slope):
    return _outputs(dense(x, norm), norm, groups, axis)


def _normalize_and_track_fake(  # type: ignore[no-untyped-def]
        x, scale, shift, residual, running_mean, running_variance, norm, epsilon, momentum, activation,
        negative_slope):
    running = [torch.empty_like(tensor, memory_format=torch.contiguous_format)
               for tensor in (running_mean, running_variance)]
    return *_outputs(dense(x, norm), norm, 1, 1), *running


def _normalize_backward_fake(  # type: ignore[no-untyped-def]
        grad_y, x, scale, shift, residual, mean, rstd, norm, groups, axis, epsilon, activation, negative_slope,
        output_mask):
    return tuple(_gradients(dense(x, norm), scale, shift, norm, axis, output_mask))


def _normalize_by_fake(  # type: ignore[no-untyped-def]
        x, scale, shift, residual, running_mean, running_variance, epsilon, activation, negative_slope):
    return torch.empty_like(dense(x, "batch"))


def _normalize_by_backward_fake(  # type: ignore[no-untyped-def]
        grad_y, x, scale, shift, residual, running_mean, running_variance, epsilon, activation, negative_slope,
        output_mask):
    return tuple(_gradients(dense(x, "batch"), scale, shift, "batch", 1, output_mask))


# Gradients. Those of mean, rstd and the updated running statistics are not offered, as in PyTorch.


def _save(ctx: Any, inputs: Any, activation: str, *statistics: Tensor) -> None:
    """What backward takes, and no more: what is kept may not be changed until then."""
    x, scale, shift, residual = inputs[:4]
    if activation == "none":
        shift, residual = shift if scale is None else None, None
    ctx.save_for_backward(x, scale, shift, residual, *statistics)


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.options = inputs[4:]
    _save(ctx, inputs, inputs[-2], *output[1:3])
    ctx.mark_non_differentiable(*output[1:])


def _keep_tracked(ctx: Any, inputs: Any, output: Any) -> None:
    norm, epsilon, _, *activation = inputs[6:]
    ctx.options = norm, 1, 1, epsilon, *activation
    _save(ctx, inputs, inputs[-2], *output[1:3])
    ctx.mark_non_differentiable(*output[1:])


def _of_all(ctx: Any, gradients: Sequence[Tensor], mask: Sequence[bool]) -> tuple[Tensor | None, ...]:
    """The gradients of all arguments: of x, scale, shift and residual where they are wanted, else none."""
    wanted = [gradient if computed else None for gradient, computed in zip(gradients, mask, strict=True)]
    return *wanted, *[None] * (len(ctx.needs_input_grad) - 4)


def _backward(ctx: Any, grad_y: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    mask = list(ctx.needs_input_grad[:4])
    return _of_all(ctx, call("normalize_backward", grad_y, *ctx.saved_tensors, *ctx.options, mask), mask)


def _keep_given(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.options = inputs[6:]
    _save(ctx, inputs, inputs[-2], *inputs[4:6])


def _backward_given(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    mask = list(ctx.needs_input_grad[:4])
    return _of_all(ctx, call("normalize_by_backward", grad_y, *ctx.saved_tensors, *ctx.options, mask), mask)


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
        wanted = [place for place in range(5) if ctx.needs_input_grad[place]]  # from grad_y to residual
        mask = inputs[-1]

        def computed(values: Sequence[Tensor]) -> tuple[Tensor, ...]:
            return tuple(value.to(gradient.dtype) for value, gradient, is_computed
                         in zip(values, gradients, mask, strict=True) if is_computed)

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
