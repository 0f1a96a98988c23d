"""ONNX -> plan: one table says which function lowers which op."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import onnx_ir as ir

from bindeploy.emit import plan_convolutions as convolutions
from bindeploy.emit import plan_pointwise as pointwise
from bindeploy.emit import plan_pools as pools
from bindeploy.emit import plan_quantization as quantization
from bindeploy.emit import plan_shapes as shapes
from bindeploy.emit.plan_builder import Activation, Builder, View, constant_array, name_of
from bindeploy.emit.plan_builder import readers as readers_of
from bindeploy.emit.plan_format import Node, Plan, Tensor, Type
from bindeploy.emit.plan_memory import Lifetime, place
from bindeploy.errors import BindeployError

Lowering = Callable[[Builder, ir.Node], View]

LOWERINGS: dict[tuple[str, str], Lowering] = {
    ("", "Conv"): convolutions.conv,
    ("", "Gemm"): convolutions.gemm,
    ("", "MatMul"): convolutions.matmul,
    ("", "BatchNormalization"): pointwise.batch_normalization,
    ("", "Add"): pointwise.add,
    ("", "Sub"): pointwise.subtract,
    ("", "Mul"): pointwise.multiply,
    ("", "Div"): pointwise.divide,
    ("", "Relu"): pointwise.relu,
    ("", "Clip"): pointwise.clip,
    ("", "Where"): pointwise.where,
    ("", "QuantizeLinear"): quantization.quantize_linear,
    ("", "DequantizeLinear"): quantization.dequantize_linear,
    ("", "MaxPool"): pools.max_pool,
    ("", "AveragePool"): pools.average_pool,
    ("", "GlobalAveragePool"): pools.global_average_pool,
    ("", "ReduceMean"): pools.reduce_mean,
    ("", "Flatten"): shapes.flatten,
    ("", "Reshape"): shapes.reshape,
    ("", "Squeeze"): shapes.squeeze,
    ("", "Slice"): shapes.slice_pixels,
    ("", "Pad"): shapes.pad,
    ("", "Identity"): shapes.identity,
    ("", "Dropout"): shapes.identity,
    ("bindeploy", "BinaryConv2d"): partial(convolutions.binary_conv2d, op="binary_conv"),
    ("bindeploy", "BinaryConv2dThreshold"): partial(
        convolutions.binary_conv2d, op="binary_conv_threshold"
    ),
    ("bindeploy", "BinaryWeightConv2d"): partial(
        convolutions.binary_conv2d, op="binary_weight_conv"
    ),
    ("bindeploy", "BinaryLinear"): partial(convolutions.binary_linear, op="binary_conv"),
    ("bindeploy", "BinaryLinearThreshold"): partial(
        convolutions.binary_linear, op="binary_conv_threshold"
    ),
    ("bindeploy", "BinaryWeightLinear"): partial(
        convolutions.binary_linear, op="binary_weight_conv"
    ),
    ("bindeploy", "BinaryMaxPool2d"): pools.binary_max_pool2d,
    ("bindeploy.latent", "BinarySign"): pointwise.binary_sign,
}


def lower(model: ir.Model) -> Plan:
    """The plan of a converted model with one input [N, C, H, W] or [N, features] and one output.

    Shapes other than N must be fixed. An op with no row in `LOWERINGS` raises BindeployError.
    """
    source = _only("input", [v for v in model.graph.inputs if v.const_value is None])
    target = _only("output", model.graph.outputs)
    builder = Builder()
    source_tensor = _read(builder, source)
    for node in _needed(model.graph):
        builder.views[node.outputs[0]] = _lowering(node)(builder, node)
    target_tensor = _write(builder, target)
    arena_bytes = _place_activations(builder, source_tensor, target_tensor)
    return Plan(
        builder.tensors,
        builder.nodes,
        source_tensor,
        target_tensor,
        arena_bytes,
        input_rank=2 if builder.views[source].flat else 4,
        output_rank=2 if builder.views[target].flat else 4,
    )


def _only(what: str, values: Sequence[ir.Value]) -> ir.Value:
    if len(values) != 1:
        names = ", ".join(f"`{value.name}`" for value in values) or "none"
        raise BindeployError(f"the model has {len(values)} {what}s ({names}); a plan has one")
    return values[0]


def _lowering(node: ir.Node) -> Lowering:
    row = LOWERINGS.get((node.domain, node.op_type))
    if row is None:
        op = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        known = ", ".join(name for _, name in LOWERINGS)
        raise BindeployError(f"the runtime has no `{op}` (node `{name_of(node)}`); it runs {known}")
    return row


def _needed(graph: ir.Graph) -> list[ir.Node]:
    """The nodes that the output depends on through data, in the order they run.

    Constants, shapes computed from shapes, and the test inside a sign are no data.
    """
    wanted = set(graph.outputs)
    nodes = []
    for node in reversed(graph):
        if not wanted.isdisjoint(node.outputs):
            nodes.append(node)
            wanted.update(_data_inputs(node))
    return nodes[::-1]


def _data_inputs(node: ir.Node) -> list[ir.Value]:
    if node.op_type == "Where" and (source := pointwise.sign_source(node)) is not None:
        return [source]
    inputs = node.inputs[:1] if node.op_type == "Reshape" else node.inputs
    return [value for value in inputs if value is not None and constant_array(value) is None]


def _read(builder: Builder, source: ir.Value) -> int:
    """The plan's input tensor, and the node that brings its channels last."""
    name = source.name or "input"
    if source.dtype not in (None, ir.DataType.FLOAT):
        raise BindeployError(f"input `{name}` is {source.dtype}; a plan takes FLOAT")
    written = [getattr(size, "value", size) for size in source.shape or []]
    sizes = [size for size in written[1:] if isinstance(size, int) and size > 0]
    if len(sizes) not in (1, 3) or len(sizes) != len(written) - 1:
        raise BindeployError(
            f"input `{name}` has shape {written}; a plan takes [N, C, H, W] or [N, features], "
            "all but N fixed"
        )
    channels, height, width = (*sizes, 1, 1)[:3]
    handed = builder.tensor(Tensor(name, Type.F32, (1, channels, height, width)))
    op = "to_nhwc"
    inside = builder.tensor(Tensor(f"{name}/{op}", Type.F32, (1, height, width, channels)))
    builder.add(Node(op, f"{name}/{op}", (handed,), inside))
    shape = (channels, height, width)
    activation = Activation(name, shape, readers_of(source), floats=inside)
    builder.views[source] = View(activation, flat=len(sizes) == 1)
    return handed


