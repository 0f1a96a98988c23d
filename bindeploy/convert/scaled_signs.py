"""Signs times a constant: s * sign(x), on the way from a binarization to the layers that read it.

A number that is +c or -c, c > 0, is c * its own sign, and sign(s * b) = sign(s) * b for b = +-1. So

    layer(s * b) = |s| * layer(sign(s * b))      a binary layer takes |s| into its scale,
                 =  s  * layer(b)                and where only such layers read it, s goes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bindeploy.convert import constants, dialect, packed_layer
from bindeploy.convert.sign_flow import MOVES, gives_signs, only_signs_are_read

KEEP = MOVES | {"MaxPool"}
"""Operators whose first output holds numbers of their first input and no other."""

NEGATABLE = frozenset({(dialect.DOMAIN, "BinaryConv2d"), (dialect.DOMAIN, "BinaryLinear")})
"""Layers that binarize and have a scale: layer(-b) = (-scale) * dot(b) + bias."""

LEAST = 2.0**-100
"""The smallest product of factors that is taken, 1 / it the largest: float32 holds them well."""


@dataclass(frozen=True)
class Factor:
    """A node that gives `times * x`, `times` one finite number other than 0 for all of x."""

    x: ir.Value
    times: float


def factor(node: ir.Node) -> Factor | None:
    """Mul by a constant on either side, or Div by one; None for any other node."""
    if node.domain != "" or node.op_type not in ("Mul", "Div"):
        return None
    first, second = node.inputs
    for x, constant in ((first, second), (second, first)):
        number = constants.read(constant)
        if x is None or number is None or number.size != 1 or not _keeps_rank(x, number.ndim):
            continue
        value = float(number.reshape(()))
        if not np.isfinite(value) or value == 0 or (node.op_type == "Div" and x is second):
            return None
        return Factor(x, value if node.op_type == "Mul" else 1 / value)
    return None


def _keeps_rank(x: ir.Value, rank: int) -> bool:
    """Whether x broadcast with ones [1, ...] of `rank` axes has the axes of x."""
    return rank == 0 or (x.shape is not None and rank <= len(x.shape))


def magnitude(value: ir.Value | None) -> float | None:
    """c > 0 where every number of `value` is +c or -c; None where it may be another."""
    product = 1.0
    while value is not None and (node := value.producer()) is not None:
        found = factor(node)
        if found is not None:
            value, product = found.x, product * abs(found.times)
        elif node.domain == "" and node.op_type in KEEP and value is node.outputs[0]:
            value = node.inputs[0]
        else:
            break
    return product if gives_signs(value) and LEAST <= product <= 1 / LEAST else None


def drop_factors(model: ir.Model) -> bool:
    """Take away every constant factor of signs of which only signs are read, the last first.

    A negative one goes where it reaches nothing but layers, through moves, whose scale turns. Says
    whether any went.
    """
    dropped = False
    for node in reversed(list(model.graph)):
        found = factor(node)
        if found is None or magnitude(found.x) is None:
            continue
        output = node.outputs[0]
        if only_signs_are_read(output) and (found.times > 0 or _negate(output)):
            ir.convenience.replace_all_uses_with(output, found.x)
            model.graph.remove(node, safe=True)
            dropped = True
    return dropped


def _negate(value: ir.Value) -> bool:
    """Turn the scale of every layer that reads `value`; nothing where one cannot be turned."""
    readers = list(_readers(value))
    if not all(_is_negatable(node) for node in readers):
        return False
    for node in readers:
        scale = node.inputs[2]
        assert scale is not None and scale.name is not None and node.graph is not None
        array = constants.read(scale)
        assert array is not None, "verified"
        packed_layer.release(node, 2)
        node.replace_input_with(2, constants.initializer(node.graph, scale.name, -array))
    return True


def _readers(value: ir.Value) -> Iterator[ir.Node]:
    """Every node that reads the numbers of `value`, at once or through moves."""
    for node, _ in value.uses():
        if node.domain == "" and node.op_type in MOVES:
            yield from _readers(node.outputs[0])
        elif (node.domain, node.op_type) != ("", "Shape"):
            yield node


def _is_negatable(node: ir.Node) -> bool:
    """A padded tap that reads +1 would have to read -1, so no padding but zeros."""
    if (node.domain, node.op_type) not in NEGATABLE:
        return False
    given = node.attributes
    return not any(given.get_ints("pads", [])) or given.get_float("pad_value", 0.0) == 0
