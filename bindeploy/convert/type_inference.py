"""Types and shapes of values, as ONNX's own rules tell them.

`onnx.shape_inference` works on a serialized model, so it is given one without the large constants,
whose types and shapes are enough. Time and memory are in proportion to the number of nodes.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

import onnx
import onnx_ir as ir
from onnx import AttributeProto, helper

from bindeploy.convert import dialect

SMALL = 1000
"""Bytes of a constant whose numbers may tell a shape."""


def infer(model: ir.Model) -> bool:
    """Write onto the model's values what is found out about them; whether anything was.

    What ONNX has no rule for, or contradicts itself about, stays as it is.
    """
    try:
        inferred = onnx.shape_inference.infer_shapes(_light(model), data_prop=True)
    except Exception:  # of half a dozen kinds, MemoryError among them
        return False
    return _merge(model.graph, inferred.graph)


def contradiction(model: ir.Model) -> str | None:
    """What ONNX's rules say against the model, in one line with the node's name; None if nothing.

    For an error's text: exporters write shapes that contradict the rules, and engines run them.
    """
    try:
        onnx.shape_inference.infer_shapes(_light(model), strict_mode=True, data_prop=True)
    except Exception as error:
        said = " ".join(str(error).split())
        return said.partition("Inference error(s): ")[2][:200] or said[:200]
    return None


def _light(model: ir.Model) -> onnx.ModelProto:
    """The model as a message, without what the rules do not ask for."""
    imports = {dialect.DOMAIN: dialect.VERSION, dialect.LATENT: dialect.VERSION}
    return helper.make_model(
        _without_weights(model.graph),
        opset_imports=[
            helper.make_opsetid(domain, version)
            for domain, version in {**imports, **model.opset_imports}.items()
        ],
        ir_version=dialect.IR_VERSION,
    )


def _without_weights(graph: ir.Graph) -> onnx.GraphProto:
    """The graph with its large constants as inputs, of which type and shape are known."""
    proto = onnx.GraphProto(name="graph")
    values = dict.fromkeys(graph.inputs)
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.nbytes > SMALL:
            values[value] = None
        else:
            proto.initializer.append(ir.serde.serialize_tensor(tensor))
            proto.initializer[-1].name = value.name
    proto.input.extend(map(_described, values))
    proto.output.extend(map(_described, graph.outputs))
    for node in graph:
        ir.serde.serialize_node_into(proto.node.add(), node)
        known = (value for value in node.outputs if value.type is not None)
        proto.value_info.extend(_described(value) for value in known if not value.is_graph_output())
    return proto


def _described(value: ir.Value) -> onnx.ValueInfoProto:
    proto = onnx.ValueInfoProto(name=value.name)
    tensor, kind, shape = value.const_value, value.type, value.shape
    if tensor is not None:
        kind, shape = kind or ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
    if kind is not None:
        ir.serde.serialize_type_into(proto.type, kind)
        if shape is not None:
            ir.serde.serialize_shape_into(proto.type, shape)
    return proto


def _merge(graph: ir.Graph, proto: onnx.GraphProto) -> bool:
    found = {told.name: told.type for told in chain(proto.value_info, proto.output)}
    modified = False
    for value in chain.from_iterable(node.outputs for node in graph):
        told = found.get(value.name or "")
        if told is None or told.WhichOneof("value") is None:
            continue
        kind = ir.serde.deserialize_type_proto_for_type(told)
        shape = ir.serde.deserialize_type_proto_for_shape(told)
        if kind is not None and kind != value.type:
            value.type, modified = kind, True
        if shape is not None and shape != value.shape:
            value.shape, modified = shape, True
    for node, described in zip(graph, proto.node, strict=False):
        for attribute in described.attribute:
            inner = _graphs(node.attributes.get(attribute.name))
            for within, told_graph in zip(inner, _graph_protos(attribute), strict=False):
                modified |= _merge(within, told_graph)
    return modified


def _graphs(attribute: ir.Attr | None) -> Iterable[ir.Graph]:
    if attribute is None or attribute.type not in (
        ir.AttributeType.GRAPH,
        ir.AttributeType.GRAPHS,
    ):
        return []
    single = attribute.type == ir.AttributeType.GRAPH
    return [attribute.as_graph()] if single else attribute.as_graphs()


def _graph_protos(attribute: AttributeProto) -> Iterable[onnx.GraphProto]:
    return [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs
