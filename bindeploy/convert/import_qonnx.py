"""Pass: the quantizers of QONNX, as Brevitas exports them, in standard operators.

    BipolarQuant(x, s)        =  s * (+1 where x >= 0, else -1)
    Quant(x, s, z, n)         =  s * (round(clip(x / s + z)) - z)
    Trunc(x, s, z, n, m)      =  s * (round(round(x / s + z) / 2^(n - m)) - z)
    Trunc(x, s, z, n, t, m)   =  t * (round(clip(round(x / s + z) / r)) - z / r)

clip to [-2^(n-1), 2^(n-1) - 1] where signed, to [0, 2^n - 1] where not, `narrow` taking one number
away (the lowest where signed, the highest where not), and r the power of two next to t / s. A
signed Quant of one bit is +1 or -1, as of x / s + z >= 0. Pappalardo et al., QONNX: Representing
Arbitrary-Precision Quantized Neural Networks, 2022; the second Trunc is that of version 2 of the
operator set. Every step is the same operation on the same floats there and here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from bindeploy.convert import constants, names, type_inference
from bindeploy.convert.node_tape import Tape

DOMAINS = frozenset({"qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general"})
"""The domain of the quantizers today, and the two it had before."""

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16})
MOST_BITS = 64


class ImportQonnx(InPlacePass):
    """1. BipolarQuant, whatever the shape of its scale: Where, Mul.
    2. Quant and IntQuant to 8 bits that QuantizeLinear knows (one scale, zero point 0, rounding
       half to even, not narrow) of a computed x: QuantizeLinear, DequantizeLinear.
    3. Any other Quant, IntQuant, Trunc: Div, Add, Clip, Round (Floor, Ceil, ...), Sub, Mul.

    A weight's become constants once what is constant is computed. A quantizer whose bit width is
    computed, or whose rounding mode is none of `ROUNDING`, stays as it is, as do the other
    operators of the domain (MultiThreshold, FloatQuant).
    """

    def call(self, model: ir.Model) -> PassResult:
        modified, taken = False, names.of(model)
        for node in list(model.graph):
            rule = RULES.get(node.op_type) if node.domain in DOMAINS else None
            if rule is None or not _is_alike(node):
                continue
            write = rule(node)
            x = node.inputs[0]
            if write is not None and x is not None:
                tape = Tape(x)
                tape.replace(node, write(tape), taken)
                modified = True
        if modified:
            type_inference.infer(model)
        return PassResult(model, modified)


Write = Callable[[Tape], ir.Value]
"""Writes the nodes that stand for a quantizer on a tape, and gives their result."""

Rounding = Callable[[Tape, ir.Value], ir.Value]


def _of_magnitude(rounding: Rounding) -> Rounding:
    """sign(x) * rounding(|x|)."""
    return lambda op, x: op("Mul", op("Sign", x), rounding(op, op("Abs", x)))


ROUNDING: Mapping[str, Rounding] = {
    "ROUND": lambda op, x: op("Round", x),
    "HALF_EVEN": lambda op, x: op("Round", x),
    "CEIL": lambda op, x: op("Ceil", x),
    "FLOOR": lambda op, x: op("Floor", x),
    "UP": _of_magnitude(lambda op, x: op("Ceil", x)),
    "DOWN": _of_magnitude(lambda op, x: op("Floor", x)),
    "HALF_UP": _of_magnitude(lambda op, x: op("Floor", op("Add", x, 0.5))),
    "HALF_DOWN": _of_magnitude(lambda op, x: op("Ceil", op("Sub", x, 0.5))),
}
"""The rounding modes by name; ONNX's Round rounds half to even."""


def _bipolar_quant(node: ir.Node) -> Write | None:
    if len(node.inputs) != 2:
        return None
    scale = _input(node, 1)
    return lambda op: op.unless(1, "Mul", _sign(op, op.x), scale)


def _quant(node: ir.Node) -> Write | None:
    rounding = ROUNDING.get(_mode(node, "ROUND"))
    bits = _bits(node, 3) if len(node.inputs) == 4 else None
    if bits is None or rounding is None:
        return None
    if _is_quantize_linear(node, float(bits)):
        return lambda op: _quantize_linear(op, node)
    scale, zero = _input(node, 1), _input(node, 2)

    def write(op: Tape) -> ir.Value:
        x = op.unless(0, "Add", op.unless(1, "Div", op.x, scale), zero)
        if bits == 1 and _flag(node, "signed", 1):
            x = _sign(op, x)
        else:
            x = rounding(op, _clip(op, x, node, bits, narrow=_flag(node, "narrow", 1)))
        return op.unless(1, "Mul", op.unless(0, "Sub", x, zero), scale)

    return write


