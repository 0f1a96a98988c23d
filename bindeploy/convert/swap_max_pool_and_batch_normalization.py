"""Pass: a max pool between a binary layer and a binarization pools bits.

A batch normalization is monotone in each channel, x -> slope * x + shift, also in floats, so

    sign(BN(MaxPool(x)))  =      MaxPool( sign(BN(x)))   where slope >= 0
                          =     -MaxPool(-sign(BN(x)))   where slope < 0   (a minimum)

which is BinaryMaxPool2d(BN(x), direction) with direction = 1 or -1. The normalization now follows
its binary layer at once and can become a threshold.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import InPlacePass, PassResult

from bindeploy.convert import batch_normalization, constants, dialect
from bindeploy.convert.sign_flow import one_output, only_consumer, only_signs_are_read


class SwapMaxPoolAndBatchNormalization(InPlacePass):
    """1. BinaryConv2d -> MaxPool -> BatchNormalization, of which only signs are read:
       BinaryConv2d -> BatchNormalization -> BinaryMaxPool2d(direction = sign of the slope).
    2. BinaryConv2d [-> BatchNormalization] -> MaxPool, of which only signs are read:
       the pool becomes BinaryMaxPool2d(direction = 1).

    Either only where the convolution feeds nothing else, so that its floats vanish altogether.
    """

    def call(self, model: ir.Model) -> PassResult:
        modified = False
        for node in list(model.graph):
            if not _is_plain_pool(node):
                continue
            modified |= _swap(model.graph, node) or _pool_bits(model.graph, node)
        return PassResult(model, modified)


def _is_plain_pool(node: ir.Node) -> bool:
    """MaxPool over two axes with explicit pads, no dilation, sizes rounded down."""
    if node.domain != "" or node.op_type != "MaxPool" or not one_output(node):
        return False
    given = node.attributes
    return (
        len(given.get_ints("kernel_shape", [])) == 2
        and given.get_string("auto_pad", "NOTSET") == "NOTSET"
        and given.get_int("ceil_mode", 0) == 0
        and set(given.get_ints("dilations", [1])) == {1}
    )


def _filters(value: ir.Value | None) -> int | None:
    """How many channels `value` has, when a packed BinaryConv2d makes it for one node."""
    if value is None or only_consumer(value) is None:
        return None
    producer = value.producer()
    if (
        producer is None
        or dialect.op_of(producer) is not dialect.OPS[dialect.DOMAIN, "BinaryConv2d"]
    ):
        return None
    bits = constants.read(producer.inputs[1])
    return None if bits is None else bits.shape[0]


def _pool(graph: ir.Graph, pool: ir.Node, x: ir.Value, direction: NDArray[np.int8]) -> ir.Node:
    """BinaryMaxPool2d with the geometry of `pool`."""
    value = constants.initializer(graph, f"{pool.name}.direction", direction)
    geometry = {
        "kernel_shape": pool.attributes.get_ints("kernel_shape"),
        "strides": pool.attributes.get_ints("strides", [1, 1]),
        "pads": pool.attributes.get_ints("pads", [0, 0, 0, 0]),
    }
    return ir.node(
        "BinaryMaxPool2d", [x, value], attributes=geometry, domain=dialect.DOMAIN, name=pool.name
    )


def _swap(graph: ir.Graph, pool: ir.Node) -> bool:
    """Rule 1."""
    normalization = batch_normalization.following(pool.outputs[0])
    if normalization is None or not only_signs_are_read(normalization.output):
        return False
    x = pool.inputs[0]
    if x is None or _filters(x) is None:
        return False
    node = normalization.node
    direction = np.where(normalization.slope < 0, -1, 1).astype(np.int8)
    moved = ir.node(
        "BatchNormalization", [x, *node.inputs[1:]], attributes=node.attributes, name=node.name
    )
    moved.outputs[0].name = f"{node.outputs[0].name}.unpooled"
    moved.outputs[0].type, moved.outputs[0].shape = x.type, x.shape
    pooled = _pool(graph, pool, moved.outputs[0], direction)
    ir.convenience.replace_nodes_and_values(
        graph, node, [node], [moved, pooled], node.outputs[:1], pooled.outputs
    )
    graph.remove(pool, safe=True)
    return True


def _pool_bits(graph: ir.Graph, pool: ir.Node) -> bool:
    """Rule 2."""
    x = pool.inputs[0]
    if x is None or only_consumer(x) is None or not only_signs_are_read(pool.outputs[0]):
        return False
    producer = x.producer()
    normalized = producer is not None and batch_normalization.read(producer) is not None
    filters = _filters(producer.inputs[0] if producer is not None and normalized else x)
    if filters is None:
        return False
    constants.replace(pool, _pool(graph, pool, x, np.ones(filters, np.int8)))
    return True
