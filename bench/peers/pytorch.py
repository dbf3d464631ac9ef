# SPDX-License-Identifier: MIT
"""Passes of a layer through PyTorch on the CPU."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from layers import DTYPES, EPSILON, Inputs, Layer, Way, empty
from pytorch_ending import Ending

aten = torch.ops.aten
Results = tuple[torch.Tensor, ...]


def start(threads: int) -> None:
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)


def versions() -> dict[str, str]:
    found = re.search(r"MKL-DNN v(\S+)", torch.__config__.show())
    inside = f" (with oneDNN {found[1]} inside)" if found else ""
    return {"PyTorch": torch.__version__ + inside}


def tensor_of(array: np.ndarray) -> torch.Tensor:
    """The same memory. PyTorch knows no NumPy array of bfloat16."""
    if array.dtype == DTYPES["bf16"]:
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


class PyTorch:
    """The tensors of one layer. Channels last is PyTorch's memory format of that name: the same
    memory as the NumPy arrays', seen in the order N, C, space."""

    def __init__(self, layer: Layer, inputs: Inputs, compiles: bool) -> None:
        self.layer, self.compiles = layer, compiles
        self.x, self.grad_y = self._seen(inputs.x), self._seen(inputs.grad_y)
        self.scale = torch.from_numpy(inputs.scale)
        self.shift = torch.from_numpy(inputs.shift)
        self.running = (
            torch.from_numpy(inputs.running_mean),
            torch.from_numpy(inputs.running_variance),
        )
        residual = None if inputs.residual is None else self._seen(inputs.residual)
        self.ending = Ending(layer.form, residual)

    def _seen(self, array: np.ndarray) -> torch.Tensor:
        tensor = tensor_of(array)
        return tensor.movedim(-1, 1) if self.layer.form.layout == "nhwc" else tensor

    def _stored(self, tensor: torch.Tensor) -> np.ndarray:
        stored = tensor.movedim(1, -1) if self.layer.form.layout == "nhwc" else tensor
        return stored.detach().float().numpy()

    def ways(self, pass_name: str) -> list[Way]:
        if self.compiles:
            torch.compiler.reset()  # it compiles one function for a few shapes only
        backward = pass_name == "backward"
        if self.layer.norm == "batch":
            return self._batch_backward() if backward else self._batch(pass_name)
        if self.layer.per_element:
            return self._layer_backward() if backward else self._layer(pass_name)
        ways = self._group_backward() if backward else self._group(pass_name)
        if self.layer.norm == "instance" and not (backward and self._autograd_errs()):
            ways += self._instance_backward() if backward else self._instance(pass_name)
        return ways

    def _autograd_errs(self) -> bool:
        """PyTorch 2.13's gradients of instance_norm are wrong for one sample whose gradient is in
        channels last: it takes the gradient's memory for channels first. (A wrong way would end
        the comparison.)"""
        return self.layer.form.layout == "nhwc" and self.layer.shape[0] == 1

    def _ways(
        self, name: str, run: Callable[[], Any], named: Callable[[Any], dict[str, np.ndarray]]
    ) -> list[Way]:
        """The operators one by one, and compiled into one where that is wanted."""
        return [self._way(name, run, named), *self._compiled(name, run, named)]

    def _way(
        self, name: str, run: Callable[[], Any], named: Callable[[Any], dict[str, np.ndarray]]
    ) -> Way:
        return Way("PyTorch", name, run, lambda: named(run()))

    def _compiled(
        self, name: str, run: Callable[[], Any], named: Callable[[Any], dict[str, np.ndarray]]
    ) -> list[Way]:
        if not self.compiles:
            return []
        compiled = torch.compile(run, dynamic=False, fullgraph=True)
        return [self._way(f"torch.compile: {name}", compiled, named)]

    def _result(self, y: torch.Tensor) -> dict[str, np.ndarray]:
        return {"y": self._stored(y)}

    def _forward(
        self, name: str, pass_name: str, normalize: Callable[[], torch.Tensor]
    ) -> list[Way]:
        training = pass_name == "forward-training"
        return self._ways(*self.ending.forward(name, normalize, training), self._result)

    def _named(self, gradients: tuple[torch.Tensor, Results]) -> dict[str, np.ndarray]:
        grad_normalized, (grad_x, grad_scale, grad_shift) = gradients
        return {
            "grad_x": self._stored(grad_x),
            "grad_scale": grad_scale.numpy(),
            "grad_shift": grad_shift.numpy(),
            "grad_residual": self._stored(grad_normalized),
        }

    def _from_grad_y(
        self, name: str, normalized: torch.Tensor, operator: Callable[[torch.Tensor], Results]
    ) -> tuple[str, Callable[[], tuple[torch.Tensor, Results]]]:
        """Names and a call, of what the forward pass gave, which may be overwritten, and of the
        normalization's own gradients from that of its result."""
        names, gradient = self.ending.backward(name, normalized)

        def run() -> tuple[torch.Tensor, Results]:
            grad_normalized = gradient(self.grad_y)
            return grad_normalized, operator(grad_normalized)

        return names, run

    def _gradients(
        self, name: str, normalized: torch.Tensor, operator: Callable[[torch.Tensor], Results]
    ) -> list[Way]:
        return self._ways(*self._from_grad_y(name, normalized, operator), self._named)

    def _batch(self, pass_name: str) -> list[Way]:
        """The one operator whose .out overload writes into its outputs itself; torch.compile does
        not take that in channels last."""
        training = pass_name == "forward-training"
        running = (None, None) if training else self.running
        y = self._seen(empty(self.layer.stored_shape, self.layer.form.dtype))
        channels = self.layer.shape[1] if training else 0
        saved = {name: torch.empty(channels) for name in ("save_mean", "save_invstd")}
        operator = aten.native_batch_norm.out
        arguments = (self.x, self.scale, self.shift, *running, training, 0.1, EPSILON)
        preallocated = self.ending.forward(
            "native_batch_norm.out", lambda: operator(*arguments, out=y, **saved)[0], training
        )
        allocating = self.ending.forward(
            "native_batch_norm", lambda: aten.native_batch_norm.default(*arguments)[0], training
        )
        ways = [self._way(*preallocated, self._result)]
        return ways + self._compiled(*allocating, self._result)

    def _batch_backward(self) -> list[Way]:
        forward = (self.x, self.scale, self.shift, None, None, True, 0.1, EPSILON)
        y, mean, rstd = aten.native_batch_norm.default(*forward)
        operator = aten.native_batch_norm_backward.default
        statistics = (None, None, mean, rstd, True, EPSILON, [True, True, True])
        arguments = (self.x, self.scale, *statistics)
        return self._gradients(
            "native_batch_norm_backward", y, lambda grad: operator(grad, *arguments)
        )

    def _layer_forward(self) -> Results:
        normalized = [self.layer.shape[1]]
        return aten.native_layer_norm.default(self.x, normalized, self.scale, self.shift, EPSILON)

    def _layer(self, pass_name: str) -> list[Way]:
        return self._forward("native_layer_norm", pass_name, lambda: self._layer_forward()[0])

    def _layer_backward(self) -> list[Way]:
        y, mean, rstd = self._layer_forward()
        operator = aten.native_layer_norm_backward.default
        normalized, mask = [self.layer.shape[1]], [True, True, True]
        arguments = (self.x, normalized, mean, rstd, self.scale, self.shift, mask)
        ways = self._gradients(
            "native_layer_norm_backward", y, lambda grad: operator(grad, *arguments)
        )
        if self.layer.form.dtype != "f32":
            ways[0].coarse = ("grad_scale", "grad_shift")  # summed in x's type over all rows
        return ways

    def _extents(self) -> tuple[int, int, int, int]:
        n, c, *space = self.layer.shape
        return n, c, int(np.prod(space)), self.layer.as_groups

    def _group_forward(self) -> Results:
        operator = aten.native_group_norm.default
        return operator(self.x, self.scale, self.shift, *self._extents(), EPSILON)

    def _group(self, pass_name: str) -> list[Way]:
        return self._forward("native_group_norm", pass_name, lambda: self._group_forward()[0])

    def _group_backward(self) -> list[Way]:
        y, mean, rstd = self._group_forward()
        operator = aten.native_group_norm_backward.default
        statistics = (mean, rstd, self.scale)
        arguments = (self.x, *statistics, *self._extents(), [True, True, True])
        return self._gradients(
            "native_group_norm_backward", y, lambda grad: operator(grad, *arguments)
        )

    def _instance_of(
        self, x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor
    ) -> torch.Tensor:
        return torch.instance_norm(x, scale, shift, None, None, True, 0.1, EPSILON, False)

    def _instance(self, pass_name: str) -> list[Way]:
        parameters = (self.x, self.scale, self.shift)
        return self._forward("instance_norm", pass_name, lambda: self._instance_of(*parameters))

    def _instance_backward(self) -> list[Way]:
        """There is no operator for these gradients: autograd composes them, of a graph that it made
        once, which is nothing for torch.compile."""
        leaves = [t.detach().requires_grad_() for t in (self.x, self.scale, self.shift)]
        with torch.enable_grad():
            y = self._instance_of(*leaves)
        gradients = torch.autograd.grad
        composed = self._from_grad_y(
            "instance_norm, autograd",
            y.detach().clone(),
            lambda grad: gradients(y, leaves, grad, retain_graph=True),
        )
        return [self._way(*composed, self._named)]