def _trunc(node: ir.Node) -> Write | None:
    """Version 1 has five inputs, version 2 the scale of its output as the fifth of six."""
    rounding = ROUNDING.get(_mode(node, "FLOOR"))
    if rounding is None or len(node.inputs) not in (5, 6):
        return None
    scale, zero, result = _input(node, 1), _input(node, 2), _input(node, -2)
    given, kept = _bits(node, 3), _bits(node, -1)
    before, after = constants.read(scale), constants.read(result)
    if given is None or kept is None:
        return None
    if len(node.inputs) == 6 and (before is None or after is None or before.dtype != after.dtype):
        return None

    def whole(op: Tape) -> ir.Value:
        return op("Round", op.unless(0, "Add", op.unless(1, "Div", op.x, scale), zero))

    def write(op: Tape) -> ir.Value:
        x = rounding(op, op("Div", whole(op), 2.0 ** float(given - kept)))
        return op.unless(1, "Mul", op.unless(0, "Sub", x, zero), scale)

    def write_second(op: Tape) -> ir.Value:
        assert before is not None and after is not None
        with np.errstate(all="ignore"):
            ratio = op.constant(np.exp2(np.round(np.log2(after / before))).astype(op.dtype))
        x = _clip(op, op("Div", whole(op), ratio), node, kept, narrow=_flag(node, "narrow", 0))
        return op("Mul", op("Sub", rounding(op, x), op("Div", zero, ratio)), result)

    return write if len(node.inputs) == 5 else write_second


RULES: Mapping[str, Callable[[ir.Node], Write | None]] = {
    "BipolarQuant": _bipolar_quant,
    "Quant": _quant,
    "IntQuant": _quant,
    "Trunc": _trunc,
}
"""How each operator is written in standard ones; None where it has to stay."""


def _sign(op: Tape, x: ir.Value) -> ir.Value:
    return op("Where", op("GreaterOrEqual", x, 0), 1, -1)


def _clip(op: Tape, x: ir.Value, node: ir.Node, bits: Any, narrow: bool) -> ir.Value:
    """The range of `bits` bits, computed in the precision of `bits`, as QONNX computes it."""
    if _flag(node, "signed", 1):
        half = 2 ** (bits - 1)
        return op("Clip", x, int(narrow) - half, half - 1)
    return op("Clip", x, 0, 2**bits - 1 - int(narrow))


def _is_quantize_linear(node: ir.Node, bits: float) -> bool:
    """With a zero point other than 0 the two round differently; and a constant x is folded."""
    x, scale = _input(node, 0), _number(node, 1)
    return (
        (bits, _flag(node, "narrow", 1)) == (8, False)
        and _mode(node, "ROUND") in ("ROUND", "HALF_EVEN")
        and x.dtype in (None, ir.DataType.FLOAT)
        and (scale is not None and scale > 0 and _number(node, 2) == 0)
        and constants.read(x) is None
    )


def _quantize_linear(op: Tape, node: ir.Node) -> ir.Value:
    scale = op.constant(_number(node, 1))
    zero = op.constant(np.array(0, np.int8 if _flag(node, "signed", 1) else np.uint8))
    return op("DequantizeLinear", op("QuantizeLinear", op.x, scale, zero), scale, zero)


def _is_alike(node: ir.Node) -> bool:
    """Whether x is float, and scales and zero points of its type, as every use of them has it."""
    tensors = [value for value in node.inputs if value is not None]
    if len(tensors) < max(2, len(node.inputs)) or len(node.outputs) != 1:
        return False
    types = {value.dtype or ir.DataType.FLOAT for value in tensors[:3]}
    return len(types) == 1 and types <= FLOATS


def _input(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    assert value is not None, "_is_alike() has checked that every input is given"
    return value


def _number(node: ir.Node, index: int) -> Any:
    """A constant finite single number, as a numpy scalar; None for any other input."""
    array = constants.read(_input(node, index))
    if array is None or array.size != 1 or array.ndim > 1 or array.dtype.kind not in "fi":
        return None
    number = array.reshape(-1)[0]
    return number if np.isfinite(number) else None


def _bits(node: ir.Node, index: int) -> Any:
    """A bit width, a numpy float; None where it is computed or none."""
    number = _number(node, index)
    if number is None or not 1 <= number <= MOST_BITS:
        return None
    return number if number.dtype.kind == "f" else np.float64(number)


def _flag(node: ir.Node, name: str, absent: int) -> bool:
    return bool(node.attributes.get_int(name, absent))


def _mode(node: ir.Node, absent: str) -> str:
    return node.attributes.get_string("rounding_mode", absent).upper()
