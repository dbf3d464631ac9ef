# SPDX-License-Identifier: MIT
"""Forward passes of a layer through ONNX Runtime's CPU provider."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from layers import EPSILON, Inputs, Layer, Way, empty

OPSET = 21  # the first with GroupNormalization as it is now
IR_VERSION = 10
IDLE = 60e-3  # seconds: its worker threads spin some 40 ms before they sleep


def versions() -> dict[str, str]:
    return {"ONNX Runtime": onnxruntime.__version__, "onnx": onnx.__version__}


def lacks(layer: Layer, pass_name: str) -> str | None:
    """Why ONNX Runtime cannot compute this at all; null where it may."""
    if pass_name == "backward":
        return "no gradients outside its training build"
    if layer.layout == "nhwc" and len(layer.shape) > 2:
        return "ONNX knows channels first alone"
    return None


def _node(layer: Layer, training: bool) -> tuple[str, dict[str, Any]]:
    if layer.norm == "batch":
        mode = {"training_mode": 1, "momentum": 0.9} if training else {}
        return "BatchNormalization", {"epsilon": EPSILON, **mode}
    if layer.per_element:
        return "LayerNormalization", {"epsilon": EPSILON, "axis": 1}
    if layer.norm == "instance":
        return "InstanceNormalization", {"epsilon": EPSILON}
    return "GroupNormalization", {"epsilon": EPSILON, "num_groups": layer.as_groups}


def _parameters(layer: Layer, inputs: Inputs) -> dict[str, np.ndarray]:
    parameters = {"scale": inputs.scale, "shift": inputs.shift}
    if layer.norm == "batch":
        parameters |= {"mean": inputs.running_mean, "variance": inputs.running_variance}
    return parameters


def _model(layer: Layer, inputs: Inputs, training: bool) -> bytes:
    operator, attributes = _node(layer, training)
    parameters = _parameters(layer, inputs)
    outputs = ["y"]
    if layer.norm == "batch" and training:
        outputs += ["new_mean", "new_variance"]
    node = helper.make_node(operator, ["x", *parameters], outputs, **attributes)

    def value(name: str, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

    shapes = {"y": layer.shape, "new_mean": layer.shape[1:2], "new_variance": layer.shape[1:2]}
    graph = helper.make_graph(
        [node],
        "layer",
        [value("x", layer.shape)],
        [value(name, shapes[name]) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in parameters.items()],
    )
    opset = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION).SerializeToString()


def _session(model: bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4  # what it cannot do is raised, and reported once
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _bind(session: onnxruntime.InferenceSession, arrays: dict[str, np.ndarray]) -> object:
    binding = session.io_binding()
    for kind, values in (("input", session.get_inputs()), ("output", session.get_outputs())):
        for value in values:
            array = arrays[value.name]
            bind = getattr(binding, f"bind_{kind}")
            bind(value.name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
    return binding


def way(layer: Layer, inputs: Inputs, pass_name: str, threads: int) -> Way:
    """Raises ONNX Runtime's own exception where it has no kernel."""
    training = pass_name == "forward-training"
    session = _session(_model(layer, inputs, training), threads)
    channels = layer.shape[1]
    y = empty(layer.shape)
    arrays = {"x": inputs.x, "y": y, "new_mean": empty(channels), "new_variance": empty(channels)}
    binding = _bind(session, arrays)

    def run() -> None:
        session.run_with_iobinding(binding)

    def results() -> dict[str, np.ndarray]:
        run()
        return {"y": arrays["y"]}

    name = _node(layer, training)[0]
    return Way("ONNX Runtime", name, run, results, IDLE)
