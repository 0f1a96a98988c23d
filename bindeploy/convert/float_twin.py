"""The same network in float32, for comparison: every binary layer becomes the ordinary one.

A binary convolution or dense layer of the packed file becomes one `Conv` or `MatMul` + `Add` with
float weights of the same shape; where the next layer binarizes (the thresholded ops) a `Relu`
follows, as in the network one would have trained without binarization. No Sign, no scale, no
BatchNorm, no 8-bit integers remain, so the twin is the fastest float form of the architecture. It
serves for times and sizes; its outputs mean nothing.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bindeploy import bits

DOMAIN = "bindeploy"


def float_twin(packed: onnx.ModelProto) -> onnx.ModelProto:
    """Packed model -> the float32 model of the same layer names and shapes, in standard ops."""
    twin = onnx.ModelProto()
    twin.CopyFrom(packed)
    del twin.functions[:]
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in packed.graph.initializer}
    del twin.graph.node[:]
    for node in _without_quantization(packed.graph):
        nodes = _float_nodes(node, constants) if node.domain == DOMAIN else [node]
        twin.graph.node.extend(nodes)
    used = {name for node in twin.graph.node for name in node.input}
    del twin.graph.initializer[:]
    twin.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in constants.items() if name in used
    )
    kept = [entry for entry in twin.opset_import if entry.domain == ""]
    del twin.opset_import[:]
    twin.opset_import.extend(kept)
    onnx.checker.check_model(twin)
    return twin


def layers(model: onnx.ModelProto) -> dict[str, onnx.ModelProto]:
    """Node name -> a model of that node alone, for one image: what to time layer by layer."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    del fixed.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(fixed).graph
    values = {value.name: value for value in [*graph.input, *graph.value_info, *graph.output]}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    found = {}
    for node in graph.node:
        activations = [name for name in node.input if name in values]
        if any(name not in values for name in node.output) or not activations:
            continue
        alone = helper.make_graph(
            [node],
            node.name,
            [values[name] for name in activations],
            [values[name] for name in node.output],
            [constants[name] for name in node.input if name in constants],
        )
        found[node.name] = helper.make_model(
            alone, opset_imports=model.opset_import, ir_version=model.ir_version
        )
    return found


def _without_quantization(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes of a graph, Identity in the place of QuantizeLinear and DequantizeLinear."""
    sources = {
        node.output[0]: node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"
    }
    nodes = [
        helper.make_node("Identity", [sources[node.input[0]]], node.output, node.name)
        if node.op_type == "DequantizeLinear" and node.input[0] in sources
        else node
        for node in graph.node
    ]
    read = {name for node in nodes for name in node.input} | {value.name for value in graph.output}
    return [node for node in nodes if node.op_type != "QuantizeLinear" or node.output[0] in read]


def _float_nodes(node: onnx.NodeProto, constants: dict[str, np.ndarray]) -> list[onnx.NodeProto]:
    """The standard nodes that stand for one node of the dialect."""
    attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    output = node.output[0]
    if node.op_type == "BinaryMaxPool2d":
        return [helper.make_node("MaxPool", node.input[:1], [output], node.name, **attributes)]
    thresholded = node.op_type.endswith("Threshold")
    weight = _weight(constants[node.input[1]], attributes.get("channels"))
    filters = weight.shape[0]
    constants[f"{node.name}/float_bias"] = np.zeros(filters, np.float32)
    before = f"{output}/before" if thresholded else output
    if weight.ndim == 4:
        constants[f"{node.name}/float_weight"] = weight
        inputs = [node.input[0], f"{node.name}/float_weight", f"{node.name}/float_bias"]
        kept = {key: attributes[key] for key in ("group", "strides", "pads", "dilations")}
        nodes = [helper.make_node("Conv", inputs, [before], node.name, **kept)]
    else:
        constants[f"{node.name}/float_weight"] = np.ascontiguousarray(weight.T)
        product = f"{output}/product"
        inputs = [node.input[0], f"{node.name}/float_weight"]
        nodes = [
            helper.make_node("MatMul", inputs, [product], node.name),
            helper.make_node("Add", [product, f"{node.name}/float_bias"], [before]),
        ]
    if thresholded:
        nodes.append(helper.make_node("Relu", [before], [output]))
    return nodes


def _weight(packed: np.ndarray, channels: int | None) -> np.ndarray:
    """Float weights of a packed tensor: +-1 / sqrt(K), in ONNX layout [F, C, KH, KW] or [F, C].

    Of int8 weights, which have no `channels` and are in that layout, 1 stands for 127.
    """
    if channels is None:
        return packed.astype(np.float32) / np.float32(127 * np.sqrt(np.prod(packed.shape[1:])))
    signs = bits.unpack(packed, channels).astype(np.float32)
    signs /= np.sqrt(np.prod(signs.shape[1:]), dtype=np.float32)
    return np.ascontiguousarray(np.moveaxis(signs, -1, 1))
