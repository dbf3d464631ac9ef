# SPDX-License-Identifier: MIT
"""torch.nn.functional's normalizations, on axisnorm's operators where these take the tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional

from ._operators import call
from ._runtime import ELEMENTS


def _takes(x: Tensor, eps: float, shape: Sequence[int], *others: Tensor | None) -> bool:
    """Whether the operators do: tensors on the CPU, of types that the library knows, with elements. What is
    wrong with the others' shape, PyTorch may say; forward-mode derivatives are its own."""
    if forward_ad._current_level >= 0:
        return False
    if x.device.type != "cpu" or x.layout != torch.strided or x.is_nested or x.dtype not in ELEMENTS:
        return False
    parameter = ELEMENTS[x.dtype][1]
    return x.numel() > 0 and eps > 0 and all(
        other is None or (other.device == x.device and other.dtype == parameter and other.shape == shape)
        for other in others)


def _ends_in(x: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether these are the extents of the last axes."""
    return 0 < len(shape) <= x.dim() and x.shape[x.dim() - len(shape):] == shape


def _track(running: Sequence[Tensor], new: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for tensor, value in zip(running, new, strict=True):
            tensor.copy_(value)


def _with_running(
    norm: str, input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None,
    bias: Tensor | None, from_input: bool, momentum: float, eps: float,
) -> Tensor:
    """Batch and instance normalization, of tensors that the operators take."""
    y: Tensor
    if not from_input:
        y = call("normalize_by", input, weight, bias, running_mean, running_var, eps)
    elif running_mean is None or running_var is None:
        y = call("normalize", input, weight, bias, norm, 1, 1, eps)[0]
    else:
        y, _, _, *new = call(
            "normalize_and_track", input, weight, bias, running_mean, running_var, norm, eps, momentum)
        _track((running_mean, running_var), new)
    return y


def batch_norm(
    input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:
    """As torch.nn.functional.batch_norm."""
    fits = (running_mean is None) == (running_var is None) and (training or running_mean is not None)
    fits = fits and 2 <= input.dim() <= 5 and 0 <= momentum <= 1
    if not (fits and _takes(input, eps, input.shape[1:2], running_mean, running_var, weight, bias)):
        return functional.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    return _with_running("batch", input, running_mean, running_var, weight, bias, training, momentum, eps)


def instance_norm(
    input: Tensor, running_mean: Tensor | None = None, running_var: Tensor | None = None,
    weight: Tensor | None = None, bias: Tensor | None = None, use_input_stats: bool = True,
    momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:
    """As torch.nn.functional.instance_norm."""
    fits = (running_mean is None) == (running_var is None) and (use_input_stats or running_mean is not None)
    fits = fits and 3 <= input.dim() <= 5 and 0 <= momentum <= 1
    if not (fits and _takes(input, eps, input.shape[1:2], running_mean, running_var, weight, bias)):
        return functional.instance_norm(
            input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)
    return _with_running("instance", input, running_mean, running_var, weight, bias, use_input_stats, momentum,
                         eps)


def layer_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """As torch.nn.functional.layer_norm."""
    shape = tuple(normalized_shape)
    if not (_ends_in(input, shape) and _takes(input, eps, shape, weight, bias)):
        return functional.layer_norm(input, list(shape), weight, bias, eps)
    y: Tensor = call("normalize", input, weight, bias, "layer", 1, input.dim() - len(shape), eps)[0]
    return y


def rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None,
) -> Tensor:
    """As torch.nn.functional.rms_norm."""
    shape = tuple(normalized_shape)
    fits = _ends_in(input, shape) and input.dtype in ELEMENTS
    epsilon = eps
    if fits and eps is None:  # PyTorch takes that of the type in which it computes
        epsilon = torch.finfo(ELEMENTS[input.dtype][1]).eps
    if not (fits and epsilon is not None and _takes(input, epsilon, shape, weight)):
        return functional.rms_norm(input, list(shape), weight, eps)
    y: Tensor = call("normalize", input, weight, None, "rms", 1, input.dim() - len(shape), epsilon)[0]
    return y


def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """As torch.nn.functional.group_norm."""
    fits = 2 <= input.dim() <= 5 and num_groups > 0 and input.shape[1] % num_groups == 0
    if not (fits and _takes(input, eps, input.shape[1:2], weight, bias)):
        return functional.group_norm(input, num_groups, weight, bias, eps)
    y: Tensor = call("normalize", input, weight, bias, "group", num_groups, 1, eps)[0]
    return y
