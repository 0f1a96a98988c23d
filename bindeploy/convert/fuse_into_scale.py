"""Pass: affine functions of one channel that follow a layer go into its constants.

For f(y) = slope * y + shift, or several of them in a row, in float64, rounded to float32 once:

    binary layer         f(scale * dot + bias) = (slope * scale) * dot + f(bias)
    Conv, Gemm, MatMul   f(W x + bias)         = (slope * W) x         + f(bias)
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import InPlacePass, PassResult

from bindeploy.convert import channelwise, constants, dialect, notes
from bindeploy.convert.chains import Step, follow
from bindeploy.convert.channelwise import Function, Layout
from bindeploy.convert.layer_outputs import layout_of
from bindeploy.convert.packed_layer import release


class FuseIntoScale(InPlacePass):
    """1. BinaryConv2d, BinaryLinear, also those that saturate, BinaryWeightConv2d,
       BinaryWeightLinear -> affine functions
    2. Conv -> affine functions
    3. Gemm -> affine functions
    4. MatMul by a constant matrix -> affine functions: a MatMul without a shift; Gemm with one,
       where x is a matrix.

    Moves may stand between, and stay. Only where nothing else reads a value on the way, where
    weight and bias are constant, and as far as the new constants are finite.
    """

    def call(self, model: ir.Model) -> PassResult:
        modified = False
        for node in list(model.graph):
            layer = _read(node)
            if layer is not None:
                modified |= _fuse(model.graph, layer)
        return PassResult(model, modified)


@dataclass(frozen=True)
class _Layer:
    """y = factor * (...) + bias[F]; the filters lie along `axis` of the factor, and in y so."""

    node: ir.Node
    layout: Layout
    factor: NDArray
    axis: int
    bias: NDArray[np.float64]

    def has_room(self, slope: NDArray[np.float64], bias: NDArray[np.float64]) -> bool:
        """Whether the layer can have these constants: finite, and a bias where it takes one."""
        if self.node.op_type == "MatMul" and self.layout.rank != 2 and bias.any():
            return False
        others = tuple(axis for axis in range(self.factor.ndim) if axis != self.axis)
        largest = np.abs(self.factor).max(axis=others, initial=0) * np.abs(slope)
        limit = np.finfo(np.float32).max
        return bool((largest <= limit).all() and (np.abs(bias) <= limit).all())


def _read(node: ir.Node) -> _Layer | None:
    """The layer of one of the rules; None for any other node."""
    op = dialect.op_of(node)
    if op is not None:
        if op.domain != dialect.DOMAIN or not {"bits", "scale"} <= set(op.inputs):
            return None
        scale, bias = (constants.read(value) for value in node.inputs[2:])
        assert scale is not None and bias is not None, "verified"
        return _Layer(node, layout_of(node), scale, 0, bias.astype(np.float64))
    if node.domain != "" or node.op_type not in ("Conv", "Gemm", "MatMul"):
        return None
    weight = constants.read(node.inputs[1])
    if weight is None or weight.dtype != np.float32 or weight.ndim < 2:
        return None
    if node.op_type == "Conv":
        layout, axis = Layout.fresh(weight.ndim, 1 - weight.ndim, len(weight)), 0
    elif weight.ndim > 2:
        return None
    else:
        axis = 0 if node.attributes.get_int("transB", 0) else 1
        shape = node.outputs[0].shape
        rank = 2 if node.op_type == "Gemm" else None if shape is None else len(shape)
        layout = Layout.fresh(rank, -1, weight.shape[axis])
    bias = _bias(node, layout)
    return None if bias is None else _Layer(node, layout, weight, axis, bias)


def _bias(node: ir.Node, layout: Layout) -> NDArray[np.float64] | None:
    """float64 [F]: the third input, zeros where absent; None where it is no such constant."""
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return np.zeros(layout.size)
    bias = constants.read(node.inputs[2])
    if bias is None or bias.ndim > 1:
        return None
    factor = node.attributes.get_float("beta", 1.0)
    return factor * np.broadcast_to(bias, layout.size).astype(np.float64)


def _fuse(graph: ir.Graph, layer: _Layer) -> bool:
    slope, bias = np.ones(layer.layout.size), layer.bias
    taken: list[Function] = []
    steps = follow(layer.node.outputs[0], layer.layout)
    for step in takewhile(_is_affine_or_moves, steps):
        if not isinstance(step, Function):
            continue
        assert step.slope is not None, "affine"
        with np.errstate(all="ignore"):
            steeper, moved = slope * step.slope[:, 0], step.in_double(bias[:, None])[:, 0]
        if not layer.has_room(steeper, moved):
            break
        slope, bias = steeper, moved
        taken.append(step)
    names = [str(step.node.name) for step in taken if not step.changes_nothing]
    if not names:
        return False
    for step in reversed(taken):
        channelwise.bypass(step)
    notes.rule(_write(graph, layer, slope, bias), f"{' and '.join(names)} in its scale and bias")
    return True


def _is_affine_or_moves(step: Step) -> bool:
    if isinstance(step, Function):
        return step.slope is not None
    return step.node.op_type not in ("Concat", "MaxPool")


def _write(
    graph: ir.Graph, layer: _Layer, slope: NDArray[np.float64], bias: NDArray[np.float64]
) -> ir.Node:
    """The layer again, with its new constants, in the place of the old one."""
    node, shape = layer.node, [1] * layer.factor.ndim
    shape[layer.axis] = -1
    arrays = {"weight": layer.factor * slope.reshape(shape), "bias": bias}
    if node.domain == dialect.DOMAIN:
        arrays = {"scale": arrays["weight"], "bias": bias}
    op_type, attributes = node.op_type, dict(node.attributes)
    attributes.pop("beta", None)
    if op_type == "MatMul" and bias.any():
        op_type = "Gemm"
    elif op_type == "MatMul":
        del arrays["bias"]
    kept = 2 if node.domain == dialect.DOMAIN else 1
    for index in range(kept, len(node.inputs)):
        release(node, index)
    folded = [
        constants.initializer(graph, f"{node.name}.{name}", array.astype(np.float32))
        for name, array in arrays.items()
    ]
    inputs = [*node.inputs[:kept], *folded]
    fused = ir.node(op_type, inputs, attributes=attributes, domain=node.domain, name=node.name)
    constants.replace(node, fused)
    return fused
