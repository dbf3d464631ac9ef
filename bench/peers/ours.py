# SPDX-License-Identifier: MIT
"""Passes of a layer through axisnorm."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import numpy as np

import axisnorm_ctypes as axn
from layers import EPSILON, NEGATIVE_SLOPE, Inputs, Layer, Way, empty


def _desc(layer: Layer, threads: int) -> axn.Desc:
    desc = axn.Desc(
        norm=axn.NORMS[layer.norm],
        dtype=axn.DTYPES[layer.form.dtype],
        parameter_dtype=axn.DTYPES["f32"],
        layout=axn.LAYOUTS[layer.form.layout],
        rank=len(layer.shape),
        groups=layer.groups or 1,
        axis=1,
        parameters=axn.PARAMETERS_PER_ELEMENT if layer.per_element else axn.PARAMETERS_PER_CHANNEL,
        epsilon=EPSILON,
        momentum=0.1,
        running_variance=axn.RUNNING_VARIANCE_UNBIASED,
        threads=threads,
        activation=axn.ACTIVATIONS.index(layer.form.activation),
        negative_slope=NEGATIVE_SLOPE,
    )
    desc.shape[: len(layer.shape)] = layer.shape
    return desc


class Axisnorm:
    """One layer's plan, outputs and workspace, and the three passes over them."""

    def __init__(self, library: axn.Library, layer: Layer, inputs: Inputs, threads: int) -> None:
        self.functions, self.inputs, self.form = library.functions, inputs, layer.form
        self.plan = axn.Plan(library, _desc(layer, threads))
        info = self.plan.info
        arrays = [empty(layer.stored_shape, layer.form.dtype) for _ in range(3)]
        self.y, self.grad_x, self.grad_residual = arrays
        self.mean, self.rstd = empty(info.statistics), empty(info.statistics)
        self.grad_scale, self.grad_shift = empty(info.parameters), empty(info.parameters)
        sizes = (info.training_workspace, info.inference_workspace, info.backward_workspace)
        self.workspace = np.empty(max(*sizes, 1), dtype=np.uint8)
        self.has_running = layer.norm == "batch"

    def way(self, pass_name: str) -> Way:
        if pass_name == "forward-training":
            return self._way("axn_forward_training", self._training(), ("y",))
        if pass_name == "forward-inference":
            return self._way("axn_forward_inference", self._inference(), ("y",))
        self._way("axn_forward_training", self._training(), ()).run()
        outputs = ["grad_x", "grad_scale", "grad_shift"]
        if self.form.gives_grad_residual:
            outputs.append("grad_residual")
        return self._way("axn_backward", self._backward(), tuple(outputs))

    def _way(self, name: str, args: ctypes.Structure, outputs: tuple[str, ...]) -> Way:
        function, plan = getattr(self.functions, name), self.plan.handle
        error = axn.Error()
        args_pointer, error_pointer = ctypes.pointer(args), ctypes.pointer(error)

        def run() -> None:
            if function(plan, args_pointer, error_pointer):
                raise RuntimeError(error.message.decode())

        return Way(
            "axisnorm", name, run, lambda: {field: getattr(self, field) for field in outputs}
        )

    def _common(self) -> dict[str, int]:
        return {
            "x": self.inputs.x.ctypes.data,
            "scale": self.inputs.scale.ctypes.data,
            "workspace": self.workspace.ctypes.data,
            "workspace_size": self.workspace.nbytes,
        }

    def _forward(self) -> dict[str, int]:
        return {"y": self.y.ctypes.data, **self._ending()}

    def _ending(self) -> dict[str, int]:
        residual = self.inputs.residual
        given = {} if residual is None else {"residual": residual.ctypes.data}
        return {"shift": self.inputs.shift.ctypes.data, **given}

    def _statistics(self) -> dict[str, int]:
        return {"mean": self.mean.ctypes.data, "rstd": self.rstd.ctypes.data}

    def _training(self) -> axn.TrainingArgs:
        return axn.TrainingArgs(**self._common(), **self._forward(), **self._statistics())

    def _inference(self) -> axn.InferenceArgs:
        args = axn.InferenceArgs(**self._common(), **self._forward())
        if self.has_running:
            args.running_mean = self.inputs.running_mean.ctypes.data
            args.running_variance = self.inputs.running_variance.ctypes.data
        return args

    def _backward(self) -> axn.BackwardArgs:
        ending = self._ending() if self.form.has_activation else {}
        if self.form.gives_grad_residual:
            ending["grad_residual"] = self.grad_residual.ctypes.data
        return axn.BackwardArgs(
            **ending,
            **self._common(),
            **self._statistics(),
            grad_y=self.inputs.grad_y.ctypes.data,
            grad_x=self.grad_x.ctypes.data,
            grad_scale=self.grad_scale.ctypes.data,
            grad_shift=self.grad_shift.ctypes.data,
        )


def argument(library: axn.Library, layer: Layer, inputs: Inputs, threads: int) -> np.ndarray:
    """What the layer's activation is applied to in training."""
    plain = replace(layer, form=replace(layer.form, activation="none"))
    way = Axisnorm(library, plain, inputs, threads).way("forward-training")
    way.run()
    return way.results()["y"]