def _write(builder: Builder, target: ir.Value) -> int:
    """The plan's output tensor, and the node that brings its channels first."""
    name = target.name or "output"
    if target not in builder.views:
        raise BindeployError(f"output `{name}` does not depend on the input")
    view = builder.views[target]
    channels, height, width = view.activation.shape
    if view.flat and height * width > 1:
        raise BindeployError(
            f"output `{name}` is a picture of {height} x {width} flattened; give it unflattened"
        )
    op = "to_nchw"
    inside = builder.floats(view, name)
    handed = builder.tensor(Tensor(name, Type.F32, (1, channels, height, width)))
    return builder.add(Node(op, f"{name}/{op}", (inside,), handed))


def _place_activations(builder: Builder, source: int, target: int) -> int:
    """Give every activation its offset in the arena; return the arena's bytes."""
    first = {source: 0}
    last = {target: len(builder.nodes)}
    for index, node in enumerate(builder.nodes):
        first.setdefault(node.output, index)
        last.setdefault(node.output, index)
        last |= {tensor: index for tensor in node.inputs}
    activations = [tensor for tensor in first]
    sizes = (builder.tensors[tensor].size for tensor in activations)
    lifetimes = [
        Lifetime(size, first[tensor], last[tensor])
        for tensor, size in zip(activations, sizes, strict=True)
    ]
    offsets, arena_bytes = place(lifetimes)
    for tensor, offset in zip(activations, offsets, strict=True):
        builder.tensors[tensor].offset = offset
    return arena_bytes
