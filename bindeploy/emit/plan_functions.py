"""Functions of each float alone, as one ONNX op or spelled out in several.

A spelling is read by its numbers, not its form: what the nodes between one value and a product
compute is evaluated, and is a function of the runtime where it equals one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bindeploy.emit.plan_builder import Builder, View, constant_array, name_of

Numbers = NDArray[np.float64]

_erf = np.vectorize(math.erf, otypes=[float])


def _sigmoid(x: Numbers) -> Numbers:
    return 1 / (1 + np.exp(-x))


FUNCTIONS: dict[str, Callable[[Numbers], Numbers]] = {
    "gelu": lambda x: x * (1 + _erf(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * _sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)),
    "silu": lambda x: x * _sigmoid(x),
    "hard_swish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
}
"""Ops of the plan that graphs spell out."""

POINTS = np.linspace(-9, 9, 289)

_EVALUATED: dict[str, Callable[..., Numbers]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Pow": np.power,
    "Neg": np.negative,
    "Exp": np.exp,
    "Tanh": np.tanh,
    "Erf": _erf,
    "Sigmoid": _sigmoid,
    "Reciprocal": np.reciprocal,
    "Relu": lambda x: np.maximum(x, 0),
    "Clip": lambda x, low=-np.inf, high=np.inf: np.clip(x, low, high),
}
CURVED = {"Erf", "Tanh", "Sigmoid", "Exp", "HardSigmoid", "Clip"}
"""What a spelling has one of."""


def function(builder: Builder, node: ir.Node, op: str) -> View:
    """One function of the plan."""
    x = builder.view(node, 0)
    return _result(builder, node, x, op)


def gelu(builder: Builder, node: ir.Node) -> View:
    """Gelu, exact or with tanh."""
    approximate = node.attributes.get_string("approximate", "none")
    return function(builder, node, "gelu_tanh" if approximate == "tanh" else "gelu")


def hard_swish(builder: Builder, node: ir.Node) -> View:
    """HardSwish."""
    return function(builder, node, "hard_swish")


def spelled_function(node: ir.Node) -> tuple[ir.Value, str] | None:
    """x and f where a product or quotient of activations is f(x), else None."""
    if node.op_type not in ("Mul", "Div") or node.domain != "":
        return None
    cone = _cone(node)
    if CURVED.isdisjoint(maker.op_type for maker in cone.values() if maker is not None):
        return None
    for source in cone:
        with np.errstate(all="ignore"):
            values = _evaluate(node, source, cone)
        if values is not None and (op := _named(values)) is not None:
            return source, op
    return None


def _named(values: Numbers) -> str | None:
    alike = (
        op
        for op, exact in FUNCTIONS.items()
        if np.allclose(values, exact(POINTS), rtol=1e-6, atol=2e-6)
    )
    return next(alike, None)


def spelled(builder: Builder, node: ir.Node, found: tuple[ir.Value, str]) -> View:
    """The function that `spelled_function` found."""
    return _result(builder, node, builder.picture_of(found[0], node), found[1])


def _result(builder: Builder, node: ir.Node, x: View, op: str) -> View:
    inputs = (builder.floats(x, name_of(node)),)
    return builder.result(node, op, inputs, x.activation.shape, x.layout)


def _cone(node: ir.Node) -> dict[ir.Value, ir.Node | None]:
    """The values that a product is made of, nearest first, and the nodes that make them where
    these are evaluated."""
    cone: dict[ir.Value, ir.Node | None] = {}
    left = [value for value in node.inputs if value is not None]
    while left and len(cone) < 32:
        value = left.pop(0)
        if value in cone or constant_array(value) is not None:
            continue
        maker = value.producer()
        known = maker is not None and maker.op_type in (*_EVALUATED, "HardSigmoid")
        cone[value] = maker if known else None
        if known and maker is not None:
            left += [value for value in maker.inputs if value is not None]
    return cone


def _evaluate(
    node: ir.Node, source: ir.Value, cone: dict[ir.Value, ir.Node | None]
) -> Numbers | None:
    """What a node gives where `source` is POINTS; None where it depends on anything else."""
    inputs: list[Numbers] = []
    for value in node.inputs:
        if value is None:
            return None
        constant = constant_array(value)
        maker = cone.get(value)
        if value is source:
            inputs.append(POINTS)
        elif constant is not None and constant.size == 1:
            inputs.append(constant.astype(np.float64).reshape(()))
        elif maker is not None and (part := _evaluate(maker, source, cone)) is not None:
            inputs.append(part)
        else:
            return None
    if node.op_type == "HardSigmoid":
        attributes = node.attributes
        alpha, beta = attributes.get_float("alpha", 0.2), attributes.get_float("beta", 0.5)
        return np.clip(alpha * inputs[0] + beta, 0, 1)
    return _EVALUATED[node.op_type](*inputs)
