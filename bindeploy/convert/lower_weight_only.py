"""Pass: dense layers with 1-bit weights and float inputs become an operator of stock onnxruntime.

    BinaryWeightLinear(x, bits, scale, bias)  ->  MatMulNBits(x, q, scales) + bias

onnxruntime has no 1-bit weights; with 2 bits its operator com.microsoft::MatMulNBits reads
`(q - 2) scales[n, block]` for a weight q of output n, so +1 is q = 3, -1 is q = 1, and q = 2 fills
the last block of a row with 0. A weight takes 2 bits and a share of its scale, 32 / block bits.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import InPlacePass, PassResult

from bindeploy import bits
from bindeploy.convert import constants, dialect, notes

DOMAIN = "com.microsoft"
OP = "MatMulNBits"
BITS = 2
PLUS, MINUS, ZERO = 3, 1, 2

SMALLEST_BLOCK, LARGEST_BLOCK = 32, 128
"""Weights that share a scale: a power of 2. Beyond 128 onnxruntime has no fast kernel."""

EXACT, INT8 = 0, 4
"""Accuracy levels: onnxruntime computes with floats, or first rounds x to 8 bits."""


class LowerWeightOnly(InPlacePass):
    """1. BinaryWeightLinear(x, bits, scale, bias)  ->  MatMulNBits(x, q, scales),
       q = 2 + sign, scales[n, block] = scale[n].
    2. A bias other than 0 is added by a node of its own.

    At accuracy level EXACT the sums are those of +-x up to the order of rounding (1e-5 relative),
    but every run unpacks the weights; at INT8 the weights are read packed, many times faster, and x
    is rounded to 8 bits.
    """

    def __init__(self, accuracy_level: int = EXACT) -> None:
        super().__init__()
        self.accuracy_level = accuracy_level
        self.lowered: list[str] = []

    def call(self, model: ir.Model) -> PassResult:
        for node, op in list(dialect.layers(model)):
            if op.key == (dialect.DOMAIN, "BinaryWeightLinear"):
                _lower(model.graph, node, self.accuracy_level)
                self.lowered.append(str(node.name))
        if self.lowered:
            model.opset_imports[DOMAIN] = 1
            constants.remove_unused(model.graph)
            dialect.attach_functions(model)
        return PassResult(model, bool(self.lowered))


def lower_weight_only(model: ir.Model, accuracy_level: int = EXACT) -> tuple[ir.Model, list[str]]:
    """A copy of a converted model for stock onnxruntime, and the names of the layers lowered.

    A layer keeps its name. Convolutions stay as they are: the operator multiplies matrices alone.
    """
    copy = model.clone()
    lower = LowerWeightOnly(accuracy_level)
    lower(copy)
    return copy, lower.lowered


def packed(signs: NDArray, block: int) -> NDArray[np.uint8]:
    """q of +-1 [N, K] as [N, ceil(K / block), block / 4]: four a byte, the first in its low bits.

    >>> packed(np.array([[1, -1, 1]]), 16).tolist()
    [[[183, 170, 170, 170]]]
    """
    outputs, depth = signs.shape
    blocks = -(-depth // block)
    q = np.full((outputs, blocks * block), ZERO, np.uint8)
    q[:, :depth] = np.where(signs > 0, PLUS, MINUS)
    fours = q.reshape(outputs, blocks, block // 4, 4) << np.arange(0, 8, BITS, dtype=np.uint8)
    return np.bitwise_or.reduce(fours, axis=-1)


def _block_size(depth: int) -> int:
    """The least power of 2 that holds a row, within bounds."""
    return min(LARGEST_BLOCK, max(SMALLEST_BLOCK, 1 << (depth - 1).bit_length()))


def _lower(graph: ir.Graph, node: ir.Node, accuracy_level: int) -> None:
    depth = node.attributes["channels"].as_int()
    block = _block_size(depth)
    rows, scale, bias = (constants.read(value) for value in node.inputs[1:])
    assert rows is not None and scale is not None and bias is not None, "verify() has checked"
    q = packed(bits.unpack(rows, depth), block)
    scales = np.repeat(scale, q.shape[1])
    arrays = {"q": q, "scales": scales}
    inputs = [constants.initializer(graph, f"{node.name}.{key}", a) for key, a in arrays.items()]
    sizes = {"K": depth, "N": len(q), "bits": BITS, "block_size": block}
    attributes = {**sizes, "accuracy_level": accuracy_level}
    product = ir.node(
        OP, [node.inputs[0], *inputs], attributes=attributes, domain=DOMAIN, name=node.name
    )
    output = product.outputs[0]
    output.type, output.shape = node.outputs[0].type, node.outputs[0].shape
    added = node.inputs[3]
    constants.replace(node, product)
    notes.rule(product, f"{OP} of {BITS} bits")
    if bias.any():
        _add(graph, product, added)


def _add(graph: ir.Graph, product: ir.Node, bias: ir.Value | None) -> None:
    """Put an Add of `bias` behind the node, which everything reads in its place."""
    y = product.outputs[0]
    add = ir.node("Add", [y, bias], name=f"{product.name}.add")
    add.outputs[0].type, add.outputs[0].shape = y.type, y.shape
    readers = [(user, index) for user, index in y.uses() if user is not add]
    graph.insert_after(product, add)
    for user, index in readers:
        user.replace_input_with(index, add.outputs[0])
    if y.is_graph_output():
        name, y.name = y.name, f"{product.name}.product"
        add.outputs[0].name = name
        graph.outputs[list(graph.outputs).index(y)] = add.outputs[0]
