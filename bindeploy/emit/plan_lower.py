"""ONNX -> plan: one table says which function lowers which op."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import onnx_ir as ir

from bindeploy.emit import plan_affine as affine
from bindeploy.emit import plan_blocks as blocks
from bindeploy.emit import plan_convolutions as convolutions
from bindeploy.emit import plan_crops as crops
from bindeploy.emit import plan_functions as functions
from bindeploy.emit import plan_int8 as int8
from bindeploy.emit import plan_numbers as numbers
from bindeploy.emit import plan_pointwise as pointwise
from bindeploy.emit import plan_pools as pools
from bindeploy.emit import plan_quantization as quantization
from bindeploy.emit import plan_shapes as shapes
from bindeploy.emit import plan_transformer as transformer
from bindeploy.emit.plan_bounds import fuse_into_bounds
from bindeploy.emit.plan_builder import Builder, View, name_of, refusal
from bindeploy.emit.plan_ends import read, write
from bindeploy.emit.plan_format import Plan
from bindeploy.emit.plan_memory import Lifetime, place
from bindeploy.emit.plan_rectifiers import fuse_rectifiers
from bindeploy.emit.plan_rounding import round_between_layers
from bindeploy.emit.plan_strided import Strided
from bindeploy.errors import BindeployError

Lowered = View | Strided | list[View | Strided]
Lowering = Callable[[Builder, ir.Node], Lowered]

LOWERINGS: dict[tuple[str, str], Lowering] = {
    ("", "Conv"): convolutions.conv,
    ("", "Gemm"): transformer.by_rows(convolutions.gemm),
    ("", "MatMul"): transformer.by_rows(transformer.matmul),
    ("", "BatchNormalization"): affine.batch_normalization,
    ("", "Add"): transformer.by_rows(pointwise.add),
    ("", "Sub"): affine.subtract,
    ("", "Mul"): partial(transformer.scaled, by=affine.multiply),
    ("", "Div"): partial(transformer.scaled, by=affine.divide),
    ("", "Neg"): affine.negate,
    ("", "HardSigmoid"): affine.hard_sigmoid,
    ("", "Relu"): pointwise.relu,
    ("", "Clip"): pointwise.clip,
    ("", "LeakyRelu"): pointwise.leaky_relu,
    ("", "PRelu"): pointwise.prelu,
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
    ("", "Unsqueeze"): shapes.unsqueeze,
    ("", "Transpose"): shapes.transpose,
    ("", "Slice"): crops.slice_picture,
    ("", "Pad"): crops.pad,
    ("", "Concat"): transformer.concat,
    ("", "Split"): shapes.split,
    ("", "Gather"): shapes.gather,
    ("", "DepthToSpace"): blocks.depth_to_space,
    ("", "SpaceToDepth"): blocks.space_to_depth,
    ("", "Identity"): shapes.identity,
    ("", "Dropout"): shapes.identity,
    ("", "LayerNormalization"): transformer.layer_normalization,
    ("", "Softmax"): transformer.by_rows(transformer.softmax),
    ("", "LogSoftmax"): partial(transformer.softmax, flags=transformer.LOGARITHM),
    ("", "Gelu"): functions.gelu,
    ("", "HardSwish"): functions.hard_swish,
    ("", "Sigmoid"): partial(functions.function, op="sigmoid"),
    ("", "Tanh"): partial(functions.function, op="tanh"),
    ("", "Erf"): partial(functions.function, op="erf"),
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
    ("bindeploy", "SaturatingBinaryConv2d"): partial(
        convolutions.binary_conv2d, op="saturating_conv"
    ),
    ("bindeploy", "SaturatingBinaryConv2dThreshold"): partial(
        convolutions.binary_conv2d, op="saturating_conv_threshold"
    ),
    ("bindeploy", "SaturatingBinaryLinear"): partial(
        convolutions.binary_linear, op="saturating_conv"
    ),
    ("bindeploy", "SaturatingBinaryLinearThreshold"): partial(
        convolutions.binary_linear, op="saturating_conv_threshold"
    ),
    ("bindeploy", "BinaryMaxPool2d"): pools.binary_max_pool2d,
    ("bindeploy", "Int8Conv2d"): partial(int8.int8_conv2d, op="int8_conv"),
    ("bindeploy", "Int8Conv2dThreshold"): partial(int8.int8_conv2d, op="int8_conv_threshold"),
    ("bindeploy", "Int8Linear"): partial(int8.int8_linear, op="int8_conv"),
    ("bindeploy", "Int8LinearThreshold"): partial(int8.int8_linear, op="int8_conv_threshold"),
    ("bindeploy.latent", "BinarySign"): pointwise.binary_sign,
}


def lower(model: ir.Model) -> Plan:
    """The plan of a converted model with one output and one input: [N, C, H, W], [N, C, L] or
    [N, features], or [N, H, W, C] where a Transpose follows.

    Shapes other than N must be fixed. An op with no row in `LOWERINGS` raises BindeployError.
    """
    computed = numbers.computed(model.graph)
    if computed:
        model = model.clone()
        computed = numbers.computed(model.graph)
    source = _only("input", [v for v in model.graph.inputs if v.const_value is None])
    target = _only("output", model.graph.outputs)
    builder = Builder()
    source_tensor = read(builder, source)
    for node in _needed(model.graph, computed):
        numbers.settle(builder, node, computed)
        lowered = _lowered(builder, node)
        outputs = lowered if isinstance(lowered, list) else [lowered]
        builder.views |= zip(node.outputs, outputs, strict=False)
    target_tensor = write(builder, target)
    fuse_into_bounds(builder, target_tensor)
    fuse_rectifiers(builder, target_tensor)
    round_between_layers(builder, target_tensor)
    builder.drop_unread("to_nhwc", target_tensor)
    source_tensor, target_tensor = builder.forget_unused(source_tensor, target_tensor)
    arena_bytes = _place_activations(builder, source_tensor, target_tensor)
    return Plan(
        builder.tensors,
        builder.nodes,
        source_tensor,
        target_tensor,
        arena_bytes,
        input_rank=builder.rank(source),
        output_rank=builder.rank(target),
    )


def _lowered(builder: Builder, node: ir.Node) -> Lowered:
    """What the node's row makes of it.

    A graph whose shapes and attributes contradict each other surprises a row in more ways than it
    could name, so whatever goes wrong in one is said of its node.
    """
    row = _spelled(node) or _lowering(node)
    try:
        return row(builder, node)
    except BindeployError:
        raise
    except Exception as error:
        line = " ".join(f"{type(error).__name__} {error}".split())[:200]
        raise refusal(node, f"its inputs and attributes do not fit together ({line})") from error


def _spelled(node: ir.Node) -> Lowering | None:
    """The row for a node that ends a spelling of something else."""
    if (function := functions.spelled_function(node)) is not None:
        return partial(functions.spelled, found=function)
    if (norm := transformer.spelled_layer_norm(node)) is not None:
        return partial(transformer.layer_norm_of, found=norm)
    return None


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


def _needed(graph: ir.Graph, computed: set[ir.Value]) -> list[ir.Node]:
    """The nodes that the output depends on through data, in the order they run.

    Constants, shapes computed from shapes, and the test inside a sign are no data.
    """
    wanted = set(graph.outputs)
    nodes = []
    for node in reversed(graph):
        if not wanted.isdisjoint(node.outputs):
            nodes.append(node)
            wanted.update(set(_data_inputs(node)) - computed)
    return nodes[::-1]


def _data_inputs(node: ir.Node) -> list[ir.Value]:
    if node.op_type == "Where" and (source := pointwise.sign_source(node)) is not None:
        return [source]
    spelled = functions.spelled_function(node) or transformer.spelled_layer_norm(node)
    if spelled is not None:
        return [spelled[0]]
    inputs = node.inputs[:1] if node.op_type == "Reshape" else node.inputs
    return [value for value in inputs if value is not None and transformer.fixed(value) is None]


def _place_activations(builder: Builder, source: int, target: int) -> int:
    """Give every activation its offset in the arena; return the arena's bytes."""
    first, last = {source: 0}, {source: 0}
    for index, node in enumerate(builder.nodes):
        first.setdefault(node.output, index)
        last |= {tensor: index for tensor in (*node.inputs, node.output) if tensor is not None}
    last[target] = len(builder.nodes)
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
