"""Changes of a model that keep it an ONNX message: numbers, types, names and edges, none of them
such that the outcome need make sense."""

from __future__ import annotations

import struct
from collections.abc import Callable

import onnx
from onnx import AttributeProto, GraphProto, NodeProto, helper

Pick = Callable[[int], int]
"""A choice of 0 .. n - 1, for n of at least 1."""

INTEGERS = (0, 1, -1, 2, 3, 7, 64, 255, 2**16, 2**31 - 1, 2**31, 2**40, 2**63 - 1, -(2**63))
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e38, 3e38, float("inf"), -float("inf"), float("nan"), 0.5)
TEXTS = ("", "x", "y", "SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET", "CRD", "a\n", "é" * 99)
NAMES = {
    "": """Add Sub Mul Div Relu PRelu LeakyRelu Clip Sign Abs Neg Identity Where Cast Reshape Split
        Flatten Squeeze Unsqueeze Transpose Concat Slice Pad Conv ConvTranspose Gemm MatMul MaxPool
        AveragePool GlobalAveragePool ReduceMean BatchNormalization Softmax DepthToSpace Resize
        SpaceToDepth QuantizeLinear DequantizeLinear Greater GreaterOrEqual Less Equal Not Shape
        Gather Expand Tile ConstantOfShape Range Dropout Constant Sqrt Sigmoid Tanh Max Min If Foo
        HardSigmoid Upsample GroupNormalization SequenceConstruct SplitToSequence Optional""",
    "bindeploy.latent": """BinaryConv2d BinaryWeightConv2d BinaryLinear BinaryWeightLinear
        BinarySign""",
    "bindeploy": "BinaryConv2d BinaryConv2dThreshold BinaryLinear BinaryMaxPool2d",
    "qonnx.custom_op.general": "BipolarQuant Quant Trunc",
    "mine": "F G Foo",
}
OPERATORS = [(name, domain) for domain, names in NAMES.items() for name in names.split()]


def mutate(proto: onnx.ModelProto, pick: Pick, changes: int) -> None:
    """Change the model in place, `changes` times."""
    for _ in range(changes):
        MUTATIONS[pick(len(MUTATIONS))](proto, pick)


def _any(sequence, pick):
    return sequence[pick(len(sequence))] if len(sequence) else None


def _graphs(graph: GraphProto) -> list[GraphProto]:
    inner = (each.g for node in graph.node for each in node.attribute if each.HasField("g"))
    return [graph, *(found for each in inner for found in _graphs(each))]


def _node(proto: onnx.ModelProto, pick: Pick) -> NodeProto:
    bodies = [graph.node for graph in _graphs(proto.graph)] + [f.node for f in proto.functions]
    return _any([node for body in bodies for node in body], pick) or proto.graph.node.add()


def _names(proto: onnx.ModelProto) -> list[str]:
    graph = proto.graph
    given = [each.name for each in (*graph.input, *graph.initializer)]
    return [*given, *(name for node in graph.node for name in node.output), "", "ghost"]


def _attribute(proto, pick):
    attribute = _any(_node(proto, pick).attribute, pick)
    if attribute is None:
        return
    if attribute.type == AttributeProto.INTS:
        change = pick(4)
        if change == 0 and attribute.ints:
            attribute.ints.pop()
        elif change == 1:
            attribute.ints.append(_any(INTEGERS, pick))
        elif attribute.ints:
            attribute.ints[pick(len(attribute.ints))] = _any(INTEGERS, pick)
    elif attribute.type == AttributeProto.INT:
        attribute.i = _any(INTEGERS, pick)
    elif attribute.type == AttributeProto.FLOAT:
        attribute.f = _any(FLOATS, pick)
    elif attribute.type == AttributeProto.STRING:
        attribute.s = _any(TEXTS, pick).encode()
    else:
        attribute.type = pick(15)


def _add_attribute(proto, pick):
    names = "axis axes perm group pads strides auto_pad ceil_mode alpha beta transA transB to mode "
    names += "dilations kernel_shape output_padding num_outputs keepdims value blocksize epsilon"
    value = (_any(INTEGERS, pick), _any(FLOATS, pick), _any(TEXTS, pick), [1] * (1 + pick(5)))
    name = _any(names.split(), pick)
    _node(proto, pick).attribute.append(helper.make_attribute(name, value[pick(4)]))


