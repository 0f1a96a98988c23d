"""How often a value is exactly 0, where spellings of sign differ: Sign(0) = 0, ours is +1.

A sum of floats meets 0 by accident alone. The output of Relu is 0 half of the time, and a sum of K
numbers +-1, K even, once in sqrt(pi K / 2) times (Stirling's formula for the middle binomial
coefficient). The question is answered node by node, in the order of the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bindeploy.convert import binary_weights, constants
from bindeploy.convert.sign_flow import GIVE_SIGNS, MOVES

NEVER, SELDOM, OFTEN = range(3)


class Zeros(NamedTuple):
    """How often a value is 0; `whole` where it is a whole multiple of some number throughout.

    `why` says of what reads a value that is often 0 what it does: `follows Relu`.
    """

    often: int
    whole: bool = False
    why: str = ""


ACCIDENT = Zeros(SELDOM)

Rule = Callable[[ir.Node, list[Zeros]], Zeros]

LARGEST_CONSTANT = 2**16
"""Numbers of a constant that is looked at; one a channel are fewer, and weights are looked at by
the rule of layers."""

FEW_VALUES = 16
"""Weights of so few values, each there twice or more, give sums that cancel."""


def of(node: ir.Node, known: Mapping[ir.Value, Zeros]) -> Zeros:
    """How often the outputs of the node are 0; `known` says it of what earlier nodes computed.

    The graph's inputs are floats like any other; what an operator unknown here makes of its inputs
    is 0 by accident alone.
    """
    if (node.domain, node.op_type) in GIVE_SIGNS:
        return Zeros(NEVER, whole=True)
    rule = RULES.get(node.op_type) if node.domain == "" and node.inputs else None
    if rule is None:
        return ACCIDENT
    return rule(node, [of_value(value, known) for value in node.inputs])


def of_value(value: ir.Value | None, known: Mapping[ir.Value, Zeros]) -> Zeros:
    """How often a value is 0 that a node reads: a computed one, a constant, or a graph's input."""
    array = None if value in known else constants.read(value)
    if array is not None and array.dtype.kind in "fiub" and array.size <= LARGEST_CONSTANT:
        is_whole = bool((array == np.round(array)).all())
        return Zeros(NEVER if array.all() else OFTEN, is_whole, "follows a constant 0")
    if value is not None and value.dtype is not None and value.dtype.is_integer():
        return Zeros(OFTEN, True, "follows integers")
    return ACCIDENT if value is None else known.get(value, ACCIDENT)


def _same(node: ir.Node, given: list[Zeros]) -> Zeros:
    """0 where the first input is."""
    return given[0]


def _one_of(node: ir.Node, given: list[Zeros]) -> Zeros:
    """Numbers of any of the inputs, but for the condition of Where."""
    chosen = given[1:] if node.op_type == "Where" else given
    most = max(chosen, key=lambda zeros: zeros.often)
    return most._replace(whole=all(zeros.whole for zeros in chosen))


def _interval(node: ir.Node, given: list[Zeros]) -> Zeros:
    return Zeros(OFTEN, given[0].whole, f"follows {node.op_type}")


def _whole(node: ir.Node, given: list[Zeros]) -> Zeros:
    return Zeros(OFTEN, True, f"follows {node.op_type}, whose numbers are whole")


def _cast(node: ir.Node, given: list[Zeros]) -> Zeros:
    x = node.inputs[0]
    is_float = x is None or x.dtype is None or x.dtype.is_floating_point()
    return given[0] if is_float else _whole(node, given)


def _clip(node: ir.Node, given: list[Zeros]) -> Zeros:
    """Often 0 where a bound is, else where x is."""
    bounds = [constants.read(value) for value in node.inputs[1:]]
    at_zero = any(bound is not None and not bound.all() for bound in bounds)
    return _interval(node, given) if at_zero else given[0]


def _mean(node: ir.Node, given: list[Zeros]) -> Zeros:
    """A sum of an unknown number of terms, or that over their number."""
    if given[0].whole:
        return Zeros(OFTEN, True, "follows a sum that can be 0")
    return given[0]


def _added(node: ir.Node, given: list[Zeros]) -> Zeros:
    """Whole numbers cancel; others are 0 where both are."""
    if all(zeros.whole for zeros in given):
        return Zeros(OFTEN, True, "follows a sum of whole numbers, which can be 0")
    least = min(given, key=lambda zeros: zeros.often)
    return least if least.often == OFTEN else ACCIDENT


