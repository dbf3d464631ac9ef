# SPDX-License-Identifier: MIT
"""torch.nn's normalization modules, on the functions beside this file.

They are subclasses that add no state: parameters, buffers and state_dict are PyTorch's. Constructors take an
activation as well, and forward a residual, for the same pass.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ._calls import may_overwrite_latest
from ._functions import Activation, batch_norm, check_activation, group_norm, instance_norm, layer_norm, rms_norm


class Normalization(nn.Module):
    """What the modules have in common.

    Args:
        activation: applied last: "relu", "leaky-relu", "silu", "gelu" or "gelu-tanh".
        negative_slope: of "leaky-relu", else ignored.

    forward(input, residual=None, ..., inplace=False): the residual, like input, is added before the activation. An
    activation and a slope after these take the place of the module's. inplace is that of `batch_norm`.
    """

    activation: Activation | None = None
    negative_slope: float = 0.01
    _source: nn.Module | None = None  # which returns the input, and nothing else needs that: `replace` says so

    def __init__(
        self, *arguments: Any, activation: Activation | None = None, negative_slope: float = 0.01,
        **keywords: Any,
    ) -> None:
        super().__init__(*arguments, **keywords)
        if activation is not None:
            check_activation(activation)
            self.activation, self.negative_slope = activation, negative_slope

    def extra_repr(self) -> str:
        last = "" if self.activation is None else f", activation={self.activation!r}"
        return super().extra_repr() + last


def _held(module: nn.Module, members: dict[str, Any], name: str) -> Any:
    """module.name, first as nn.Module looks for it last: its way to a parameter or buffer is a search for an
    attribute that fails, which takes most of a microsecond. Pruned and parametrized ones are no members."""
    return members[name] if name in members else getattr(module, name)


class _BatchNorm(Normalization, nn.modules.batchnorm._BatchNorm):
    def forward(
        self, input: Tensor, residual: Tensor | None = None, activation: Activation | None = None,
        negative_slope: float = 0.0, inplace: bool = False,
    ) -> Tensor:
        if activation is None:
            activation, negative_slope = self.activation, self.negative_slope
        if self._source is not None:
            inplace = inplace or may_overwrite_latest(self, self._source, input)
        self._check_input_dim(input)
        parameters, buffers = self._parameters, self._buffers
        momentum = 0.0 if self.momentum is None else self.momentum
        mean, variance = _held(self, buffers, "running_mean"), _held(self, buffers, "running_var")
        from_input = self.training or (mean is None and variance is None)
        if self.training and not self.track_running_stats:
            mean = variance = None
        elif self.training:
            batches = _held(self, buffers, "num_batches_tracked")
            if batches is not None:
                batches.add_(1)
                if self.momentum is None:  # the plain average of all batches
                    momentum = 1.0 / float(batches)
        return batch_norm(
            input, mean, variance, _held(self, parameters, "weight"), _held(self, parameters, "bias"), from_input,
            momentum, self.eps, residual=residual, activation=activation, negative_slope=negative_slope,
            inplace=inplace)


class BatchNorm1d(_BatchNorm, nn.BatchNorm1d):
    """torch.nn.BatchNorm1d on axisnorm: [N, C] or [N, C, L]."""


class BatchNorm2d(_BatchNorm, nn.BatchNorm2d):
    """torch.nn.BatchNorm2d on axisnorm: [N, C, H, W]."""


class BatchNorm3d(_BatchNorm, nn.BatchNorm3d):
    """torch.nn.BatchNorm3d on axisnorm: [N, C, D, H, W]."""


class _InstanceNorm(Normalization, nn.modules.instancenorm._InstanceNorm):
    def forward(
        self, input: Tensor, residual: Tensor | None = None, activation: Activation | None = None,
        negative_slope: float = 0.0, inplace: bool = False,
    ) -> Tensor:
        if activation is None:
            activation, negative_slope = self.activation, self.negative_slope
        if self._source is not None:
            inplace = inplace or may_overwrite_latest(self, self._source, input)
        self._check_input_dim(input)
        batched = input.dim() != self._get_no_batch_dim()
        self._check_features(input)
        if not batched:
            input = input.unsqueeze(0)
            residual = None if residual is None else residual.unsqueeze(0)
        parameters, buffers = self._parameters, self._buffers
        y = instance_norm(
            input, _held(self, buffers, "running_mean"), _held(self, buffers, "running_var"),
            _held(self, parameters, "weight"), _held(self, parameters, "bias"),
            self.training or not self.track_running_stats, 0.0 if self.momentum is None else self.momentum,
            self.eps, residual=residual, activation=activation, negative_slope=negative_slope,
            inplace=inplace)
        return y if batched else y.squeeze(0)

    def _check_features(self, input: Tensor) -> None:
        """PyTorch's module has an error or a warning for another number of channels."""
        axis = input.dim() - self._get_no_batch_dim()
        if input.size(axis) != self.num_features:
            nn.modules.instancenorm._InstanceNorm.forward(self, input)


