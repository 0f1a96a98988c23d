"""Nodes of older opsets, brought up by `onnx.version_converter` in a model made of them alone.

The converter copies a model twice and knows tensors only, and no domain but the standard one. So it
is given the nodes that need it, side by side, each with inputs and outputs of its own; small
constants come along, since some adapters read them (the scales of an Upsample).
"""

from __future__ import annotations

import onnx
import onnx.version_converter
import onnx_ir as ir
from onnx import helper

from bindeploy.convert import dialect, names
from bindeploy.convert.inline_functions import replace
from bindeploy.errors import BindeployError

SMALL = 1000
"""Numbers of a constant that comes along."""


def bring_up(model: ir.Model, nodes: list[ir.Node]) -> None:
    """Replace each node, written for opset `version`, by nodes of opset 20 that do the same.

    Raises BindeployError, naming a node, where the converter has no words for it.
    """
    for version in sorted({node.version or 0 for node in nodes}):
        _bring_up(model, [node for node in nodes if node.version == version], version)


def _bring_up(model: ir.Model, nodes: list[ir.Node], version: int) -> None:
    converted = ir.from_proto(_converted(nodes, version)).graph
    outputs = {value.name: value for value in converted.outputs}
    fixed = converted.initializers.values()
    inputs = {value.name: value for value in [*converted.inputs, *fixed]}
    converted.outputs.clear()
    parts = []
    for number, node in enumerate(nodes):
        given = [outputs.get(_output(number, index)) for index in range(len(node.outputs))]
        pairs = [(old, new) for old, new in zip(node.outputs, given, strict=True) if new]
        parts.append((pairs, _makers([new for _, new in pairs])))
    position = {made: index for index, made in enumerate(converted)}
    taken = names.of(model)
    for number, (node, (pairs, makers)) in enumerate(zip(nodes, parts, strict=True)):
        for index, value in enumerate(node.inputs):
            stand_in = inputs.get(_input(number, index))
            if stand_in is not None and value is not None:
                stand_in.replace_all_uses_with(value)
        made = sorted(makers, key=position.__getitem__)
        for new in made:
            is_it = new.op_type == node.op_type
            new.name = node.name if is_it else taken.new(f"{node.name}/{new.op_type}")
            new.metadata_props.update(node.metadata_props)
            for value in new.outputs:
                value.name = taken.new(f"{node.outputs[0].name}/{new.op_type}")
        replace(node, converted, made, pairs)


def _makers(values: list[ir.Value]) -> set[ir.Node]:
    """The nodes that `values` come from."""
    makers: set[ir.Node] = set()
    waiting = [value.producer() for value in values]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in makers:
            makers.add(node)
            waiting += [value.producer() for value in node.inputs if value is not None]
    return makers


def _converted(nodes: list[ir.Node], version: int) -> onnx.ModelProto:
    """The nodes side by side in a model of opset 20, inputs and outputs called by their numbers."""
    try:
        converted: onnx.ModelProto = onnx.version_converter.convert_version(
            _side_by_side(nodes, version), dialect.OPSET
        )
    except Exception as error:
        if len(nodes) > 1:
            for half in (nodes[: len(nodes) // 2], nodes[len(nodes) // 2 :]):
                _converted(half, version)
        node, why = nodes[0], " ".join(str(error).split())[:200]
        raise BindeployError(
            f"node `{node.name or node.outputs[0].name}` does not convert from opset {version} to "
            f"{dialect.OPSET} ({node.op_type}: {why}): export the model with opset {dialect.OPSET}"
        ) from None
    return converted


def _side_by_side(nodes: list[ir.Node], version: int) -> onnx.ModelProto:
    graph = onnx.GraphProto(name="older")
    for number, node in enumerate(nodes):
        proto = ir.serde.serialize_node(node)
        proto.name = str(number)
        for index, value in enumerate(node.inputs):
            if value is None:
                continue
            proto.input[index] = _input(number, index)
            tensor = ir.convenience.get_const_tensor(value)
            if tensor is not None and tensor.size <= SMALL:
                constant = ir.serde.serialize_tensor(tensor)
                constant.name = proto.input[index]
                graph.initializer.append(constant)
            else:
                graph.input.append(_stand_in(proto.input[index], value))
        for index, value in enumerate(node.outputs):
            if value.name:
                proto.output[index] = _output(number, index)
                graph.output.append(_stand_in(proto.output[index], value))
        graph.node.append(proto)
    imports = [helper.make_opsetid("", version)]
    return helper.make_model(graph, opset_imports=imports, ir_version=dialect.IR_VERSION)


def _stand_in(name: str, value: ir.Value) -> onnx.ValueInfoProto:
    """A tensor of the type and shape of `value`; of float where that is unknown, or no tensor."""
    kind = value.dtype or ir.DataType.FLOAT
    proto = helper.make_tensor_value_info(name, int(kind), None)
    if value.shape is not None:
        ir.serde.serialize_shape_into(proto.type, value.shape)
    return proto


def _input(node: int, index: int) -> str:
    return f"{node}<{index}"


def _output(node: int, index: int) -> str:
    return f"{node}>{index}"