def _times(node: ir.Node, given: list[Zeros]) -> Zeros:
    """0 where a factor is."""
    if node.op_type == "Div":
        return given[0]
    return max(given, key=lambda zeros: zeros.often)


def _normalized(node: ir.Node, given: list[Zeros]) -> Zeros:
    """(x - mean) * slope + beta: as x, where a channel is not shifted; a dead channel is 0."""
    arrays = [constants.read(value) for value in node.inputs[1:4]]
    if len(arrays) < 3 or any(array is None for array in arrays):
        return ACCIDENT
    gamma, beta, mean = arrays
    assert gamma is not None and beta is not None and mean is not None
    if not (gamma.any() or beta.all()) or ((gamma == 0) & (beta == 0)).any():
        return Zeros(OFTEN, why="follows a BatchNormalization of which a channel is all 0")
    return given[0]._replace(whole=False) if ((beta == 0) & (mean == 0)).any() else ACCIDENT


def _pad(node: ir.Node, given: list[Zeros]) -> Zeros:
    if node.attributes.get_string("mode", "constant") != "constant":
        return given[0]
    padding = given[2] if len(node.inputs) > 2 and node.inputs[2] is not None else None
    if padding is None or padding.often == OFTEN:
        return Zeros(OFTEN, given[0].whole, "follows a padding with 0")
    return given[0]


def _layer(node: ir.Node, given: list[Zeros]) -> Zeros:
    """Sums of +-alpha: K odd terms never cancel, K even ones do, as do an unknown number."""
    if len(given) > 2 and given[2].often != OFTEN and node.inputs[2] is not None:
        return ACCIDENT
    if not given[0].whole:
        return ACCIDENT
    weight = constants.read(node.inputs[1])
    if weight is None:
        return Zeros(OFTEN, True, "follows a product that can be 0") if given[1].whole else ACCIDENT
    filters = _filters(node, weight)
    if filters is None or not filters.size:
        return ACCIDENT
    terms = filters[0].size
    if isinstance(binary_weights.read(filters), str) and terms > 1:
        values = np.unique(filters[0]).size
        if values > FEW_VALUES or 2 * values > terms:
            return ACCIDENT
    elif given[0].often == NEVER and terms % 2 and not _pads(node):
        return Zeros(NEVER, whole=True)
    return Zeros(OFTEN, True, f"follows a sum of {terms} terms, which can be 0")


def _filters(node: ir.Node, weight: NDArray) -> NDArray | None:
    """[F, ...] of a constant weight."""
    if node.op_type == "Conv":
        return weight
    if weight.ndim != 2:
        return None
    return weight if node.attributes.get_int("transB", 0) else weight.T


def _pads(node: ir.Node) -> bool:
    given = node.attributes
    automatic = given.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    return automatic or any(given.get_ints("pads", []))


RULES: Mapping[str, Rule] = {
    **dict.fromkeys(MOVES, _same),
    **dict.fromkeys(("MaxPool", "GlobalMaxPool", "Split", "Dropout", "PRelu", "LeakyRelu"), _same),
    **dict.fromkeys(("Abs", "Neg", "Sign", "Elu", "Selu", "Tanh", "Erf", "Softsign"), _same),
    **dict.fromkeys(("Gelu", "Mish", "Swish", "Sin", "Tan", "Sinh", "Atan", "Sqrt"), _same),
    **dict.fromkeys(("Concat", "Max", "Min", "Where"), _one_of),
    **dict.fromkeys(("Relu", "ThresholdedRelu", "HardSigmoid", "HardSwish", "Shrink"), _interval),
    **dict.fromkeys(("Round", "Floor", "Ceil", "DequantizeLinear", "Mod"), _whole),
    **dict.fromkeys(("AveragePool", "GlobalAveragePool", "ReduceMean", "ReduceSum"), _mean),
    **dict.fromkeys(("Add", "Sub"), _added),
    **dict.fromkeys(("Mul", "Div"), _times),
    **dict.fromkeys(("Conv", "Gemm", "MatMul"), _layer),
    "BatchNormalization": _normalized,
    "Cast": _cast,
    "Clip": _clip,
    "Pad": _pad,
}
"""What each standard operator makes of zeros; every other meets 0 by accident."""
