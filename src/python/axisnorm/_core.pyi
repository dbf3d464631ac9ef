# SPDX-License-Identifier: MIT
from collections.abc import Callable
from typing import Any

version: str

class Error(Exception): ...
class ArgumentError(Error, ValueError): ...

_Allocation = tuple[str, tuple[int, ...], tuple[int, ...] | None]

def use_openmp(parallel: int, num_threads: int, thread_num: int, /) -> None: ...
def inspect(
    array: Any, name: str, written_last: bool, memory_last: bool = ..., /,
) -> tuple[int, tuple[int, ...], bool, tuple[int, ...] | None]: ...

def xla_handlers() -> dict[str, Any]: ...  # capsules

class Plan:
    data: _Allocation
    x_view: tuple[str, tuple[int, ...], tuple[int, ...]] | None
    y_view: tuple[str, tuple[int, ...], tuple[int, ...]] | None
    parameters: _Allocation
    statistics: _Allocation
    workspaces: tuple[int, int, int]  # bytes: training, inference, backward
    def __new__(
        cls, norm: str, dtype: int, shape: tuple[int, ...], written_last: bool, memory_last: bool,
        groups: int, axis: int, per_element: bool, epsilon: float, momentum: float, unbiased: bool,
        threads: int, hosted: bool, ghost_batch: int = ..., activation: str = ...,
        negative_slope: float = ..., x_strides: tuple[int, ...] | None = ...,
        y_strides: tuple[int, ...] | None = ..., /,
    ) -> Plan: ...
    def training(
        self, x: Any, y: Any, scale: Any, shift: Any, mean: Any, rstd: Any, running_mean: Any,
        running_variance: Any, batch_count: Any, residual: Any, /,
    ) -> None: ...
    def inference(
        self, x: Any, y: Any, scale: Any, shift: Any, running_mean: Any, running_variance: Any,
        residual: Any, /,
    ) -> None: ...
    def backward(
        self, x: Any, grad_y: Any, scale: Any, mean: Any, rstd: Any, running_mean: Any, running_variance: Any,
        grad_x: Any, grad_scale: Any, grad_shift: Any, shift: Any, residual: Any, grad_residual: Any, /,
    ) -> None: ...
    # The same for tensors of PyTorch, which are read without copies or capsules. Where the plan is of layer or
    # RMS normalization they may have any axes.
    def training_of_tensors(self, *tensors: Any) -> None: ...
    def inference_of_tensors(self, *tensors: Any) -> None: ...
    def backward_of_tensors(self, *tensors: Any) -> None: ...

# What the following need to know of PyTorch: how to read tensors (a capsule of DLPack's exchange functions, or
# None: by attributes); the types of plain tensors; functions whose true answer means that a call is not eager,
# the first two of them in the backward pass as well; the same of a tensor; the module of forward derivatives;
# is_grad_enabled; get_num_threads; an allocation by shape, strides and dtype; the dtypes in the order of axn_dtype.
def use_tensors(
    exchange: Any, types: tuple[type, ...], questions: tuple[Callable[[], Any], ...],
    oddities: tuple[Callable[[Any], Any], ...], forward_ad: Any, has_gradients: Callable[[], bool],
    threads: Callable[[], int], empty_strided: Callable[[tuple[int, ...], tuple[int, ...], Any], Any],
    dtypes: tuple[Any, ...], /,
) -> None: ...
# y, or None where the call is not eager or the tensors are none that the library takes. Where one wants a
# gradient, `apply`, of the autograd.Function with the methods below, is called with those of x, scale, shift and
# residual that are no None; options are norm, groups, axis (or the extents of the last axes), epsilon, activation
# and negative_slope. Where none does, and `inplace` says so, y is x, overwritten. What is optional here comes all
# together.
def normalize(
    apply: Callable[..., Any], options: tuple[str, int, int | tuple[int, ...], float, str, float], x: Any,
    scale: Any, shift: Any, residual: Any, inplace: bool, running_mean: Any = ...,
    running_variance: Any = ..., momentum: float = ..., given: bool = ..., /,
) -> Any: ...
# forward of the autograd.Function, and a method `apply` for the type of its nodes, which is backward where the
# call is eager; elsewhere it calls the Function's backward. What forward has to hand on is in `kept` of the context:
# plan, options, given, the statistics that are not given, as bytes, and whether gradients by x, scale, shift and
# residual are wanted, or None where there is no such input.
def record(context: Any, /, *tensors: Any) -> Any: ...
def node_apply(node: type, /) -> Any: ...
# A plan from a cache; None where tensors do not fit together, an error where the library refuses them.
def plan_for_tensors(
    norm: str, x: Any, scale: Any, shift: Any, residual: Any, running_mean: Any, running_variance: Any,
    groups: int, axis: int, epsilon: float, momentum: float, activation: str, negative_slope: float, /,
) -> Plan | None: ...
