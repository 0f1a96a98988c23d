"""Pass: a convolution over rows [N, C, L] becomes one over images [N, C, 1, L] of height 1.

    Conv(x, w) = Squeeze(Conv(Unsqueeze(x, 2), Unsqueeze(w, 2)), 2)        w [F, C/group, K]

with a kernel [1, K]: the same products in the same order. What works on single numbers, or alike on
all of a channel, does the same to an image, f(Squeeze(y)) = Squeeze(f(y)), so between two such
layers all stays an image.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from bindeploy.convert import binary_weights, constants, dialect, notes, packed_layer
from bindeploy.convert.binarize_layers import refusal
from bindeploy.convert.sign_flow import one_output

HEIGHT = 2
"""The axis that an image has and a row has not."""

POINTWISE = frozenset(
    {
        *("Abs", "BatchNormalization", "Clip", "Dropout", "Elu", "Erf", "Gelu", "HardSigmoid"),
        *("HardSwish", "Identity", "LeakyRelu", "Neg", "Relu", "Round", "Sigmoid", "Sign", "Tanh"),
    }
)
"""Operators of their first input; the others are a number, or a number for each channel."""

PAIRED = frozenset({"Add", "Div", "Max", "Min", "Mul", "PRelu", "Sub"})
"""Operators whose inputs are broadcast to each other."""

POOLS = frozenset({"AveragePool", "MaxPool"})

WINDOW = {"kernel_shape": 1, "strides": 1, "dilations": 1}
"""Attributes that get a number for the new axis in front of their own."""


class WidenOneDimensional(InPlacePass):
    """1. Conv over rows, with weights +-alpha: Unsqueeze, Conv over images, Squeeze.
    2. Pointwise operators, pools, and sums or products with constants, rows or each other, of what
       1 and 2 squeeze: the same over images, then Squeeze.
    3. Concat of such along the channels.

    A Squeeze that nothing reads is dropped.
    """

    def call(self, model: ir.Model) -> PassResult:
        rows = _Rows(model.graph)
        for node in list(model.graph):
            if _is_binary_convolution(node):
                rows.convolve(node)
            else:
                rows.follow(node)
        rows.drop_unread()
        return PassResult(model, bool(rows.images))


def _is_binary_convolution(node: ir.Node) -> bool:
    if (node.domain, node.op_type) != ("", "Conv"):
        return False
    filters = constants.read(node.inputs[1])
    if filters is None or filters.ndim != 3:
        return False
    weight = binary_weights.read(filters)
    return not isinstance(weight, str) and refusal(node.inputs[0], weight) is None


class _Rows:
    """The rows [N, C, L] of a graph that have an image [N, C, 1, L].

    `images` are those that a layer made, `unsqueezed` those that a layer needed.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.images: dict[ir.Value, ir.Value] = {}
        self.unsqueezed: dict[ir.Value, ir.Value] = {}

    @cached_property
    def _axes(self) -> ir.Value:
        return constants.initializer(self.graph, "height", np.array([HEIGHT]))

    def convolve(self, node: ir.Node) -> None:
        """Rule 1."""
        inputs = [self._paired(node, index) for index in (0, 1)]
        self._replace(node, [*inputs, *node.inputs[2:]], _window(node))

    def follow(self, node: ir.Node) -> None:
        """Rules 2 and 3."""
        if not any(value in self.images for value in node.inputs) or not one_output(node):
            return
        key, first = (node.domain, node.op_type), node.inputs[0]
        pointwise = key == (dialect.LATENT, "BinarySign") or (
            node.domain == "" and node.op_type in POINTWISE
        )
        if node.domain == "" and node.op_type in POOLS and first in self.images:
            self._replace(node, [self.images[first]], _window(node))
        elif pointwise and first in self.images:
            self._replace(node, [self.images[first], *node.inputs[1:]], dict(node.attributes))
        elif node.domain == "" and node.op_type in PAIRED and all(map(self._pairs, node.inputs)):
            inputs = [self._paired(node, index) for index in range(len(node.inputs))]
            self._replace(node, inputs, dict(node.attributes))
        elif key == ("", "Concat") and self._joins_images(node):
            inputs = [self._image(value, node) for value in node.inputs if value is not None]
            self._replace(node, inputs, dict(node.attributes))

    def drop_unread(self) -> None:
        """Take away the Squeeze of every image whose row nothing reads."""
        for row in self.images:
            squeeze = row.producer()
            if squeeze is not None and not (row.uses() or row.is_graph_output()):
                self.graph.remove(squeeze, safe=True)

    def _joins_images(self, node: ir.Node) -> bool:
        along_channels = node.attributes.get_int("axis") == 1
        return along_channels and all(value in self.images for value in node.inputs)

    def _pairs(self, value: ir.Value | None) -> bool:
        if value is None or value in self.images:
            return value is not None
        array = constants.read(value)
        return _is_row(value) if array is None else array.ndim <= 3

    def _paired(self, node: ir.Node, index: int) -> ir.Value:
        """Input `index` for images: the image of a row, or a constant with an axis of height 1."""
        value = node.inputs[index]
        assert value is not None, "all inputs pair"
        array = constants.read(value)
        if array is None:
            return self._image(value, node)
        if array.ndim < 2:
            return value
        packed_layer.release(node, index)
        return constants.initializer(self.graph, str(value.name), np.expand_dims(array, -2))

    def _image(self, row: ir.Value, reader: ir.Node) -> ir.Value:
        """The image of a row: one that is there, or an Unsqueeze before its first reader."""
        if row in self.images:
            return self.images[row]
        if row not in self.unsqueezed:
            node = ir.node("Unsqueeze", [row, self._axes], name=f"{reader.name}/unsqueeze")
            node.outputs[0].type, node.outputs[0].shape = row.type, _shape_of_image(row)
            self.graph.insert_before(reader, node)
            self.unsqueezed[row] = node.outputs[0]
        return self.unsqueezed[row]

    def _replace(self, node: ir.Node, inputs: list[Any], attributes: dict[str, Any]) -> None:
        """The node over images and a Squeeze, in the place of the node over rows."""
        row = node.outputs[0]
        wide = ir.node(
            node.op_type, inputs, attributes=attributes, domain=node.domain, name=node.name
        )
        image = wide.outputs[0]
        image.type, image.shape = row.type, _shape_of_image(row)
        squeeze = ir.node("Squeeze", [image, self._axes], name=f"{node.name}/squeeze")
        notes.carry(node, wide)
        ir.convenience.replace_nodes_and_values(
            self.graph, node, [node], [wide, squeeze], [row], squeeze.outputs
        )
        self.images[squeeze.outputs[0]] = image


def _is_row(value: ir.Value) -> bool:
    return value.shape is not None and len(value.shape) == 3


def _shape_of_image(row: ir.Value) -> ir.Shape | None:
    if row.shape is None:
        return None
    sizes = list(row.shape)
    return ir.Shape([*sizes[:HEIGHT], 1, *sizes[HEIGHT:]])


def _window(node: ir.Node) -> dict[str, Any]:
    """The attributes of a window over rows, for images: it is 1 high, and nothing is padded."""
    attributes: dict[str, Any] = dict(node.attributes)
    for name, number in WINDOW.items():
        if name in attributes:
            attributes[name] = [number, *attributes[name].as_ints()]
    if "pads" in attributes:
        before, after = attributes["pads"].as_ints()
        attributes["pads"] = [0, before, 0, after]
    return attributes
