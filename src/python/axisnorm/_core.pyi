# SPDX-License-Identifier: MIT
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
    # The same on addresses in place of arrays, which nothing checks.
    def training_at(self, *addresses: int | None) -> None: ...
    def inference_at(self, *addresses: int | None) -> None: ...
    def backward_at(self, *addresses: int | None) -> None: ...
