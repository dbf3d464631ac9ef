# SPDX-License-Identifier: MIT
"""The table of ONNX's operators in docs/embedding.md: they compute what it says, in ONNX Runtime."""

import numpy
import pytest

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

import axisnorm
from onnx import helper

SHAPE = (3, 6, 4, 5)


def run(nodes, opset, **inputs):
    """The nodes' result y on ONNX Runtime."""
    info = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, array.shape)
            for name, array in inputs.items()]
    result = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    model = helper.make_model(helper.make_graph(nodes, "graph", info, [result]), ir_version=10,
                              opset_imports=[helper.make_opsetid("", opset)])
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


def node(operator, inputs, output="y", **attributes):
    return helper.make_node(operator, inputs.split(), [output], **attributes)


def test_operators(random):
    x, residual = random.normal(size=(2, *SHAPE)).astype(numpy.float32)
    scale, shift = random.normal(size=(2, 6)).astype(numpy.float32)
    mean, variance = random.normal(size=6).astype(numpy.float32), random.random(6).astype(numpy.float32) + 0.5
    wide, low = random.normal(size=(2, *SHAPE[1:])).astype(numpy.float32)
    channel = {"x": x, "scale": scale, "shift": shift}
    to_last, to_first = [0, 2, 3, 1], [0, 3, 1, 2]
    pairs = [
        (run([node("BatchNormalization", "x scale shift mean variance")], 15, **channel, mean=mean,
             variance=variance),
         axisnorm.batch_norm(x, scale, shift, mean, variance)),
        (run([node("LayerNormalization", "x wide low", axis=1)], 17, x=x, wide=wide, low=low),
         axisnorm.layer_norm(x, wide, low)),
        (run([node("InstanceNormalization", "x scale shift")], 6, **channel),
         axisnorm.instance_norm(x, scale, shift)),
        (run([node("GroupNormalization", "x scale shift", num_groups=3)], 21, **channel),
         axisnorm.group_norm(x, scale, shift, groups=3)),
        (run([node("RMSNormalization", "x wide", axis=1)], 23, x=x, wide=wide), axisnorm.rms_norm(x, wide)),
        (run([node("Transpose", "x", "last", perm=to_last),
              node("LayerNormalization", "last scale shift", "normalized", axis=-1),
              node("Transpose", "normalized", perm=to_first)], 17, **channel),
         axisnorm.positional_norm(x, scale, shift)),
        (run([node("RMSNormalization", "x wide", "normalized", axis=1), node("Add", "normalized residual", "z"),
              node("Gelu", "z", approximate="tanh")], 23, x=x, wide=wide, residual=residual),
         axisnorm.rms_norm(x, wide, residual=residual, activation="gelu-tanh")),
        (run([node("LayerNormalization", "x wide", "z", axis=1), node("LeakyRelu", "z", alpha=0.3)], 17, x=x,
             wide=wide),
         axisnorm.layer_norm(x, wide, activation="leaky-relu", negative_slope=0.3)),
    ]
    for actual, due in pairs:
        numpy.testing.assert_allclose(actual, due, rtol=0, atol=2e-5)
