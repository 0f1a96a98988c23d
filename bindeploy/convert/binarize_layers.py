"""Pass: a standard layer whose weights are +-alpha becomes a packed one.

With w[f] = alpha[f] * b[f], b = +-1, and an input x = c * s, s = +-1 and c > 0 (BinaryConnect,
Courbariaux et al., 2015, has the first, XNOR-Net, Rastegari et al., 2016, both):

    Conv(x, w) + bias  =  (c * alpha) * conv(s, b) + bias    BinaryConv2d, which takes s = sign(x)
    Conv(x, w) + bias  =       alpha  * conv(x, b) + bias    BinaryWeightConv2d, for any other x

The padding of a standard convolution is 0, and adds nothing to either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import InPlacePass, PassResult

from bindeploy import bits
from bindeploy.convert import binary_weights, constants, notes, packed_layer, scaled_signs
from bindeploy.convert.binary_weights import BinaryWeight
from bindeploy.convert.convolution_window import window
from bindeploy.convert.dialect_checks import LARGEST_SUM
from bindeploy.convert.import_signs import assumption, why_not_binary
from bindeploy.convert.inspect import is_layer


class BinarizeLayers(InPlacePass):
    """1. Conv over images, of any group, stride, padding and dilation -> Binary[Weight]Conv2d.
    2. Gemm, its input not transposed, with a bias alike for all rows -> Binary[Weight]Linear.
    3. MatMul with a constant matrix on the right -> Binary[Weight]Linear.
    4. A constant factor of signs that only such layers read goes into their scale.

    Every other layer keeps its floats and says why.
    """

    def call(self, model: ir.Model) -> PassResult:
        modified = False
        for node in list(model.graph):
            if node.domain != "" or node.op_type not in SOURCES:
                continue
            reason = _binarize(node, SOURCES[node.op_type])
            modified |= reason is None
            if reason is not None:
                _give_reason(node, reason)
        modified |= scaled_signs.drop_factors(model)
        return PassResult(model, modified)


@dataclass(frozen=True)
class Source:
    """How a standard operator is read as a layer; each function answers in words where it is none.

    `op` is the dialect's name for it, after Binary or BinaryWeight; `filters` gives [F, C/group,
    KH, KW] or [F, C] of a constant weight, `attributes` those of the dialect's op but `channels`.
    """

    op: str
    filters: Callable[[ir.Node, NDArray], NDArray | str]
    attributes: Callable[[ir.Node, BinaryWeight], dict[str, Any] | str]


def refusal(x: ir.Value | None, weight: BinaryWeight) -> str | None:
    """Why a layer with these weights had better stay in float, or has to; None where it had not.

    Its sum may be too long for float32 to count it; and with few channels a packed row of 32 bits
    can be longer than the floats, which only an input of signs makes up for, by its xor.
    """
    filters, channels = weight.filters.shape[:2]
    taps, row = weight.products // channels, bits.row_bytes(channels)
    if 8 * row * taps >= LARGEST_SUM:
        return "it sums 2^24 products or more"
    packed, floats = filters * (taps * row + 8), 4 * weight.filters.size
    if packed > floats and scaled_signs.magnitude(x) is None:
        return f"1-bit form would be larger: {packed} bytes against {floats}"
    return None


def _binarize(node: ir.Node, source: Source) -> str | None:
    """Put the packed layer in the place of `node`, or say why not."""
    x, weight = node.inputs[0], _weight(node, source)
    if isinstance(weight, str):
        return weight
    attributes, bias = source.attributes(node, weight), _bias(node, len(weight.filters))
    for found in (refusal(x, weight), attributes, bias):
        if isinstance(found, str):
            return found
    assert not isinstance(attributes, str) and not isinstance(bias, str)
    size = scaled_signs.magnitude(x)
    times = node.attributes.get_float("alpha", 1.0) * (size or 1.0)
    scale = _float32(weight.scale * np.float64(times))
    if not (np.isfinite(scale).all() and np.isfinite(bias).all()):
        return "scale or bias is not finite"
    op, said = f"Binary{'Weight' if size is None else ''}{source.op}", _of_input(x, size)
    layer = packed_layer.replace(node, op, weight.filters, scale, bias, attributes)
    for text in (weight.rule, *said):
        notes.rule(layer, text)
    return None


def _weight(node: ir.Node, source: Source) -> BinaryWeight | str:
    array = constants.read(node.inputs[1])
    if array is None:
        left = constants.read(node.inputs[0]) is not None
        return "weights are on the left" if left else "both factors are computed"
    filters = source.filters(node, array)
    return filters if isinstance(filters, str) else binary_weights.read(filters)


def _of_input(x: ir.Value | None, size: float | None) -> list[str]:
    """What to say of an input; nothing of signs, nor of integers, whose bits `explain` tells."""
    if size is None:
        maker = x.producer() if x is not None else None
        integers = maker is not None and maker.op_type == "DequantizeLinear"
        return [] if integers else [f"float input ({why_not_binary(x)})"]
    assumed = assumption(x)
    scale = [] if size == 1 else [f"input scale {size:.4g} in its scale"]
    return scale if assumed is None else [*scale, assumed]


def _window(node: ir.Node, weight: BinaryWeight) -> dict[str, Any] | str:
    geometry = window(node, weight.filters.shape[2:])
    group = node.attributes.get_int("group", 1)
    return geometry if isinstance(geometry, str) else {"group": group, **geometry}


def _rows(node: ir.Node, weight: BinaryWeight) -> dict[str, Any] | str:
    return "its input is transposed" if node.attributes.get_int("transA", 0) else {}


def _columns(node: ir.Node, weight: NDArray) -> NDArray | str:
    """[F, C] of a Gemm's or MatMul's [C, F]."""
    if weight.ndim != 2:
        return f"weights are of rank {weight.ndim}, no matrix"
    return weight if node.attributes.get_int("transB", 0) else weight.T


def _bias(node: ir.Node, filters: int) -> NDArray[np.float32] | str:
    """[F]: the third input times a Gemm's beta, zeros where absent; in words where it is none."""
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return np.zeros(filters, np.float32)
    bias = constants.read(node.inputs[2])
    if bias is None:
        return "bias is computed"
    if any(size != 1 for size in bias.shape[:-1]):
        return "bias differs from row to row"
    row = np.broadcast_to(bias.reshape(bias.shape[-1:]), filters)
    return _float32(row * np.float64(node.attributes.get_float("beta", 1.0)))


def _float32(array: NDArray) -> NDArray[np.float32]:
    """Rounded once; what is too large is infinite."""
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def _give_reason(node: ir.Node, reason: str) -> None:
    if reason.startswith(f"{binary_weights.FLOAT},") and _is_first(node):
        reason = f"first layer: {binary_weights.FLOAT}"
    notes.reason(node, reason)


def _is_first(node: ir.Node) -> bool:
    """Whether no other layer stands between the graph's input and this one."""
    waiting, seen = [node.inputs[0]], set()
    while waiting:
        value = waiting.pop()
        producer = value.producer() if value is not None else None
        if producer is None or producer in seen:
            continue
        if is_layer(producer):
            return False
        seen.add(producer)
        waiting.extend(producer.inputs)
    return True


SOURCES = {
    "Conv": Source("Conv2d", lambda node, weight: weight, _window),
    "Gemm": Source("Linear", _columns, _rows),
    "MatMul": Source("Linear", _columns, _rows),
}
"""The standard operators that multiply by a weight."""
