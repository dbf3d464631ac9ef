# SPDX-License-Identifier: MIT
"""axisnorm for JAX: the normalizations as functions to be traced, with derivatives.

On CPUs they are custom calls of the library, on XLA's own threads; on other devices the same formulas in
JAX's operators. They have the arguments of the functions in `axisnorm`, and change nothing in place. See
docs/python.md.
"""

from ._functions import (
    batch_norm,
    ghost_batch_norm,
    group_norm,
    instance_norm,
    layer_norm,
    positional_norm,
    rms_norm,
)

__all__ = [
    "batch_norm",
    "ghost_batch_norm",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "positional_norm",
    "rms_norm",
]
