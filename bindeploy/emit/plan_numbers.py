"""Numbers that a graph computes from shapes, for one image: what Reshape asks for, or sqrt(d).

The number of images is NaN, and so is whatever is computed from it; as an integer that is -1, which
Reshape takes for what is left.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bindeploy.emit.plan_builder import Builder, View, constant_array, operand
from bindeploy.emit.plan_strided import BATCH, of_view

Numbers = NDArray[np.float64]


def _gather(node: ir.Node, x: Numbers, indices: Numbers) -> Numbers:
    return np.take(x, indices.astype(np.int64), axis=node.attributes.get_int("axis", 0))


def _slice(node: ir.Node, x: Numbers, *_: Numbers) -> Numbers:
    start, end, _axis, step = (_integers(node, index) for index in (1, 2, 3, 4))
    assert start is not None and end is not None
    return x[start.item() : end.item() : 1 if step is None else step.item()]


def _integers(node: ir.Node, index: int) -> NDArray | None:
    """A bound of a slice, exactly: it can be the largest integer there is."""
    return constant_array(operand(node, index))


_COMPUTED: dict[str, Callable[..., Numbers]] = {
    "Add": lambda node, x, y: x + y,
    "Sub": lambda node, x, y: x - y,
    "Mul": lambda node, x, y: x * y,
    "Div": lambda node, x, y: x / y,
    "Pow": lambda node, x, y: x**y,
    "Sqrt": lambda node, x: np.sqrt(x),
    "Reciprocal": lambda node, x: 1 / x,
    "Cast": lambda node, x: x,
    "Identity": lambda node, x: x,
    "Squeeze": lambda node, x, *axes: x.reshape(()),
    "Unsqueeze": lambda node, x, *axes: x.reshape(1),
    "Concat": lambda node, *parts: np.concatenate(parts),
    "Gather": _gather,
    "Slice": _slice,
}


def computed(graph: ir.Graph) -> set[ir.Value]:
    """The values that are computed from shapes and constants alone."""
    found: set[ir.Value] = set()
    for node in graph:
        inputs = [value for value in node.inputs if value is not None]
        numbers = [value in found for value in inputs]
        known = all(is_number or constant_array(value) is not None
                    for value, is_number in zip(inputs, numbers, strict=True))  # fmt: skip
        counts = any(numbers) or node.op_type == "Identity"
        if node.op_type == "Shape" or (node.op_type in _COMPUTED and known and counts):
            found.update(node.outputs)
    return found


def settle(builder: Builder, node: ir.Node, numbers: set[ir.Value]) -> None:
    """Make constants of what a node reads of `numbers`."""
    for value in node.inputs:
        if value in numbers and value is not None and value.const_value is None:
            array = _value_of(builder, value)
            integers = np.where(np.isnan(array), -1, array).astype(np.int64)
            whole = value.dtype != ir.DataType.FLOAT and (integers == array)[array == array].all()
            value.const_value = ir.tensor(integers if whole else array.astype(np.float32))


def _value_of(builder: Builder, value: ir.Value) -> Numbers:
    constant = constant_array(value)
    if constant is not None:
        return constant.astype(np.float64)
    node = value.producer()
    assert node is not None
    if node.op_type == "Shape":
        sizes = _sizes(builder, node)
        end = node.attributes.get_int("end", len(sizes))
        return np.array(sizes[node.attributes.get_int("start", 0) : end])
    inputs = [_value_of(builder, given) for given in node.inputs if given is not None]
    result = _COMPUTED[node.op_type](node, *inputs)
    integral = node.op_type == "Div" and node.outputs[0].dtype == ir.DataType.INT64
    return np.floor(result) if integral else result


def _sizes(builder: Builder, node: ir.Node) -> list[float]:
    """The shape of what a Shape node reads, NaN where it depends on the number of images."""
    value = operand(node, 0)
    seen = builder.views.get(value) if value is not None else None
    if seen is not None:
        x = of_view(seen) if isinstance(seen, View) else seen
        sizes = zip(x.axes, x.shape, strict=True)
        return [float("nan") if BATCH in axis else float(size) for axis, size in sizes]
    noted = value.shape if value is not None else None
    return [float(size) if isinstance(size, int) else float("nan") for size in noted or ()]
