"""Pass: a batch normalization that remains floats goes into the layer before it.

With slope = gamma / sqrt(var + epsilon), in float64, rounded to float32 at the end:

    binary layer   BN(scale * dot + bias) = (slope * scale) * dot + (slope * (bias - mean) + beta)
    Conv, Gemm     BN(W x + bias)         = (slope * W) x         + (slope * (bias - mean) + beta)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import InPlacePass, PassResult

from bindeploy.convert import batch_normalization, constants, dialect, notes
from bindeploy.convert.batch_normalization import BatchNormalization
from bindeploy.convert.fuse_batch_normalization_into_threshold import channels_are_axis_one


class FuseBatchNormalizationIntoScale(InPlacePass):
    """1. BinaryConv2d, BinaryLinear, BinaryWeightConv2d, BinaryWeightLinear -> BatchNormalization
    2. Conv -> BatchNormalization
    3. Gemm -> BatchNormalization

    Only where nothing else reads the layer, and, for 2 and 3, where weight and bias are constant.
    """

    def call(self, model: ir.Model) -> PassResult:
        modified = False
        for node in list(model.graph):
            normalization = batch_normalization.following(node.outputs[0])
            if normalization is not None:
                modified |= _fuse(model.graph, node, normalization)
        return PassResult(model, modified)


def _fuse(graph: ir.Graph, node: ir.Node, normalization: BatchNormalization) -> bool:
    op = dialect.op_of(node)
    if op is not None and op.domain == dialect.DOMAIN and "scale" in op.inputs:
        return channels_are_axis_one(node) and _fuse_binary(graph, node, normalization)
    if node.domain == "" and node.op_type == "Conv":
        return _fuse_conv(graph, node, normalization)
    if node.domain == "" and node.op_type == "Gemm":
        return _fuse_gemm(graph, node, normalization)
    return False


def _fuse_binary(graph: ir.Graph, node: ir.Node, normalization: BatchNormalization) -> bool:
    scale, bias = (constants.read(value) for value in node.inputs[2:])
    assert scale is not None and bias is not None, "verified"
    folded = scale.astype(np.float64) * normalization.slope
    arrays = [("scale", folded), ("bias", normalization(bias.astype(np.float64)))]
    _replace(graph, node, normalization, node.inputs[:2], arrays, node.attributes)
    return True


def _fuse_conv(graph: ir.Graph, node: ir.Node, normalization: BatchNormalization) -> bool:
    weight, bias = constants.read(node.inputs[1]), _bias(node, len(normalization.slope))
    if weight is None or bias is None:
        return False
    slope = normalization.slope.reshape(-1, *[1] * (weight.ndim - 1))
    arrays = [("weight", weight.astype(np.float64) * slope), ("bias", normalization(bias))]
    _replace(graph, node, normalization, node.inputs[:1], arrays, node.attributes)
    return True


def _fuse_gemm(graph: ir.Graph, node: ir.Node, normalization: BatchNormalization) -> bool:
    """alpha * A B stays as it is with B scaled; beta * C becomes the bias, with beta = 1."""
    weight, bias = constants.read(node.inputs[1]), _bias(node, len(normalization.slope))
    if weight is None or bias is None:
        return False
    bias = bias * node.attributes.get_float("beta", 1.0)
    transposed = node.attributes.get_int("transB", 0)
    slope = normalization.slope[:, None] if transposed else normalization.slope
    arrays = [("weight", weight.astype(np.float64) * slope), ("bias", normalization(bias))]
    attributes = {name: value for name, value in node.attributes.items() if name != "beta"}
    _replace(graph, node, normalization, node.inputs[:1], arrays, attributes)
    return True


def _bias(node: ir.Node, filters: int) -> NDArray[np.float64] | None:
    """float64 [filters]: the third input, zeros where absent; None where it is no such constant."""
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return np.zeros(filters)
    bias = constants.read(node.inputs[2])
    if bias is None or bias.ndim > 1:
        return None
    return np.broadcast_to(bias, filters).astype(np.float64)


def _replace(
    graph: ir.Graph,
    node: ir.Node,
    normalization: BatchNormalization,
    kept: Sequence[ir.Value | None],
    arrays: Sequence[tuple[str, NDArray[np.float64]]],
    attributes: object,
) -> None:
    """The layer again, reading `kept` and the folded arrays, in the place of both nodes."""
    for index in range(len(kept), len(node.inputs)):
        node.replace_input_with(index, None)
    constants.remove_unused(graph)
    folded = [
        constants.initializer(graph, f"{node.name}.{name}", array.astype(np.float32))
        for name, array in arrays
    ]
    fused = ir.node(
        node.op_type,
        [*kept, *folded],
        attributes=attributes,  # type: ignore[arg-type]
        domain=node.domain,
        name=node.name,
    )
    end = normalization.node
    notes.carry(node, fused)
    notes.rule(fused, f"{end.name} in its scale and bias")
    ir.convenience.replace_nodes_and_values(
        graph, end, [end, node], [fused], end.outputs[:1], fused.outputs
    )
