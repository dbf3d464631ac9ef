# SPDX-License-Identifier: MIT
"""How much of a step normalization takes: clocks at the modules, and at the nodes of the backward pass.

PyTorch's profiler would see another thing than what runs without it: axisnorm's calls then become operators.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

FUSIBLE = (nn.ReLU, nn.LeakyReLU, nn.SiLU, nn.GELU)
NODE = re.compile("norm|relu|silu|gelu|threshold", re.IGNORECASE)  # a module has no node of another's kind
NODES_MOST = 3  # from a module's result: some move axes behind the normalization


def normalizations(model: nn.Module) -> list[nn.Module]:
    """Those of PyTorch's classes, and of classes made of these."""
    batch, instance = nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm
    kinds = (batch, instance, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
    return [module for module in model.modules() if isinstance(module, kinds)]


class Clock:
    """Adds up what lies between begin and end; the innermost of several does not count again."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now, self.seconds, self._depth, self._began = now, 0.0, 0, 0.0

    def begin(self, *_: Any) -> None:
        self._depth += 1
        if self._depth == 1:
            self._began = self._now()

    def end(self, *_: Any) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.seconds += self._now() - self._began


def _node_of(result: Tensor) -> Any:
    """The node of the backward pass that is a module's own; None where there is none."""
    node: Any = result.grad_fn
    for _ in range(NODES_MOST):
        if node is None or NODE.search(node.name()):
            return node
        node = node.next_functions[0][0]
    return None


@contextmanager
def _clocked(modules: list[nn.Module], clock: Clock) -> Iterator[None]:
    def end(module: nn.Module, inputs: Any, result: Tensor) -> None:
        clock.end()
        if torch.is_grad_enabled():
            node = _node_of(result)
            if node is None:
                raise SystemExit(f"models.py: {type(module).__name__} has no node in the backward pass")
            node.register_prehook(clock.begin)
            node.register_hook(clock.end)

    handles = []
    for module in modules:
        handles += [module.register_forward_pre_hook(clock.begin), module.register_forward_hook(end)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def seconds_of(
    model: nn.Module, step: Callable[[], object], with_activations: bool, now: Callable[[], float]
) -> tuple[float, float]:
    """Seconds of normalization in a step, and of the step. With activations: these too, fused or not, but for
    those that are no modules of PyTorch's."""
    modules, clock = normalizations(model), Clock(now)
    if with_activations:
        modules += [module for module in model.modules() if isinstance(module, FUSIBLE)]
    with _clocked(modules, clock):
        began = now()
        step()
        whole = now() - began
    return clock.seconds, whole
