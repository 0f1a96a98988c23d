"""A plan in the making: what the lowering of one ONNX node reads and writes.

Inside the plan a picture is NHWC and has one or two representations: its floats, and its signs as
packed bits. An ONNX value that a threshold produced has signs alone, one that a float op produced
has floats alone; the other one is inserted by the first node that reads it, once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bindeploy.emit.plan_format import TYPE_OF, Node, Shape, Tensor, Type
from bindeploy.errors import BindeployError

GIVES_BITS = {"binarize", "binary_conv_threshold", "binary_max_pool"}
CLAMPS = {"binary_conv", "binary_weight_conv", "conv", "affine", "add", "clip"}
"""Ops that hold their result in [minimum, maximum]."""
UNCLAMPED = {"minimum": -math.inf, "maximum": math.inf}


def refusal(node: ir.Node, why: str) -> BindeployError:
    """Error about one node of the model: ``Conv `stem`: why``."""
    return BindeployError(f"{node.op_type} `{name_of(node)}`: {why}")


def name_of(node: ir.Node) -> str:
    """A node's name, or its first output's where it has none."""
    return node.name or node.outputs[0].name or node.op_type


def operand(node: ir.Node, index: int) -> ir.Value | None:
    """Input `index` of a node, None where it is absent."""
    return node.inputs[index] if index < len(node.inputs) else None


def constant_array(value: ir.Value | None) -> NDArray | None:
    """What an initializer or a Constant node holds; None for anything else."""
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


@dataclass
class Activation:
    """One picture of `shape` (C, H, W) in the plan, and the tensors that hold it.

    `floats` is exact, `signs` tells floats >= 0; at least one is there. `readers` counts the node
    inputs and graph outputs that read it in the ONNX graph.
    """

    name: str
    shape: tuple[int, int, int]
    readers: int
    floats: int | None = None
    signs: int | None = None

    @property
    def features(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class View:
    """An ONNX value: an activation seen as [N, C, H, W] or, `flat`, as [N, C * H * W]."""

    activation: Activation
    flat: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The ONNX shape after N."""
        activation = self.activation
        return (activation.features,) if self.flat else activation.shape


class Builder:
    """The tensors and nodes of a plan, in the order they run."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.nodes: list[Node] = []
        self.views: dict[ir.Value, View] = {}
        self._constants: dict[tuple[Shape, Type, bytes], int] = {}
        self._makers: dict[int, Node] = {}

    def view(self, node: ir.Node, index: int) -> View:
        """The activation that input `index` of a node reads."""
        value = operand(node, index)
        if value is None:
            raise refusal(node, f"input {index} is missing")
        if value not in self.views:
            raise refusal(
                node, f"it reads `{value.name}`, a constant or a side output, for an activation"
            )
        return self.views[value]

    def picture(self, node: ir.Node, index: int = 0) -> View:
        """The same, which must be [N, C, H, W]."""
        view = self.view(node, index)
        if view.flat:
            raise refusal(node, f"its input is {_written(view)}; it takes [N, C, H, W]")
        return view

    def vector(self, node: ir.Node, index: int = 0) -> View:
        """The same, which must be [N, features]."""
        view = self.view(node, index)
        if not view.flat:
            raise refusal(node, f"its input is {_written(view)}; it takes [N, features]")
        return view

    def array(self, node: ir.Node, index: int) -> NDArray:
        """The constant that input `index` of a node must be."""
        array = constant_array(operand(node, index))
        if array is None:
            raise refusal(node, f"input {index} must be a constant")
        return array

    def constant(self, array: NDArray, name: str) -> int:
        """Tensor of a constant; equal constants are one. Shape [n] becomes [n, 1, 1, 1]."""
        array = np.ascontiguousarray(array)
        kind = TYPE_OF[array.dtype.name]
        rows, height, width, depth = (*array.shape, 1, 1, 1)[:4]
        shape = (rows, height, width, depth)
        key = (shape, kind, array.astype(array.dtype.newbyteorder("<")).tobytes())
        if key not in self._constants:
            self._constants[key] = self.tensor(Tensor(name, kind, shape, constant=key[2]))
        return self._constants[key]

    def tensor(self, tensor: Tensor) -> int:
        """Add a tensor and return its number."""
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def add(self, node: Node) -> int:
        """Add a node and return the tensor it writes."""
        self.nodes.append(node)
        self._makers[node.output] = node
        return node.output

    def floats(self, view: View, reader: str) -> int:
        """Tensor with the floats of a view, unpacked from its signs if need be."""
        activation = view.activation
        if activation.floats is None:
            assert activation.signs is not None
            activation.floats = self._other(activation, Type.F32, activation.signs, reader)
        return activation.floats

    def signs(self, view: View, reader: str) -> int:
        """Tensor with the signs of a view as bits, binarized if need be."""
        activation = view.activation
        if activation.signs is None:
            assert activation.floats is not None
            activation.signs = self._other(activation, Type.BITS, activation.floats, reader)
        return activation.signs

    def _other(self, activation: Activation, kind: Type, source: int, reader: str) -> int:
        op = "binarize" if kind is Type.BITS else "unpack"
        name = f"{reader}/{op}"
        output = self.tensor(Tensor(name, kind, nhwc(activation.shape)))
        return self.add(Node(op, name, (source,), output))

    def result(
        self,
        node: ir.Node,
        op: str,
        inputs: tuple[int, ...],
        shape: tuple[int, int, int],
        flat: bool = False,
        **settings,
    ) -> View:
        """Add the plan's node for an ONNX node, with an output picture of (C, H, W) `shape`."""
        kind = Type.BITS if op in GIVES_BITS else Type.F32
        name = node.outputs[0].name or name_of(node)
        output = self.tensor(Tensor(name, kind, nhwc(shape)))
        if op in CLAMPS:
            settings = UNCLAMPED | settings
        self.add(Node(op, name_of(node), inputs, output, **settings))
        return self.held_by(node, output, shape, flat)

    def held_by(
        self, node: ir.Node, tensor: int, shape: tuple[int, int, int], flat: bool = False
    ) -> View:
        """What an ONNX node gives, as a new activation that `tensor` holds."""
        name = self.tensors[tensor].name
        activation = Activation(name, shape, readers(node.outputs[0]))
        if self.tensors[tensor].type is Type.BITS:
            activation.signs = tensor
        else:
            activation.floats = tensor
        return View(activation, flat)

    def alias(self, node: ir.Node, view: View, flat: bool) -> View:
        """What an ONNX node gives that moves no data: its readers are readers of the activation."""
        view.activation.readers += readers(node.outputs[0]) - 1
        return View(view.activation, flat)

    def maker(self, view: View, ops: set[str]) -> Node | None:
        """The node that made a view, if it is one of `ops` and nothing else will read the view."""
        activation = view.activation
        if activation.floats is None or activation.signs is not None or activation.readers != 1:
            return None
        made_by = self._makers.get(activation.floats)
        return made_by if made_by is not None and made_by.op in ops else None


def readers(value: ir.Value) -> int:
    """How many node inputs and graph outputs read a value."""
    return len(value.uses()) + value.is_graph_output()


def nhwc(shape: tuple[int, int, int]) -> Shape:
    """[1, H, W, C] of (C, H, W)."""
    channels, height, width = shape
    return (1, height, width, channels)


def _written(view: View) -> str:
    return f"[N, {', '.join(map(str, view.shape))}]"
