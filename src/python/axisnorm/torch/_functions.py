# SPDX-License-Identifier: MIT
"""torch.nn.functional's normalizations, on axisnorm where it takes the tensors, with a residual and an
activation in the same pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.compiler import is_dynamo_compiling
from torch.nn import functional

from .. import _core
from .._core import ArgumentError
from . import _eager
from ._operators import call
from ._runtime import ELEMENTS

Activation = Literal["none", "relu", "leaky-relu", "silu", "gelu", "gelu-tanh"]
_Running = tuple[Tensor | None, Tensor | None]

_ACTIVATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "none": lambda z, slope: z,
    "relu": lambda z, slope: functional.relu(z),
    "leaky-relu": lambda z, slope: functional.leaky_relu(z, slope),
    "silu": lambda z, slope: functional.silu(z),
    "gelu": lambda z, slope: functional.gelu(z),
    "gelu-tanh": lambda z, slope: functional.gelu(z, approximate="tanh"),
}


def check_activation(activation: str) -> None:
    if activation not in _ACTIVATIONS:
        raise ArgumentError(f"activation: {activation!r} is not one of {', '.join(list(_ACTIVATIONS)[1:])}")


def _check(x: Tensor, residual: Tensor | None, activation: str) -> None:
    """What PyTorch's functions do not know, and so cannot refuse."""
    check_activation(activation)
    if residual is not None and residual.shape != x.shape:
        raise ArgumentError(f"residual: shape {list(residual.shape)} where that of input is expected, "
                            f"{list(x.shape)}")


def _takes(x: Tensor, eps: float, shape: Sequence[int], scale: Tensor | None, shift: Tensor | None,
           residual: Tensor | None, running: _Running = (None, None)) -> bool:
    """Whether the operators do: tensors on the CPU, of types that the library knows, with elements. What is
    wrong with the others' shape, PyTorch may say; forward-mode derivatives are its own."""
    if forward_ad._current_level >= 0:
        return False
    if x.device.type != "cpu" or x.layout != torch.strided or x.is_nested or x.dtype not in ELEMENTS:
        return False
    if residual is not None and (residual.device != x.device or residual.dtype != x.dtype):
        return False
    given = [parameter.dtype for parameter in (scale, shift) if parameter is not None]
    statistics = ELEMENTS[x.dtype]
    if given not in ([], [x.dtype], [x.dtype] * 2, [statistics], [statistics] * 2):
        return False
    if any(tensor is not None and tensor.dtype != statistics for tensor in running):
        return False
    return x.numel() > 0 and eps > 0 and all(
        other is None or (other.device == x.device and other.shape == shape)
        for other in (scale, shift, *running))


def _finish(y: Tensor, residual: Tensor | None, activation: str, negative_slope: float) -> Tensor:
    """What goes into the same pass where the library computes."""
    return _ACTIVATIONS[activation](y if residual is None else y + residual, negative_slope)


