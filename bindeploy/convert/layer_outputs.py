"""What comes out of a layer of the dialect: where its filters lie, and what its sums can be."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bindeploy.convert import constants, dialect_int8, dialect_reference
from bindeploy.convert.channelwise import Layout
from bindeploy.convert.integer_range import IntegerRange


def layout_of(layer: ir.Node) -> Layout:
    """[N, F, H, W] of a convolution, [..., F] of a linear layer."""
    weight, shape = constants.read(layer.inputs[1]), layer.outputs[0].shape
    assert weight is not None, "verified"
    if "Conv" in layer.op_type:
        return Layout.fresh(4, -3, len(weight))
    return Layout.fresh(None if shape is None else len(shape), -1, len(weight))


def occurring(layer: ir.Node) -> NDArray[np.int64] | IntegerRange:
    """The integers that the sums of a layer can be, ascending: of one that binarizes, or of int8.

    Of K products, p of which are -1, the sum is K - 2 p: every second integer of [-K, K]. A padded
    tap of 0 leaves out as many products as a tap has channels; where these are odd, K may lose any
    number of ones, and every integer may occur. Of int8 every integer may, and every one of 8 bits
    where sums saturate: from 127 on they go down by other steps than they came.
    """
    bits, given = constants.read(layer.inputs[1]), layer.attributes
    assert bits is not None, "verified"
    if bits.dtype == np.int8:
        return IntegerRange(int(dialect_int8.largest_dots(bits).max()))
    channels = given.get_int("channels", 0)
    largest = channels * math.prod(bits.shape[1:-1])
    if layer.op_type.startswith("Saturating"):
        lowest, highest = dialect_reference.LOWEST, dialect_reference.HIGHEST
        return np.arange(max(-largest, lowest), min(largest, highest) + 1)
    drops_taps = given.get_float("pad_value", 1.0) == 0 and any(given.get_ints("pads", []))
    return np.arange(-largest, largest + 1, 1 if drops_taps and channels % 2 else 2)
