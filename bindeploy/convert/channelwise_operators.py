"""Which standard operators are functions of one channel: a row of `READERS` for each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bindeploy import bits
from bindeploy.convert import batch_normalization, constants, dialect
from bindeploy.convert import channelwise_formulas as formulas
from bindeploy.convert.channelwise import Function, Layout, same
from bindeploy.convert.sign_flow import one_output

SIGN = (dialect.LATENT, "BinarySign")
ONE = np.ones((1, 1))


def read(node: ir.Node, x: ir.Value, layout: Layout) -> Function | None:
    """The node as a function of its input `x`, which is laid out so; None where it is none."""
    if (node.domain, node.op_type) == SIGN:
        return Function(node, x, bits.sign, keeps_sign=True)
    reader = READERS.get(node.op_type) if node.domain == "" and one_output(node) else None
    if reader is None or (node.inputs[0] is not x and node.op_type not in EITHER_SIDE):
        return None
    return reader(node, x, layout)


def read_anywhere(node: ir.Node) -> Function | None:
    """The node as a function of the one input that is computed, its channels axis 1 or the last."""
    if node.op_type not in READERS and (node.domain, node.op_type) != SIGN:
        return None
    computed = [value for value in node.inputs if value is not None and _is_computed(value)]
    if len(computed) != 1:
        return None
    (x,) = computed
    sizes = None if x.shape is None else [d if isinstance(d, int) else 0 for d in x.shape]
    rank = None if sizes is None else len(sizes)
    for axis in (-1,) if rank is None or rank < 2 else (1 - rank, -1):
        function = read(node, x, Layout.fresh(rank, axis, sizes[axis] if sizes else 0))
        if function is not None:
            return function
    return None


def _is_computed(value: ir.Value) -> bool:
    return constants.read(value) is None


def _number(number: float) -> NDArray[np.float32]:
    return np.full((1, 1), number, np.float32)


def _arithmetic(node: ir.Node, x: ir.Value, layout: Layout) -> Function | None:
    """Add, Sub, Mul, Div of x and a constant, on either side."""
    first = node.inputs[0] is x
    constant = layout.parameter(node.inputs[1 if first else 0])
    if constant is None:
        return None
    positive = bool((constant > 0).all())
    match node.op_type, first:
        case "Add", _:
            return Function(node, x, np.add, (constant,), ONE)
        case "Mul", _:
            slope = constant.astype(np.float64)
            return Function(node, x, np.multiply, (constant,), slope, keeps_sign=positive)
        case "Sub", True:
            return Function(node, x, np.subtract, (constant,), ONE)
        case "Sub", False:
            return Function(node, x, formulas.subtract_from, (constant,), -ONE)
        case "Div", False:
            return Function(node, x, formulas.divide_into, (constant,), monotone=False)
        case _ if constant.all():
            slope = 1 / constant.astype(np.float64)
            return Function(node, x, np.divide, (constant,), slope, keeps_sign=positive)
    return None


def _bounded(node: ir.Node, x: ir.Value, layout: Layout) -> Function | None:
    """Max or Min of x and constants."""
    found = [layout.parameter(value) for value in node.inputs if value is not x]
    others = tuple(array for array in found if array is not None)
    if len(others) != len(node.inputs) - 1:
        return None
    if node.op_type == "Min":
        keeps_sign = all((array >= 0).all() for array in others)
        return Function(node, x, formulas.smallest, others, keeps_sign=keeps_sign)
    keeps_sign = all((array < 0).all() for array in others)
    never_negative = any((array >= 0).all() for array in others)
    return Function(
        node, x, formulas.largest, others, keeps_sign=keeps_sign, never_negative=never_negative
    )


def _clipped(node: ir.Node, x: ir.Value, layout: Layout) -> Function | None:
    """Clip; a bound that is not given is infinite."""
    bounds = [-np.inf, np.inf]
    for index, value in enumerate(node.inputs[1:]):
        if value is None:
            continue
        array = constants.read(value)
        if array is None or array.size != 1 or np.isnan(array).any():
            return None
        bounds[index] = float(array.item())
    low, high = bounds
    numbers = (_number(low), _number(high))
    keeps_sign, never_negative = low < 0 <= high, low >= 0 <= high
    return Function(
        node, x, formulas.clip, numbers, keeps_sign=keeps_sign, never_negative=never_negative
    )


def _rectified(node: ir.Node, x: ir.Value, layout: Layout) -> Function | None:
    """LeakyRelu, whose slope is an attribute, and PRelu, whose slope is a constant."""
    leaky = node.op_type == "LeakyRelu"
    alpha = node.attributes.get_float("alpha", 0.01)
    slope = _number(alpha) if leaky else layout.parameter(node.inputs[1])
    if slope is None:
        return None
    rising, keeps_sign = bool((slope >= 0).all()), bool((slope > 0).all())
    return Function(node, x, formulas.rectify, (slope,), keeps_sign=keeps_sign, monotone=rising)


def _three_lines(node: ir.Node, x: ir.Value, layout: Layout) -> Function:
    """HardSigmoid."""
    alpha, beta = (node.attributes.get_float(*item) for item in (("alpha", 0.2), ("beta", 0.5)))
    return Function(
        node, x, formulas.hard_sigmoid, (_number(alpha), _number(beta)), never_negative=True
    )


def _normalized(node: ir.Node, x: ir.Value, layout: Layout) -> Function | None:
    """BatchNormalization, whose channels are axis 1."""
    if layout.rank is None or layout.axis != 1 - layout.rank:
        return None
    found = batch_normalization.read(node)
    if found is None or len(found.slope) != layout.size:
        return None
    parameters = (found.mean, found.slope, found.beta)
    mean, slope, beta = (array[layout.channel, None] for array in parameters)
    return Function(node, x, formulas.normalize, (mean, slope, beta), slope)


def _unchanged(node: ir.Node, x: ir.Value, layout: Layout) -> Function:
    return Function(node, x, same, (), ONE, keeps_sign=True)


def _dropped_out(node: ir.Node, x: ir.Value, layout: Layout) -> Function | None:
    """Dropout outside training: y = x."""
    flag = node.inputs[2] if len(node.inputs) > 2 else None
    training = constants.read(flag)
    if flag is not None and (training is None or training.any()):
        return None
    return _unchanged(node, x, layout)


def _cast(node: ir.Node, x: ir.Value, layout: Layout) -> Function | None:
    """Cast of float32 to float32: y = x."""
    to_float = node.attributes.get_int("to", 0) == ir.DataType.FLOAT
    return _unchanged(node, x, layout) if to_float and x.dtype == ir.DataType.FLOAT else None


Reader = Callable[[ir.Node, ir.Value, Layout], Function | None]


def _always(formula: Callable[..., NDArray], **said: bool) -> Reader:
    """The reader of an operator without parameters."""
    return lambda node, x, layout: Function(node, x, formula, **said)  # type: ignore[arg-type]


def _negated(node: ir.Node, x: ir.Value, layout: Layout) -> Function:
    return Function(node, x, np.negative, (), -ONE)


READERS: dict[str, Reader] = {
    "BatchNormalization": _normalized,
    "Add": _arithmetic,
    "Sub": _arithmetic,
    "Mul": _arithmetic,
    "Div": _arithmetic,
    "Neg": _negated,
    "Identity": _unchanged,
    "Dropout": _dropped_out,
    "Cast": _cast,
    "Max": _bounded,
    "Min": _bounded,
    "Clip": _clipped,
    "Relu": _always(formulas.relu, never_negative=True),
    "LeakyRelu": _rectified,
    "PRelu": _rectified,
    "HardSigmoid": _three_lines,
    "Abs": _always(np.abs, never_negative=True, monotone=False),
    "Sigmoid": _always(np.ones_like, never_negative=True, exact=False),
    "Tanh": _always(same, keeps_sign=True, exact=False),
    "Softsign": _always(same, keeps_sign=True, exact=False),
}
EITHER_SIDE = frozenset({"Add", "Sub", "Mul", "Div", "Max", "Min"})
