"""Shapes are found without the weights, in every graph, and a contradiction names its node."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from bindeploy.convert import type_inference

LARGE = np.zeros((8, 4, 3, 3), np.float32)


def model(*nodes, weight=LARGE):
    graph = helper.make_graph(
        nodes,
        "shapes",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)],
        [
            numpy_helper.from_array(weight, "w"),
            numpy_helper.from_array(np.array([0, 0, 1, 2, 0, 0, 1, 2]), "pads"),
            numpy_helper.from_array(np.array(True), "yes"),
        ],
    )
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("my.domain", 1)]
    return ir.from_proto(helper.make_model(graph, opset_imports=imports, ir_version=10))


def node(op, inputs, output, **attributes):
    return helper.make_node(op, inputs, [output], output, **attributes)


def shapes(model):
    return {
        value.name: [getattr(size, "value", size) for size in value.shape]
        for inner in model.graph.all_nodes()
        for value in inner.outputs
        if value.shape is not None
    }


def test_shapes_follow_from_weights_and_small_constants():
    found = model(node("Pad", ["x", "pads"], "p"), node("Conv", ["p", "w"], "y"))
    assert type_inference.infer(found)
    assert shapes(found) == {"p": ["N", 4, 8, 10], "y": ["N", 8, 6, 8]}
    assert found.graph.initializers["w"].const_value.numpy().shape == LARGE.shape
    assert [value.name for value in found.graph.inputs] == ["x"]


def test_shapes_inside_a_branch_are_found():
    def branch(name):
        inner = [node("Conv", ["x", "w"], f"{name}c"), node("Relu", [f"{name}c"], name)]
        value = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph(inner, name, [], [value])

    found = model(node("If", ["yes"], "y", then_branch=branch("a"), else_branch=branch("b")))
    type_inference.infer(found)
    assert shapes(found) == {name: ["N", 8, 4, 4] for name in ("ac", "a", "bc", "b", "y")}


@pytest.mark.parametrize(
    ("domain", "known"), [("my.domain", [["N", 8, 4, 4]]), ("", [["N", 8, 4, 4], ["N", 8, 4, 4]])]
)
def test_an_operator_nobody_knows_stops_nothing_before_it(domain, known):
    found = model(node("Conv", ["x", "w"], "c"), node("Relu", ["c"], "r", domain=domain),
                  node("Identity", ["r"], "y"))  # fmt: skip
    type_inference.infer(found)
    assert [shapes(found)[name] for name in ("c", "r") if name in shapes(found)] == known


def test_what_contradicts_the_rules_is_said_with_the_name_of_the_node():
    assert type_inference.contradiction(model(node("Conv", ["x", "w"], "y"))) is None
    wrong = model(node("Conv", ["x", "w"], "y", pads=[1]))
    assert "node name: y" in type_inference.contradiction(wrong)
    type_inference.infer(wrong)
    assert shapes(wrong) == {"y": [None] * 4}
