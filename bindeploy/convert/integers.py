"""The same graph with the exact integer of every binary layer as a further output."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from bindeploy.convert import constants, dialect
from bindeploy.convert.name_layers import NameLayers

PREFIX = "integers/"


def with_integers(model: ir.Model) -> tuple[onnx.ModelProto, list[str]]:
    """The model with an output `integers/<node name>` for each binarizing layer, and those names.

    Beside every layer of signs with signs, latent or packed, thresholded or not, stands a sibling
    with scale 1 and bias 0, whose output, cast to int32, is dot(sign(x), sign(w)) itself, saturated
    where the layer's is: [N, F, H', W'] or [..., F]. `model` is left as it is; the result carries
    its functions, so stock onnxruntime runs it.
    """
    model = model.clone()
    NameLayers()(model)
    names = []
    for node, op in list(dialect.layers(model)):
        if op.binarizes and len(op.inputs) > 2:
            output = _sibling(model.graph, node)
            model.graph.outputs.append(output)
            names.append(output.name or "")
    dialect.attach_functions(model)
    return ir.to_proto(model), names


def _sibling(graph: ir.Graph, node: ir.Node) -> ir.Value:
    x, weight = node.inputs[:2]
    assert weight is not None and weight.shape is not None, "weights are constants"
    filters = weight.shape[0]
    assert isinstance(filters, int), "weights are constants"
    one = constants.initializer(graph, f"{PREFIX}one", np.ones(filters, np.float32))
    zero = constants.initializer(graph, f"{PREFIX}zero", np.zeros(filters, np.float32))
    dot = ir.node(
        node.op_type.removesuffix("Threshold"),
        [x, weight, one, zero],
        attributes=node.attributes,
        domain=node.domain,
        name=f"{PREFIX}{node.name}/float",
    )
    cast = ir.node(
        "Cast",
        dot.outputs,
        attributes={"to": ir.DataType.INT32},
        name=f"{PREFIX}{node.name}",
    )
    (output,) = cast.outputs
    output.name = f"{PREFIX}{node.name}"
    output.type = ir.TensorType(ir.DataType.INT32)
    dot.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    output.shape = dot.outputs[0].shape = node.outputs[0].shape
    graph.insert_after(node, [dot, cast])
    return output
