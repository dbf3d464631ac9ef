# SPDX-License-Identifier: MIT
"""torch.nn's normalization modules, on the functions beside this file.

They are subclasses that add no state: constructors, parameters, buffers and state_dict are PyTorch's.
"""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor, nn

from ._functions import batch_norm, group_norm, instance_norm, layer_norm, rms_norm


class _BatchNorm(nn.modules.batchnorm._BatchNorm):
    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        momentum = 0.0 if self.momentum is None else self.momentum
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:  # the plain average of all batches
                momentum = 1.0 / float(self.num_batches_tracked)
        from_input = self.training or (self.running_mean is None and self.running_var is None)
        running = not self.training or self.track_running_stats
        return batch_norm(
            input, self.running_mean if running else None, self.running_var if running else None, self.weight,
            self.bias, from_input, momentum, self.eps)


class BatchNorm1d(_BatchNorm, nn.BatchNorm1d):
    """torch.nn.BatchNorm1d on axisnorm."""


class BatchNorm2d(_BatchNorm, nn.BatchNorm2d):
    """torch.nn.BatchNorm2d on axisnorm."""


class BatchNorm3d(_BatchNorm, nn.BatchNorm3d):
    """torch.nn.BatchNorm3d on axisnorm."""


class _InstanceNorm(nn.modules.instancenorm._InstanceNorm):
    def _apply_instance_norm(self, input: Tensor) -> Tensor:
        return instance_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias,
            self.training or not self.track_running_stats, 0.0 if self.momentum is None else self.momentum,
            self.eps)


class InstanceNorm1d(_InstanceNorm, nn.InstanceNorm1d):
    """torch.nn.InstanceNorm1d on axisnorm."""


class InstanceNorm2d(_InstanceNorm, nn.InstanceNorm2d):
    """torch.nn.InstanceNorm2d on axisnorm."""


class InstanceNorm3d(_InstanceNorm, nn.InstanceNorm3d):
    """torch.nn.InstanceNorm3d on axisnorm."""


class LayerNorm(nn.LayerNorm):
    """torch.nn.LayerNorm on axisnorm."""

    def forward(self, input: Tensor) -> Tensor:
        return layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)


class RMSNorm(nn.RMSNorm):
    """torch.nn.RMSNorm on axisnorm."""

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.normalized_shape, self.weight, self.eps)


class GroupNorm(nn.GroupNorm):
    """torch.nn.GroupNorm on axisnorm."""

    def forward(self, input: Tensor) -> Tensor:
        return group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


Model = TypeVar("Model", bound=nn.Module)

_OURS: dict[type[nn.Module], type[nn.Module]] = {
    getattr(nn, module.__name__): module
    for module in (BatchNorm1d, BatchNorm2d, BatchNorm3d, InstanceNorm1d, InstanceNorm2d, InstanceNorm3d,
                   LayerNorm, RMSNorm, GroupNorm)
}
_THEIRS = {ours: theirs for theirs, ours in _OURS.items()}


def _exchange(model: nn.Module, classes: dict[type[nn.Module], type[nn.Module]]) -> None:
    for module in model.modules():
        if type(module) in classes:
            module.__class__ = classes[type(module)]


def replace(model: Model) -> Model:
    """Lets the normalization modules of a model, in place, compute on axisnorm; returns the model.

    Only their class changes: parameters, buffers, hooks, and what an optimizer holds of them stay. Modules of
    other classes, also subclasses of PyTorch's, are left alone.
    """
    _exchange(model, _OURS)
    return model


def restore(model: Model) -> Model:
    """Undoes `replace`."""
    _exchange(model, _THEIRS)
    return model