def _ends_in(x: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether these are the extents of the last axes."""
    return (isinstance(x, Tensor) and not x.is_nested and 0 < len(shape) <= x.dim()
            and x.shape[x.dim() - len(shape):] == shape)


def _track(running: Sequence[Tensor], new: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for tensor, value in zip(running, new, strict=True):
            tensor.copy_(value)


def _as_statistics(x: Tensor, running: _Running) -> _Running:
    """Running statistics of a 16-bit model in the type in which the library has them."""
    dtype = ELEMENTS.get(x.dtype, x.dtype)
    if running[0] is None or dtype == x.dtype or running[0].dtype == dtype:
        return running
    first, second = (tensor.to(dtype) if tensor is not None and tensor.dtype == x.dtype else tensor
                     for tensor in running)
    return first, second


def _by_operators(
    norm: str, x: Tensor, scale: Tensor | None, shift: Tensor | None, residual: Tensor | None,
    running: _Running, from_input: bool, momentum: float, eps: float, activation: str, negative_slope: float,
) -> Tensor:
    """Batch and instance normalization, of tensors that the operators take."""
    tensors, last = (x, scale, shift, residual), (activation, negative_slope)
    y: Tensor
    if not from_input:
        y = call("normalize_by", *tensors, *running, eps, *last)
    elif running[0] is None or running[1] is None:
        y = call("normalize", *tensors, norm, 1, 1, eps, *last)[0]
    else:
        y, _, _, *new = call("normalize_and_track", *tensors, *running, norm, eps, momentum, *last)
        _track((running[0], running[1]), new)
    return y


def _fuses(x: Tensor, *others: Tensor | None) -> bool:
    """Whether a compiler is to have PyTorch's own operator, which it fuses with its neighbours as it does not an
    operator that it cannot look into. Only where no type has to be converted."""
    return is_dynamo_compiling() and all(other is None or other.dtype == x.dtype for other in others)


def _with_running(
    options: _eager.Options, x: Tensor, running: _Running, scale: Tensor | None, shift: Tensor | None,
    from_input: bool, momentum: float, residual: Tensor | None, theirs: Callable[..., Tensor],
    *arguments: object,
) -> Tensor:
    """Batch and instance normalization where the library did not take the tensors as they are; by `theirs` of
    these arguments where axisnorm does not take them at all."""
    norm, _, _, eps, activation, negative_slope = options
    converted, y = _as_statistics(x, running), None
    if not is_dynamo_compiling():
        copied = _eager.densified(x, norm)
        if copied is not x or converted is not running:
            y = _eager.normalize(copied, scale, shift, residual, options, *converted, momentum, not from_input)
    if y is None:
        _check(x, residual, activation)
        known = (running[0] is None) == (running[1] is None) and (from_input or running[0] is not None)
        known = known and 2 + (norm == "instance") <= x.dim() <= 5 and 0 <= momentum <= 1
        known = known and not _fuses(x, scale, shift, *running)
        if not (known and _takes(x, eps, x.shape[1:2], scale, shift, residual, converted)):
            return _finish(theirs(*arguments), residual, activation, negative_slope)
        y = _by_operators(norm, x, scale, shift, residual, converted, from_input, momentum, eps, activation,
                          negative_slope)
    if from_input and converted[0] is not running[0]:
        _track(running, converted)  # type: ignore[arg-type]
    return y


def _without_running(
    options: _eager.Options, fits: bool, x: Tensor, scale: Tensor | None, shift: Tensor | None,
    residual: Tensor | None, shape: Sequence[int], theirs: Callable[..., Tensor], *arguments: object,
) -> Tensor:
    """Layer, RMS and group normalization, likewise."""
    norm, groups, axis, eps, activation, negative_slope = options
    if is_dynamo_compiling():
        fits = fits and not _fuses(x, scale, shift)
    elif fits:
        copied = _eager.densified(x, norm)
        y: Tensor | None = None
        if copied is not x:
            y = _core.normalize(_eager.apply, options, copied, scale, shift, residual, False)
        if y is not None:
            return y
    _check(x, residual, activation)
    if not (fits and _takes(x, eps, shape=shape, scale=scale, shift=shift, residual=residual)):
        return _finish(theirs(*arguments), residual, activation, negative_slope)
    result: Tensor = call("normalize", x, scale, shift, residual, norm, groups, _eager.axis_of(axis, x), eps,
                          activation, negative_slope)[0]
    return result


# These try first, by themselves, what goes straight to the library: within a model, whose other layers have taken
# the caches, each frame of Python costs microseconds.


def batch_norm(
    input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5, *,
    residual: Tensor | None = None, activation: Activation | None = None, negative_slope: float = 0.01,
    inplace: bool = False,
) -> Tensor:
    """As torch.nn.functional.batch_norm: input [N, C, spatial...], all others [C].

    Args:
        residual: as input; added to what is normalized, before the activation.
        activation: applied last, in the same pass.
        negative_slope: of "leaky-relu", else ignored.
        inplace: the result may take the place of input, which saves memory and time. It does so where no gradient
            is recorded, since backward needs input as it was, and axisnorm computes. Use what is returned.
    """
    options = "batch", 1, 1, eps, activation or "none", negative_slope
    if not is_dynamo_compiling():
        y = _eager.normalize(input, weight, bias, residual, options, running_mean, running_var, momentum,
                             not training, inplace)
        if y is not None:
            return y
    return _with_running(
        options, input, (running_mean, running_var), weight, bias, training, momentum, residual,
        functional.batch_norm, input, running_mean, running_var, weight, bias, training, momentum, eps)


def instance_norm(
    input: Tensor, running_mean: Tensor | None = None, running_var: Tensor | None = None,
    weight: Tensor | None = None, bias: Tensor | None = None, use_input_stats: bool = True,
    momentum: float = 0.1, eps: float = 1e-5, *, residual: Tensor | None = None,
    activation: Activation | None = None, negative_slope: float = 0.01,
    inplace: bool = False,
) -> Tensor:
    """As torch.nn.functional.instance_norm: input [N, C, spatial...], all others [C].

    residual, activation, negative_slope and inplace are those of `batch_norm`.
    """
    options = "instance", 1, 1, eps, activation or "none", negative_slope
    if not is_dynamo_compiling():
        y = _eager.normalize(input, weight, bias, residual, options, running_mean, running_var, momentum,
                             not use_input_stats, inplace)
        if y is not None:
            return y
    return _with_running(
        options, input, (running_mean, running_var), weight, bias, use_input_stats, momentum, residual,
        functional.instance_norm, input, running_mean, running_var, weight, bias, use_input_stats, momentum,
        eps)


def layer_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5, *, residual: Tensor | None = None, activation: Activation | None = None,
    negative_slope: float = 0.01, inplace: bool = False,
) -> Tensor:
    """As torch.nn.functional.layer_norm: input [..., *normalized_shape], weight and bias normalized_shape.

    residual, activation, negative_slope and inplace are those of `batch_norm`.
    """
    shape = tuple(normalized_shape)
    options = "layer", 1, shape, eps, activation or "none", negative_slope
    if not is_dynamo_compiling():
        y: Tensor | None = _core.normalize(_eager.apply, options, input, weight, bias, residual, inplace)
        if y is not None:
            return y if y is not input else _eager.overwritten(y)
    return _without_running(options, _ends_in(input, shape), input, weight, bias, residual, shape,
                            functional.layer_norm, input, shape, weight, bias, eps)


def rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None, *,
    residual: Tensor | None = None, activation: Activation | None = None, negative_slope: float = 0.01,
    inplace: bool = False,
) -> Tensor:
    """As torch.nn.functional.rms_norm: input [..., *normalized_shape], weight normalized_shape.

    residual, activation, negative_slope and inplace are those of `batch_norm`.
    """
    shape = tuple(normalized_shape)
    epsilon = eps
    if epsilon is None:  # PyTorch takes that of the type in which it computes
        dtype = ELEMENTS.get(getattr(input, "dtype", None))  # of what is no tensor PyTorch will say so
        epsilon = torch.finfo(dtype).eps if dtype is not None else 0.0
    options = "rms", 1, shape, epsilon, activation or "none", negative_slope
    if not is_dynamo_compiling():
        y: Tensor | None = _core.normalize(_eager.apply, options, input, weight, None, residual, inplace)
        if y is not None:
            return y if y is not input else _eager.overwritten(y)
    return _without_running(options, _ends_in(input, shape), input, weight, None, residual, shape,
                            functional.rms_norm, input, shape, weight, eps)


def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5, *, residual: Tensor | None = None, activation: Activation | None = None,
    negative_slope: float = 0.01, inplace: bool = False,
) -> Tensor:
    """As torch.nn.functional.group_norm: input [N, C, spatial...], weight and bias [C].

    residual, activation, negative_slope and inplace are those of `batch_norm`.
    """
    options = "group", num_groups, 1, eps, activation or "none", negative_slope
    if not is_dynamo_compiling():
        y: Tensor | None = _core.normalize(_eager.apply, options, input, weight, bias, residual, inplace)
        if y is not None:
            return y if y is not input else _eager.overwritten(y)
    fits = 2 <= input.dim() <= 5 and num_groups > 0 and input.shape[1] % num_groups == 0
    return _without_running(options, fits, input, weight, bias, residual, input.shape[1:2],
                            functional.group_norm, input, num_groups, weight, bias, eps)