def _drop_attribute(proto, pick):
    attributes = _node(proto, pick).attribute
    if attributes:
        del attributes[pick(len(attributes))]


def _operator(proto, pick):
    node = _node(proto, pick)
    node.op_type, node.domain = _any(OPERATORS, pick)


def _rewire(proto, pick):
    node = _node(proto, pick)
    if node.input:
        node.input[pick(len(node.input))] = _any(_names(proto), pick)


def _drop_input(proto, pick):
    node = _node(proto, pick)
    if node.input:
        del node.input[pick(len(node.input))]


def _add_input(proto, pick):
    _node(proto, pick).input.append(_any(_names(proto), pick))


def _output(proto, pick):
    node = _node(proto, pick)
    if pick(2) and node.output:
        node.output[pick(len(node.output))] = _any(_names(proto), pick)
    else:
        node.output.append(f"more{pick(3)}")


def _drop_node(proto, pick):
    if proto.graph.node:
        del proto.graph.node[pick(len(proto.graph.node))]


def _between(proto, pick):
    """A new node between a node and what it reads."""
    index = pick(len(proto.graph.node) + 1)
    op, domain = _any(OPERATORS, pick)
    name = f"between{len(proto.graph.node)}"
    rest = list(proto.graph.node[index:])
    read = rest[0].input[0] if rest and rest[0].input else "x"
    extra = [_any(_names(proto), pick) for _ in range(pick(3))]
    del proto.graph.node[index:]
    proto.graph.node.append(helper.make_node(op, [read, *extra], [name], name, domain=domain))
    if rest and rest[0].input:
        rest[0].input[0] = name
    proto.graph.node.extend(rest)


def _tensor(proto, pick):
    tensor = _any(proto.graph.initializer, pick)
    if tensor is None:
        return
    change = pick(5)
    if change == 0 and tensor.dims:
        tensor.dims[pick(len(tensor.dims))] = _any(INTEGERS, pick)
    elif change == 1:
        tensor.raw_data = tensor.raw_data[: pick(len(tensor.raw_data) + 1)]
    elif change == 2:
        tensor.data_type = pick(27)
    elif change == 3:
        start = 4 * pick(max(len(tensor.raw_data) // 4, 1))
        number = struct.pack("<f", _any(FLOATS, pick))
        tensor.raw_data = tensor.raw_data[:start] + number + tensor.raw_data[start + 4 :]
    else:
        tensor.dims[:] = [1] * pick(6) + [len(tensor.raw_data) // 4]


def _value(proto, pick):
    value = _any([*proto.graph.input, *proto.graph.output, *proto.graph.value_info], pick)
    if value is None:
        return
    kind, change = value.type.tensor_type, pick(5)
    if change == 0:
        kind.elem_type = pick(27)
    elif change == 1:
        kind.shape.dim.add().dim_value = _any(INTEGERS, pick)
    elif change == 2 and kind.shape.dim:
        kind.shape.dim[pick(len(kind.shape.dim))].dim_value = _any(INTEGERS, pick)
    elif change == 3 and kind.shape.dim:
        kind.shape.dim.pop()
    else:
        value.type.sequence_type.elem_type.tensor_type.elem_type = 1


def _interface(proto, pick):
    """More inputs and outputs; an initializer as either."""
    values = proto.graph.input if pick(2) else proto.graph.output
    value = helper.make_tensor_value_info(_any(_names(proto), pick), 1, ["N"] * pick(5))
    values.append(value)


def _opset(proto, pick):
    entry = _any(proto.opset_import, pick)
    if entry is not None:
        entry.version = _any((1, 7, 13, 17, 18, 20, 21, 24, 28, 99, -1), pick)


def _name(proto, pick):
    _node(proto, pick).name = _any((*TEXTS, *_names(proto)), pick)


def _twice(proto, pick):
    proto.graph.node.add().CopyFrom(_node(proto, pick))


MUTATIONS = (
    _attribute, _attribute, _add_attribute, _drop_attribute, _operator, _operator, _rewire, _rewire,
    _drop_input, _add_input, _output, _drop_node, _between, _between, _between, _tensor, _tensor,
    _tensor, _value, _interface, _opset, _name, _twice,
)  # fmt: skip
