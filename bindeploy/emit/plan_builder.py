"""A plan in the making: what the lowering of one ONNX node reads and writes.

Inside the plan a picture is NHWC and has one or two representations: its floats, and its signs as
packed bits. An ONNX value that a threshold produced has signs alone, one that a float op produced
has floats alone; the other one is inserted by the first node that reads it, once.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bindeploy.emit.plan_format import TYPE_OF, Node, Shape, Tensor, Type
from bindeploy.emit.plan_layout import Layout
from bindeploy.emit.plan_strided import BATCH, Run, Strided, of_view
from bindeploy.emit.plan_views import Activation, View, nhwc, written
from bindeploy.errors import BindeployError

GIVES_BITS = {
    "binarize",
    "binarize_planes",
    "binary_conv_threshold",
    "binary_max_pool",
    "int8_conv_threshold",
    "saturating_conv_threshold",
}
RESIDUALS = {
    "binary_conv": 4,
    "binary_weight_conv": 4,
    "saturating_conv": 4,
    "conv": 3,
    "binary_weight_int8_conv": 5,
    "int8_conv": 5,
}
"""Layers that give floats, and the input that they add to them; the next one rectifies them."""
CLAMPS = {*RESIDUALS, "affine", "add", "clip", "prelu"}
"""Ops that hold their result in [minimum, maximum]."""
BATCHLESS = 6
"""Runs of one rearrange of the plan."""
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


class Builder:
    """The tensors and nodes of a plan, in the order they run."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.nodes: list[Node] = []
        self.views: dict[ir.Value, View | Strided] = {}
        self._constants: dict[tuple[Shape, Type, bytes], int] = {}
        self._makers: dict[int, Node] = {}

    def view(self, node: ir.Node, index: int) -> View:
        """The activation that input `index` of a node reads, as a picture."""
        self.seen(node, index)
        value = operand(node, index)
        assert value is not None
        return self.picture_of(value, node)

    def picture_of(self, value: ir.Value, node: ir.Node) -> View:
        """The picture that `node` makes or reads as `value`; copied in order if it is none."""
        seen = self.views[value]
        if isinstance(seen, View):
            return seen
        if seen.axes[0] != (BATCH,) or not 1 < len(seen.axes) <= 4:
            raise refusal(
                node,
                f"`{value.name}` has {len(seen.axes)} axes; the runtime takes up to four, N first",
            )
        view = self.in_order(seen, name_of(node), readers(value)).view()
        assert view is not None
        self.views[value] = view
        return view

    def rank(self, value: ir.Value) -> int:
        """How many axes a value has, N included."""
        seen = self.views[value]
        return 1 + len(seen.shape) if isinstance(seen, View) else len(seen.axes)

    def strided(self, node: ir.Node, index: int) -> Strided:
        """The same as steps, whatever its order."""
        seen = self.seen(node, index)
        return of_view(seen) if isinstance(seen, View) else seen

    def seen(self, node: ir.Node, index: int) -> View | Strided:
        """The activation that input `index` of a node reads, as it is known."""
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
        return self._written_as(node, index, "[N, C, H, W]", Layout.CHW)

    def channels_first(self, node: ir.Node, index: int = 0) -> View:
        """The same, which must be [N, C, H, W], or [N, C, W] for a picture of height 1."""
        return self._written_as(node, index, "[N, C, H, W] or [N, C, W]", Layout.CHW, Layout.CW)

    def vector(self, node: ir.Node, index: int = 0) -> View:
        """The same, which must be [N, features]."""
        return self._written_as(node, index, "[N, features]", Layout.FLAT, Layout.FLAT_LAST)

    def last_as_channels(self, node: ir.Node, index: int = 0) -> View:
        """The same with its last axis as channels: [N, C], [N, W, C] or [N, H, W, C]."""
        return self.turned(self.view(node, index), node)

    def turned(self, view: View, node: ir.Node) -> View:
        """A view whose last axis is the channels; for `node`, a copy where it is not."""
        one_pixel = math.prod(view.activation.shape[1:]) == 1
        if one_pixel if view.flat else view.layout.axes.endswith("C"):
            return view
        view.activation.readers += 1
        copy = self.in_order(of_view(view), name_of(node), 1).view()
        assert copy is not None
        return copy

    def _written_as(self, node: ir.Node, index: int, form: str, *layouts: Layout) -> View:
        view = self.view(node, index)
        if view.layout not in layouts:
            order = ", channels last" if view.layout.axes.startswith(("H", "W")) else ""
            raise refusal(node, f"its input is {written(view)}{order}; it takes {form}")
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
        inputs: tuple[int | None, ...] = (source,)
        made_by = self._makers.get(source)
        if op == "binarize" and made_by is not None and made_by.op == "to_nhwc":
            op, inputs = "binarize_planes", made_by.inputs
        name = f"{reader}/{op}"
        output = self.tensor(Tensor(name, kind, nhwc(activation.shape)))
        return self.add(Node(op, name, inputs, output))

    def result(
        self,
        node: ir.Node,
        op: str,
        inputs: tuple[int | None, ...],
        shape: tuple[int, int, int],
        layout: Layout = Layout.CHW,
        **settings,
    ) -> View:
        """Add the plan's node for an ONNX node, with an output picture of (C, H, W) `shape`."""
        kind = Type.BITS if op in GIVES_BITS else Type.F32
        name = node.outputs[0].name or name_of(node)
        output = self.tensor(Tensor(name, kind, nhwc(shape)))
        if op in CLAMPS:
            settings = UNCLAMPED | settings
        self.add(Node(op, name_of(node), inputs, output, **settings))
        return self.held_by(node, output, shape, layout)

    def held_by(
        self,
        node: ir.Node,
        tensor: int,
        shape: tuple[int, int, int],
        layout: Layout = Layout.CHW,
    ) -> View:
        """What an ONNX node gives, as a new activation that `tensor` holds."""
        name = self.tensors[tensor].name
        activation = Activation(name, shape, readers(node.outputs[0]))
        if self.tensors[tensor].type is Type.BITS:
            activation.signs = tensor
        else:
            activation.floats = tensor
        return View(activation, layout)

    def in_order(self, x: Strided, name: str, count: int) -> Strided:
        """A copy for `count` readers whose elements stand in order."""
        runs = (*[Run(1, 0)] * BATCHLESS, *(run for run in x.runs if run != BATCH))[-BATCHLESS:]
        if sum(run != BATCH for run in x.runs) > BATCHLESS:
            raise BindeployError(f"`{name}`: it reads elements in an order of more than six steps")
        shape = [*(run.size for run in runs), *(run.step for run in runs), x.first]
        picture = x.picture()
        output = self.tensor(Tensor(f"{name}/in_order", Type.F32, nhwc(picture)))
        inputs = (
            self.floats(View(x.activation), name),
            self.constant(np.array(shape, np.int32), f"{name}/steps"),
            self.constant(np.array([x.factor], np.float32), f"{name}/factor"),
        )
        self.add(Node("rearrange", f"{name}/in_order", inputs, output))
        return x.in_order(Activation(f"{name}/in_order", picture, count, floats=output))

    def moved(self, node: ir.Node, *parts: Strided) -> list[View | Strided]:
        """What the outputs of an ONNX node are that moves no data: pictures where they can be."""
        parts[0].activation.readers += sum(map(readers, node.outputs)) - 1
        return [part.view() or part for part in parts]

    def alias(self, node: ir.Node, view: View, layout: Layout) -> View:
        """What an ONNX node gives that moves no data: its readers are readers of the activation."""
        view.activation.readers += readers(node.outputs[0]) - 1
        return View(view.activation, layout)

    def maker(self, view: View, ops: set[str]) -> Node | None:
        """The node that made a view, if it is one of `ops` and nothing else will read the view."""
        activation = view.activation
        if activation.floats is None or activation.signs is not None or activation.readers != 1:
            return None
        made_by = self._makers.get(activation.floats)
        return made_by if made_by is not None and made_by.op in ops else None

    def put_off(self, node: Node) -> None:
        """Let a node run after all that there are; nothing may have read its output."""
        self.nodes.remove(node)
        self.nodes.append(node)

    def drop_unread(self, op: str, output: int) -> None:
        """Take out the nodes of an op whose output neither a node nor the plan's caller reads."""
        read = {tensor for node in self.nodes for tensor in node.inputs} | {output}
        self.nodes = [node for node in self.nodes if node.op != op or node.output in read]

    def forget_unused(self, *kept: int) -> list[int]:
        """Leave out tensors that no node reads or writes, except `kept`; their numbers now."""
        read = {tensor for node in self.nodes for tensor in (*node.inputs, node.output)}
        used = [tensor for tensor in range(len(self.tensors)) if tensor in read or tensor in kept]
        number = {tensor: index for index, tensor in enumerate(used)}
        self.tensors = [self.tensors[tensor] for tensor in used]
        for node in self.nodes:
            node.inputs = tuple(
                None if tensor is None else number[tensor] for tensor in node.inputs
            )
            node.output = number[node.output]
        return [number[tensor] for tensor in kept]

    def drop(self, node: Node) -> None:
        """Take a node out again; nothing may have read its output."""
        self.nodes.remove(node)


def readers(value: ir.Value) -> int:
    """How many node inputs and graph outputs read a value."""
    return len(value.uses()) + value.is_graph_output()
