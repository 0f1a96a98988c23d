"""How graphs spell a sign in standard operators, and which values are one.

A value that is computed from x by comparisons with 0 and by constants takes one number wherever
x < 0, one where x = 0 and one wherever x > 0. Carrying these three numbers through the operators

    Sign(Add(Sign(x), 0.1))                      -1,  1, 1
    Sub(Mul(Cast(GreaterOrEqual(x, 0)), 2), 1)   -1,  1, 1
    Sign(x)                                      -1,  0, 1
    Where(Greater(x, 0), 1, -1)                  -1, -1, 1

reads every spelling without a list of them: the meaning of a graph is its numbers, not its form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bindeploy.convert import constants, dialect

COMPARISONS: Mapping[str, Callable[..., NDArray]] = {
    "Equal": np.equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
}
POINTWISE: Mapping[str, Callable[..., NDArray]] = {
    **COMPARISONS,
    "Abs": np.abs,
    "Add": np.add,
    "And": np.logical_and,
    "Div": np.divide,
    "Identity": np.array,
    "Mul": np.multiply,
    "Neg": np.negative,
    "Not": np.logical_not,
    "Or": np.logical_or,
    "Sign": np.sign,
    "Sub": np.subtract,
    "Where": np.where,
    "Xor": np.logical_xor,
}
"""Operators that numpy computes number by number as ONNX does (Div of floats alone)."""

SIDES = np.array([-1.0, 0.0, 1.0], np.float32)
"""A number below 0, 0, and a number above it."""


NUMBERS = "fiub"
"""The kinds of numpy's types that are read: floats, integers and booleans."""


@dataclass(frozen=True)
class Spelling:
    """`numbers` [3]: what the value is where x < 0, where x = 0 and where x > 0.

    `x` is None for one number everywhere. What is said of 0 holds of -0; of NaN nothing is said.
    `like` are the values of whose shapes the constants are that took part, where not of one number.
    """

    x: ir.Value | None
    numbers: NDArray
    like: frozenset[ir.Value] = frozenset()

    @property
    def is_sign(self) -> bool:
        """Whether it is c where x > 0 and -c where x < 0, c a finite float other than 0."""
        below, _, above = self.numbers
        floats = self.x is not None and self.numbers.dtype.kind == "f"
        return bool(floats and np.isfinite(above) and above == -below != 0)


Spellings = Mapping[ir.Value, Spelling]


def read(graph: ir.Graph) -> Spellings:
    """The spelling of every value of the graph that has one; in time linear in the graph."""
    found: dict[ir.Value, Spelling] = {}
    for node in graph:
        spelling = _read(node, found)
        if spelling is not None:
            found[node.outputs[0]] = spelling
    return found


def has_shape_of_x(spelling: Spelling, spellings: Spellings) -> bool:
    """Whether the value is as large as its x: no constant that took part may be larger."""
    x = spelling.x
    for value in spelling.like:
        found = spellings.get(value)
        if value is x or (found is not None and found.x is x and not found.like):
            continue
        if x is None or not broadcasts(value.shape, x.shape):
            return False
    return True


def broadcasts(shape: ir.Shape | None, to: ir.Shape | None) -> bool:
    """Whether a value of that shape, met by one of shape `to`, is known not to enlarge it.

    An unknown size equals another of the same name alone.
    """
    if shape is None or to is None or len(shape) > len(to):
        return False
    pairs = zip(reversed(tuple(shape)), reversed(tuple(to)), strict=False)
    return all(size == 1 or (size == other != ir.SymbolicDim(None)) for size, other in pairs)


def _read(node: ir.Node, known: Spellings) -> Spelling | None:
    if (node.domain, node.op_type) == (dialect.LATENT, "BinarySign"):
        x = node.inputs[0]
        inner = Spelling(x, SIDES) if x is None else known.get(x, Spelling(x, SIDES))
        signs = np.where(inner.numbers >= 0, 1, -1).astype(np.float32)
        return Spelling(inner.x, signs, inner.like)
    inputs = [value for value in node.inputs if value is not None]
    if node.domain != "" or len(node.outputs) != 1 or len(inputs) < len(node.inputs):
        return None
    if node.op_type == "ConstantOfShape":
        return _constant_of_shape(node)
    if node.op_type in ("Expand", "CastLike"):
        del inputs[1:]
    elif node.op_type != "Cast" and node.op_type not in POINTWISE:
        return None
    given = [known.get(value) or _constant(value) for value in inputs]
    spellings = [spelling for spelling in given if spelling is not None]
    if not spellings or len(spellings) < len(given):
        return _compare(node, given)
    if node.op_type == "Expand":
        (inner,) = spellings
        return Spelling(None, inner.numbers, _shape_of(node)) if inner.x is None else None
    sources = {spelling.x for spelling in spellings if spelling.x is not None}
    numbers = _numbers(node, [spelling.numbers for spelling in spellings])
    if len(sources) > 1 or numbers is None:
        return None
    like = frozenset().union(*(spelling.like for spelling in spellings))
    return Spelling(next(iter(sources), None), numbers, like)


def _compare(node: ir.Node, given: list[Spelling | None]) -> Spelling | None:
    """Sign(x), and the comparison of x with 0 on either side."""
    if node.op_type == "Sign":
        return Spelling(node.inputs[0], SIDES)
    if node.op_type not in COMPARISONS or len(given) != 2:
        return None
    zero = given[1] if given[0] is None else given[0]
    if zero is None or zero.x is not None or zero.numbers.any():
        return None
    sides = COMPARISONS[node.op_type](*(SIDES if side is None else 0 for side in given))
    return Spelling(node.inputs[given.index(None)], sides, zero.like)


def _numbers(node: ir.Node, given: list[NDArray]) -> NDArray | None:
    """What the operator makes of its inputs' numbers; None where numpy knows no such sum."""
    try:
        with np.errstate(all="ignore"):
            if node.op_type in ("Cast", "CastLike"):
                to = node.attributes.get_int("to", node.outputs[0].dtype or 0)
                cast = given[0].astype(ir.DataType(to).numpy())
                return cast if cast.dtype.kind in NUMBERS else None
            if node.op_type == "Div" and any(array.dtype.kind != "f" for array in given):
                return None
            return POINTWISE[node.op_type](*given)
    except (TypeError, ValueError):
        return None


def _constant(value: ir.Value) -> Spelling | None:
    """A tensor of one number, however often."""
    array = constants.read(value)
    if array is None or array.dtype.kind not in NUMBERS or not array.size:
        return None
    first, ends = array.flat[0], (array.flat[array.size // 2], array.flat[-1])
    if any(number != first for number in ends) or (array != first).any():
        return None
    like = frozenset[ir.Value]() if array.ndim < 2 and array.size == 1 else frozenset({value})
    return Spelling(None, np.full(3, first), like)


def _constant_of_shape(node: ir.Node) -> Spelling:
    given = node.attributes.get("value")
    number = np.float32(0) if given is None else given.as_tensor().numpy().reshape(-1)[0]
    return Spelling(None, np.full(3, number), _shape_of(node))


def _shape_of(node: ir.Node) -> frozenset[ir.Value]:
    """The value whose Shape is the last input of the node, else what the node gives itself."""
    shape = node.inputs[-1]
    asked = shape.producer() if shape is not None else None
    if asked is None or (asked.domain, asked.op_type) != ("", "Shape"):
        return frozenset(node.outputs)
    given, value = asked.attributes, asked.inputs[0]
    whole = given.get_int("start", 0) == 0 and "end" not in given
    return frozenset({value}) if whole and value is not None else frozenset(node.outputs)
