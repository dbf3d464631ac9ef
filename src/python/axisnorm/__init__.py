# SPDX-License-Identifier: MIT
"""Batch, layer, instance, group, RMS, positional and ghost batch normalization behind one interface.

Each normalization is a function, and its backward pass another::

    y, mean, rstd = axisnorm.group_norm(x, scale, shift, groups=32, return_statistics=True)
    grad_x, grad_scale, grad_shift = axisnorm.group_norm_backward(grad_y, x, mean, rstd, scale, groups=32)

Arrays may be anything on the CPU that speaks the buffer protocol or DLPack; they are read and written where
they lie, and never copied. Results are NumPy arrays, or what ``out=`` gives. See docs/python.md.
"""

from ._command import compare
from ._core import ArgumentError, Error, version as __version__
from ._norms import (
    Array,
    Gradients,
    batch_norm,
    batch_norm_backward,
    ghost_batch_norm,
    ghost_batch_norm_backward,
    group_norm,
    group_norm_backward,
    instance_norm,
    instance_norm_backward,
    layer_norm,
    layer_norm_backward,
    positional_norm,
    positional_norm_backward,
    rms_norm,
    rms_norm_backward,
)

__all__ = [
    "ArgumentError",
    "Array",
    "Error",
    "Gradients",
    "__version__",
    "batch_norm",
    "batch_norm_backward",
    "compare",
    "ghost_batch_norm",
    "ghost_batch_norm_backward",
    "group_norm",
    "group_norm_backward",
    "instance_norm",
    "instance_norm_backward",
    "layer_norm",
    "layer_norm_backward",
    "positional_norm",
    "positional_norm_backward",
    "rms_norm",
    "rms_norm_backward",
]
