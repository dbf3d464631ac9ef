# SPDX-License-Identifier: MIT
"""axisnorm for PyTorch: functions and modules in place of PyTorch's own, for tensors on the CPU.

``replace(model)`` lets a whole model's normalization modules compute on axisnorm, ``restore(model)`` undoes
it. The functions have the signatures of torch.nn.functional's. What the library does not take (another
device, a type that it does not know, a tensor without elements) PyTorch computes itself. See docs/python.md.
"""

from ._functions import batch_norm, group_norm, instance_norm, layer_norm, rms_norm
from ._modules import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    GroupNorm,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
    LayerNorm,
    RMSNorm,
)
from ._replace import Report, replace, report, restore

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "RMSNorm",
    "Report",
    "batch_norm",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "replace",
    "report",
    "restore",
    "rms_norm",
]
