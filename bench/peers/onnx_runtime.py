# SPDX-License-Identifier: MIT
"""Forward passes of a layer through ONNX Runtime's CPU provider."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from layers import DTYPES, EPSILON, NEGATIVE_SLOPE, Inputs, Layer, Way, empty

OPSET = 21  # the first with GroupNormalization as it is now
IR_VERSION = 10
IDLE = 60e-3  # seconds: its worker threads spin some 40 ms before they sleep


def versions() -> dict[str, str]:
    return {"ONNX Runtime": onnxruntime.__version__, "onnx": onnx.__version__}


def lacks(layer: Layer, pass_name: str) -> str | None:
    """Why ONNX Runtime cannot compute this at all; null where it may."""
    if pass_name == "backward":
        return "no gradients outside its training build"
    if layer.form.layout == "nhwc" and len(layer.shape) > 2:
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
    """Only batch normalization takes float32 ones with any type of x."""
    kept = "f32" if layer.norm == "batch" else layer.form.dtype
    parameters = {
        "scale": inputs.scale.astype(DTYPES[kept]),
        "shift": inputs.shift.astype(DTYPES[kept]),
    }
    if layer.norm == "batch":
        parameters |= {"mean": inputs.running_mean, "variance": inputs.running_variance}
    return parameters


def _ending(layer: Layer) -> list[tuple[str, list[str], dict[str, Any]]]:
    """Operators behind the normalization, with inputs and attributes; "" is the result so far, "-"
    the one before that."""
    nodes: list[tuple[str, list[str], dict[str, Any]]] = []
    if layer.form.residual:
        nodes.append(("Add", ["", "residual"], {}))
    nodes += {
        "none": [],
        "relu": [("Relu", [""], {})],
        "leaky-relu": [("LeakyRelu", [""], {"alpha": NEGATIVE_SLOPE})],
        "silu": [("Sigmoid", [""], {}), ("Mul", ["-", ""], {})],
        "gelu": [("Gelu", [""], {"approximate": "none"})],
        "gelu-tanh": [("Gelu", [""], {"approximate": "tanh"})],
    }[layer.form.activation]
    return nodes


def _nodes(layer: Layer, training: bool, parameters: list[str]) -> list[onnx.NodeProto]:
    operator, attributes = _node(layer, training)
    ending = _ending(layer)
    results = [f"step{number}" for number in range(len(ending))] + ["y"]
    outputs = results[:1] + _statistics(layer, training)
    nodes = [helper.make_node(operator, ["x", *parameters], outputs, **attributes)]
    for number, (following, inputs, options) in enumerate(ending, 1):
        names = {"": results[number - 1], "-": results[number - 2]}
        found = [names.get(name, name) for name in inputs]
        nodes.append(helper.make_node(following, found, [results[number]], **options))
    return nodes


def _statistics(layer: Layer, training: bool) -> list[str]:
    return ["new_mean", "new_variance"] if layer.norm == "batch" and training else []


def _model(layer: Layer, inputs: Inputs, training: bool) -> bytes:
    parameters = _parameters(layer, inputs)

    def value(name: str, shape: tuple[int, ...], dtype: str) -> onnx.ValueInfoProto:
        kind = helper.np_dtype_to_tensor_dtype(DTYPES[dtype])
        return helper.make_tensor_value_info(name, kind, shape)

    data = ["x"] + ["residual"] * layer.form.residual
    kept = _statistics(layer, training)
    graph = helper.make_graph(
        _nodes(layer, training, list(parameters)),
        "layer",
        [value(name, layer.shape, layer.form.dtype) for name in data],
        [value("y", layer.shape, layer.form.dtype)]
        + [value(name, layer.shape[1:2], "f32") for name in kept],
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
            element = helper.np_dtype_to_tensor_dtype(array.dtype)
            bind(value.name, "cpu", 0, element, array.shape, array.ctypes.data)
    return binding


def way(layer: Layer, inputs: Inputs, pass_name: str, threads: int) -> Way:
    """Raises ONNX Runtime's own exception where it has no kernel."""
    training = pass_name == "forward-training"
    session = _session(_model(layer, inputs, training), threads)
    channels = layer.shape[1]
    arrays = {"x": inputs.x, "y": empty(layer.shape, layer.form.dtype)}
    arrays |= {"new_mean": empty(channels), "new_variance": empty(channels)}
    if inputs.residual is not None:
        arrays["residual"] = inputs.residual
    binding = _bind(session, arrays)

    def run() -> None:
        session.run_with_iobinding(binding)

    def results() -> dict[str, np.ndarray]:
        run()
        return {"y": arrays["y"]}

    names = [_node(layer, training)[0], *(node[0] for node in _ending(layer))]
    return Way("ONNX Runtime", ", ".join(names), run, results, IDLE)
