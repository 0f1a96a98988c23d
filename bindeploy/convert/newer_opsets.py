"""Nodes of operators that opset 20 does not have, as the nodes that ONNX defines them by."""

from __future__ import annotations

from typing import Any

import onnx
import onnx_ir as ir

from bindeploy.convert import dialect, names
from bindeploy.convert.inline_functions import MOST_NODES, inline
from bindeploy.errors import BindeployError


def expand(model: ir.Model, newer: list[ir.Node]) -> None:
    """Each node as the nodes that define it; these belong to the opset of the definition."""
    taken, made = names.of(model), 0
    for node in newer:
        body = _definition(node)
        made += len(body)
        if made > MOST_NODES:
            raise not_sayable(node, f"takes more than {MOST_NODES} nodes there, with its like")
        inline(model, node, body, taken)


def _definition(node: ir.Node) -> ir.Function:
    """The function that ONNX defines the node's operator by, its attributes' defaults filled in."""
    version = node.version or dialect.OPSET
    schema: Any = onnx.defs.get_schema(node.op_type, version, "")  # the stubs know half of it
    content = b""
    if schema.has_function:
        content = schema.function_body.SerializeToString()
    elif schema.has_context_dependent_function and not _unknown_type(node):
        proto = ir.serde.serialize_node(node)
        kinds = [_type(value).SerializeToString() for value in node.inputs]
        versions = [v for v in schema.context_dependent_function_opset_versions if v <= version]
        if versions:
            content = schema.get_context_dependent_function_with_opset_version(
                max(versions), proto.SerializeToString(), kinds
            )
    function = onnx.FunctionProto.FromString(content)
    if not function.node:
        raise not_sayable(node, "cannot be said there")
    made = {name for inner in function.node for name in inner.output}
    while function.output and function.output[-1] not in made:
        function.output.pop()  # optional ones that this node does not ask for
    body = ir.serde.deserialize_function(function)
    for name, attribute in schema.attributes.items():
        if name not in node.attributes and attribute.default_value.name:
            node.attributes[name] = ir.serde.deserialize_attribute(attribute.default_value)
    return body


def _unknown_type(node: ir.Node) -> bool:
    return any(value is not None and value.type is None for value in node.inputs)


def _type(value: ir.Value | None) -> onnx.TypeProto:
    if value is None or value.type is None:
        return onnx.TypeProto()
    kind = ir.serde.serialize_type(value.type)
    if value.shape is not None:
        ir.serde.serialize_shape_into(kind, value.shape)
    return kind


def not_sayable(node: ir.Node, why: str) -> BindeployError:
    """Error for a node, written for opset `version`, of which opset 20 has no counterpart."""
    name = node.name or node.outputs[0].name or node.op_type
    return BindeployError(
        f"node `{name}` does not convert from opset {node.version} to {dialect.OPSET} "
        f"({node.op_type} {why}): export the model with opset {dialect.OPSET}"
    )