class InstanceNorm1d(_InstanceNorm, nn.InstanceNorm1d):
    """torch.nn.InstanceNorm1d on axisnorm: [N, C, L] or [C, L]."""


class InstanceNorm2d(_InstanceNorm, nn.InstanceNorm2d):
    """torch.nn.InstanceNorm2d on axisnorm: [N, C, H, W] or [C, H, W]."""


class InstanceNorm3d(_InstanceNorm, nn.InstanceNorm3d):
    """torch.nn.InstanceNorm3d on axisnorm: [N, C, D, H, W] or [C, D, H, W]."""


class LayerNorm(Normalization, nn.LayerNorm):
    """torch.nn.LayerNorm on axisnorm: [..., *normalized_shape]."""

    def forward(
        self, input: Tensor, residual: Tensor | None = None, activation: Activation | None = None,
        negative_slope: float = 0.0, inplace: bool = False,
    ) -> Tensor:
        if activation is None:
            activation, negative_slope = self.activation, self.negative_slope
        if self._source is not None:
            inplace = inplace or may_overwrite_latest(self, self._source, input)
        weight, bias = _held(self, self._parameters, "weight"), _held(self, self._parameters, "bias")
        return layer_norm(input, self.normalized_shape, weight, bias, self.eps, residual=residual,
                          activation=activation, negative_slope=negative_slope, inplace=inplace)


class RMSNorm(Normalization, nn.RMSNorm):
    """torch.nn.RMSNorm on axisnorm: [..., *normalized_shape]."""

    def forward(
        self, input: Tensor, residual: Tensor | None = None, activation: Activation | None = None,
        negative_slope: float = 0.0, inplace: bool = False,
    ) -> Tensor:
        if activation is None:
            activation, negative_slope = self.activation, self.negative_slope
        if self._source is not None:
            inplace = inplace or may_overwrite_latest(self, self._source, input)
        weight = _held(self, self._parameters, "weight")
        return rms_norm(input, self.normalized_shape, weight, self.eps, residual=residual, activation=activation,
                        negative_slope=negative_slope, inplace=inplace)


class GroupNorm(Normalization, nn.GroupNorm):
    """torch.nn.GroupNorm on axisnorm: [N, C, spatial...]."""

    def forward(
        self, input: Tensor, residual: Tensor | None = None, activation: Activation | None = None,
        negative_slope: float = 0.0, inplace: bool = False,
    ) -> Tensor:
        if activation is None:
            activation, negative_slope = self.activation, self.negative_slope
        if self._source is not None:
            inplace = inplace or may_overwrite_latest(self, self._source, input)
        weight, bias = _held(self, self._parameters, "weight"), _held(self, self._parameters, "bias")
        return group_norm(input, self.num_groups, weight, bias, self.eps, residual=residual,
                          activation=activation, negative_slope=negative_slope, inplace=inplace)
