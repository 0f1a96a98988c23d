"""ONNX models in a few lines, for every test of the emitters."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx import numpy_helper, parser

HEAD = '<ir_version: 10, opset_import: ["" : 20, "bindeploy" : 1, "bindeploy.latent" : 1]>'


def model_of(x: str, body: str, output: str = "float y", **constants) -> ir.Model:
    """Model with input `x` of shape `x`, a body in ONNX's textual syntax, and its initializers."""
    proto = parser.parse_model(f"{HEAD} g (float{x} x) => ({output}) {{ {body} }}")
    for name, value in constants.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return ir.from_proto(proto)


@pytest.fixture
def graph():
    return model_of
