# SPDX-License-Identifier: MIT
"""The residual and the activation behind a normalization in PyTorch: operators of their own, since
aten has no normalization for the CPU with either inside. In place where the backward pass needs
nothing from in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from layers import NEGATIVE_SLOPE, Form

aten = torch.ops.aten
Normalize = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class _Activation:
    name: str
    apply: Callable[[torch.Tensor], torch.Tensor]
    apply_in_place: Callable[[torch.Tensor], torch.Tensor]
    backward_name: str
    backward: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _threshold_backward(grad_y: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return aten.threshold_backward.default(grad_y, y, 0)


def _leaky_relu_backward(grad_y: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return aten.leaky_relu_backward.default(grad_y, y, NEGATIVE_SLOPE, True)


_LEAKY = {"negative_slope": NEGATIVE_SLOPE}
_TANH = {"approximate": "tanh"}
_ACTIVATIONS = {
    "relu": _Activation(
        "relu", aten.relu.default, aten.relu_.default, "threshold_backward", _threshold_backward
    ),
    "leaky-relu": _Activation(
        "leaky_relu",
        partial(aten.leaky_relu.default, **_LEAKY),
        partial(aten.leaky_relu_.default, **_LEAKY),
        "leaky_relu_backward",
        _leaky_relu_backward,
    ),
    "silu": _Activation(
        "silu",
        aten.silu.default,
        aten.silu_.default,
        "silu_backward",
        aten.silu_backward.default,
    ),
    "gelu": _Activation(
        "gelu",
        aten.gelu.default,
        aten.gelu_.default,
        "gelu_backward",
        aten.gelu_backward.default,
    ),
    "gelu-tanh": _Activation(
        "gelu",
        partial(aten.gelu.default, **_TANH),
        partial(aten.gelu_.default, **_TANH),
        "gelu_backward",
        partial(aten.gelu_backward.default, **_TANH),
    ),
}


class Ending:
    def __init__(self, form: Form, residual: torch.Tensor | None) -> None:
        self.residual, self.keeps_result = residual, form.has_corner
        self.activation = _ACTIVATIONS.get(form.activation)

    def _add(self, normalized: torch.Tensor) -> torch.Tensor:
        return normalized if self.residual is None else normalized.add_(self.residual)

    def forward(self, name: str, normalize: Normalize, training: bool) -> tuple[str, Normalize]:
        """The operators' names, and a call of them all, which may overwrite what is normalized."""
        names, activate = [name], self.activation
        if self.residual is not None:
            names.append("add_")
        if activate is None:
            run = normalize if self.residual is None else lambda: self._add(normalize())
            return ", ".join(names), run
        in_place = self.keeps_result or not training
        apply = activate.apply_in_place if in_place else activate.apply
        names.append(activate.name + ("_" if in_place else ""))
        return ", ".join(names), lambda: apply(self._add(normalize()))

    def backward(
        self, name: str, normalized: torch.Tensor
    ) -> tuple[str, Callable[[torch.Tensor], torch.Tensor]]:
        """The operators' names, and a call from grad_y to the gradient of what is normalized, which
        is that of the residual too."""
        activate = self.activation
        if activate is None:
            return name, lambda grad_y: grad_y
        kept = self._add(normalized)
        if self.keeps_result:
            kept = activate.apply(kept)
        names = f"{activate.backward_name}, {name}"
        return names, lambda grad_y: activate.backward(grad_y, kept)
