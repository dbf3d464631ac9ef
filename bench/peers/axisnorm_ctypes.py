# SPDX-License-Identifier: MIT
"""axisnorm's interface for ctypes: the structs of axisnorm.h, field by field, and its functions."""

from __future__ import annotations

import ctypes
from ctypes import (
    POINTER,
    Structure,
    c_char,
    c_char_p,
    c_double,
    c_int,
    c_int64,
    c_size_t,
    c_uint32,
    c_void_p,
)

MAX_RANK = 8
NORMS = {"batch": 1, "layer": 2, "instance": 3, "group": 4}
LAYOUTS = {"nchw": 1, "nhwc": 2}
PARAMETERS_PER_CHANNEL, PARAMETERS_PER_ELEMENT = 1, 2
DTYPES = {"f32": 1, "bf16": 3, "f16": 4}
ACTIVATIONS = ("none", "relu", "leaky-relu", "silu", "gelu", "gelu-tanh")  # 0, 1, …
RUNNING_VARIANCE_UNBIASED = 1


class _Sized(Structure):
    """A struct that begins with its own size, all else zero: as the axn_..._init functions do."""

    def __init__(self, **fields: object) -> None:
        super().__init__(struct_size=ctypes.sizeof(type(self)), **fields)


class Error(Structure):
    _fields_ = [("status", c_int), ("message", c_char * 240)]


class Desc(_Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("norm", c_int),
        ("dtype", c_int),
        ("layout", c_int),
        ("rank", c_int),
        ("shape", c_int64 * MAX_RANK),
        ("groups", c_int64),
        ("axis", c_int),
        ("parameters", c_int),
        ("epsilon", c_double),
        ("momentum", c_double),
        ("running_variance", c_int),
        ("isa", c_int),
        ("threads", c_int),
        ("parallel_for", c_void_p),
        ("parallel_context", c_void_p),
        ("ghost_batch", c_int64),
        ("strategy", c_void_p),
        ("parameter_dtype", c_int),
        ("activation", c_int),
        ("negative_slope", c_double),
        ("x_strides", c_int64 * MAX_RANK),
        ("y_strides", c_int64 * MAX_RANK),
        ("cold_outputs", c_int),
    ]


class PlanInfo(_Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("elements", c_int64),
        ("statistics", c_int64),
        ("values_per_statistic", c_int64),
        ("parameters", c_int64),
        ("running_statistics", c_int64),
        ("values_per_task", c_int64),
        ("reduced_axes", c_uint32),
        ("split_axis", c_int),
        ("split_groups", c_int64),
        ("isa", c_int),
        ("threads", c_int),
        ("training_workspace", c_size_t),
        ("inference_workspace", c_size_t),
        ("backward_workspace", c_size_t),
        ("x_span", c_int64),
        ("y_span", c_int64),
    ]


class TrainingArgs(_Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("x", c_void_p),
        ("y", c_void_p),
        ("scale", c_void_p),
        ("shift", c_void_p),
        ("mean", c_void_p),
        ("rstd", c_void_p),
        ("running_mean", c_void_p),
        ("running_variance", c_void_p),
        ("batch_count", c_void_p),
        ("workspace", c_void_p),
        ("workspace_size", c_size_t),
        ("threads", c_int),
        ("residual", c_void_p),
    ]


class InferenceArgs(_Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("x", c_void_p),
        ("y", c_void_p),
        ("scale", c_void_p),
        ("shift", c_void_p),
        ("running_mean", c_void_p),
        ("running_variance", c_void_p),
        ("workspace", c_void_p),
        ("workspace_size", c_size_t),
        ("threads", c_int),
        ("residual", c_void_p),
    ]


class BackwardArgs(_Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("x", c_void_p),
        ("grad_y", c_void_p),
        ("scale", c_void_p),
        ("mean", c_void_p),
        ("rstd", c_void_p),
        ("running_mean", c_void_p),
        ("running_variance", c_void_p),
        ("grad_x", c_void_p),
        ("grad_scale", c_void_p),
        ("grad_shift", c_void_p),
        ("workspace", c_void_p),
        ("workspace_size", c_size_t),
        ("threads", c_int),
        ("shift", c_void_p),
        ("residual", c_void_p),
        ("grad_residual", c_void_p),
    ]


RUNS = {
    "axn_forward_training": TrainingArgs,
    "axn_forward_inference": InferenceArgs,
    "axn_backward": BackwardArgs,
}


class Library:
    """The shared library with the types of its functions declared."""

    def __init__(self, path: str) -> None:
        self.functions = ctypes.CDLL(path)
        self._declare("axn_version", c_char_p)
        self._declare("axn_isa_name", c_char_p, c_int)
        self._declare("axn_plan_create", c_int, POINTER(c_void_p), POINTER(Desc), POINTER(Error))
        self._declare("axn_plan_destroy", None, c_void_p)
        self._declare("axn_plan_describe", c_int, c_void_p, POINTER(PlanInfo), POINTER(Error))
        for name, struct in RUNS.items():
            self._declare(name, c_int, c_void_p, POINTER(struct), POINTER(Error))

    def _declare(self, name: str, result: object, *arguments: object) -> None:
        function = getattr(self.functions, name)
        function.restype, function.argtypes = result, arguments

    def version(self) -> str:
        return self.functions.axn_version().decode()

    def isa_name(self, isa: int) -> str:
        return self.functions.axn_isa_name(isa).decode()


def checked(status: int, error: Error) -> None:
    if status != 0:
        raise RuntimeError(f"axisnorm: {error.message.decode()}")


class Plan:
    """A plan, what it says of itself, and its end."""

    def __init__(self, library: Library, desc: Desc) -> None:
        self.functions = library.functions
        self.handle = c_void_p()
        self.info = PlanInfo()
        error = Error()
        create, describe = self.functions.axn_plan_create, self.functions.axn_plan_describe
        checked(create(ctypes.byref(self.handle), ctypes.byref(desc), error), error)
        checked(describe(self.handle, ctypes.byref(self.info), error), error)

    def __del__(self) -> None:
        self.functions.axn_plan_destroy(self.handle)
