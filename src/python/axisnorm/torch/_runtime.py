# SPDX-License-Identifier: MIT
"""Plans for tensors: which types the library knows, and whose threads it runs on."""

from __future__ import annotations

import ctypes
import math
from pathlib import Path

import torch

from .. import _core
from .._norms import plan_of

# axn_dtype, and the type of parameters and statistics that goes with it.
_CANDIDATES = {torch.float32: (1, torch.float32), torch.float64: (2, torch.float64),
               torch.bfloat16: (3, torch.float32), torch.float16: (4, torch.float32)}


ROWS = ("layer", "rms")  # normalized over the last axes, with parameters per element of these


def _is_known(dtype: int) -> bool:
    try:
        plan_of("layer", dtype, (2, 2), False, False, 1, 1, False, 1e-5, 0.1, True, 1, False)
    except _core.ArgumentError:
        return False
    return True


ELEMENTS = {dtype: element for dtype, element in _CANDIDATES.items() if _is_known(element[0])}


def _use_threads_of_torch() -> bool:
    """Hands the library the OpenMP that PyTorch's own kernels are bound to: one pool of threads for both.

    Wheels of PyTorch bring a copy of the runtime. Where it has the name of the system's, the loader keeps only
    one of the two; where it has a name of its own, as in older wheels, there are two. PyTorch's library is
    asked for the symbols, so what is found is what it uses, whatever it is called. False where it has none.
    """
    names = ("GOMP_parallel", "omp_get_num_threads", "omp_get_thread_num")
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        functions = [getattr(library, name) for name in names]
    except (OSError, AttributeError):
        return False
    _core.use_openmp(*(ctypes.cast(function, ctypes.c_void_p).value or 0 for function in functions))
    return True


HOSTED = _use_threads_of_torch()


def plan_for(
    norm: str, x: torch.Tensor, memory_last: bool, groups: int = 1, axis: int = 1, epsilon: float = 1e-5,
    momentum: float = 0.1,
) -> _core.Plan:
    """A plan for a tensor that lies densely, on as many threads as PyTorch has."""
    shape = tuple(x.shape)
    per_element = norm in ROWS
    if per_element:  # rows and columns: of any rank
        columns = math.prod(shape[axis:])
        shape, axis = (x.numel() // columns, columns), 1
    return plan_of(norm, ELEMENTS[x.dtype][0], shape, False, memory_last, groups, axis, per_element, epsilon,
                   momentum, True, torch.get_num_threads(), HOSTED)
