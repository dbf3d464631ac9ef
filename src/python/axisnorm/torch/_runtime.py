# SPDX-License-Identifier: MIT
"""What the library is told of PyTorch: its types, its threads, and how to read its tensors."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .. import _core

# The type of statistics that goes with x's; parameters have either. In the order of axn_dtype.
ELEMENTS = {torch.float32: torch.float32, torch.float64: torch.float64, torch.bfloat16: torch.float32,
            torch.float16: torch.float32}

ROWS = ("layer", "rms")  # normalized over the last axes, with parameters per element of these


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


def _empty_strided() -> Callable[[tuple[int, ...], tuple[int, ...], torch.dtype], Tensor]:
    """How tensors are allocated: where it is there, as PyTorch's compiled graphs do, past its dispatcher."""
    guards = getattr(getattr(torch._C, "_dynamo", None), "guards", None)
    return getattr(guards, "_empty_strided_cpu", None) or (
        lambda shape, strides, dtype: torch.empty_strided(shape, strides, dtype=dtype, device="cpu"))


def _use_tensors_of_torch(exchange: Any) -> None:
    """`exchange`: the functions by which tensors are read, or None: by their attributes."""
    # Where one of these has something to say, a call goes through PyTorch's dispatcher: transforms and modes,
    # in the backward pass as well; modes of functions, a tracer, a profiler.
    questions = (
        torch._C._are_functorch_transforms_active, torch._C._len_torch_dispatch_stack,
        torch._C._len_torch_function_stack, torch._C._get_tracing_state, torch._C._autograd._profiler_enabled)
    oddities = (torch._C.TensorBase.is_neg,)
    _core.use_tensors(exchange, (Tensor, torch.nn.Parameter), questions, oddities, forward_ad,
                      torch.is_grad_enabled, torch.get_num_threads, _empty_strided(), tuple(ELEMENTS))


EXCHANGE = getattr(Tensor, "__dlpack_c_exchange_api__", None)
HOSTED = _use_threads_of_torch()
_use_tensors_of_torch(EXCHANGE)
