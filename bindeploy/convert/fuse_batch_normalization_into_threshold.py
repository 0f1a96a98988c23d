"""Pass: a binary layer whose output is read only by sign becomes an integer comparison.

The accumulator d of a layer with K inputs is an integer of [-K, K] (a tap in a 0 pad makes it
smaller, never larger), and what is binarized is a function of d alone:

    y(d) = scale * d + bias                  in float32, one rounding for each, as every engine
    f(d) = (y(d) - mean) * slope + beta      in float64, slope = gamma / sqrt(var + epsilon)

Every step of it is monotone in d, in exact numbers as in floats, so f(d) >= 0 holds on one end of
[-K, K]. The threshold is the first d at which the answer changes, found by evaluating f on every
integer: no inequality is solved, so a tie f(d) = 0 is +1 like everywhere. Engines agree on y to the
last bit but not on how they round BatchNormalization; float64 takes no side, and a mean that equals
y(d) is a tie for all.

    rising   (no..yes)   threshold = first d with f(d) >= 0,   direction  1
    falling  (yes..no)   threshold = first d with f(d) < 0,    direction -1
    always               threshold = the least int32,          direction  1
    never                threshold = the least int32,          direction -1
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import InPlacePass, PassResult

from bindeploy.convert import batch_normalization, constants, dialect, notes
from bindeploy.convert.batch_normalization import BatchNormalization
from bindeploy.convert.sign_flow import only_signs_are_read

ALWAYS = np.iinfo(np.int32).min
LAYERS = frozenset({(dialect.DOMAIN, "BinaryConv2d"), (dialect.DOMAIN, "BinaryLinear")})


class FuseBatchNormalizationIntoThreshold(InPlacePass):
    """1. BinaryConv2d or BinaryLinear -> BatchNormalization, of which only signs are read
    2. BinaryConv2d or BinaryLinear, of which only signs are read
       -> BinaryConv2dThreshold or BinaryLinearThreshold.
    """

    def call(self, model: ir.Model) -> PassResult:
        modified = False
        for node, op in list(dialect.layers(model)):
            if op.key in LAYERS:
                modified |= _fuse(model.graph, node)
        return PassResult(model, modified)


def thresholds(
    scale: NDArray, bias: NDArray, largest: int, normalization: BatchNormalization | None = None
) -> tuple[NDArray[np.int32], NDArray[np.int8]]:
    """threshold int32 [F] and direction int8 [F] of f on the integers [-largest, largest]."""
    mean, slope, beta = (
        (normalization.mean, normalization.slope, normalization.beta)
        if normalization
        else (np.zeros(len(scale)), np.ones(len(scale)), np.zeros(len(scale)))
    )
    integers = np.arange(-largest, largest + 1, dtype=np.float32)
    factors, offsets = scale.astype(np.float32), bias.astype(np.float32)
    rows = []
    for filter_, (m, g, c) in enumerate(np.stack([mean, slope, beta], axis=1).astype(np.float64)):
        y = (factors[filter_] * integers + offsets[filter_]).astype(np.float64)
        rows.append(_threshold((y - m) * g + c >= 0, largest))
    return (
        np.array([threshold for threshold, _ in rows], np.int32),
        np.array([direction for _, direction in rows], np.int8),
    )


def _threshold(positive: NDArray[np.bool_], largest: int) -> tuple[int, int]:
    """The row of the table above for one filter; `positive` [2 * largest + 1] is f(d) >= 0."""
    if positive[0] == positive[-1]:
        return ALWAYS, 1 if positive[0] else -1
    change = int(np.argmax(positive != positive[0]))
    return change - largest, 1 if positive[-1] else -1


def _fuse(graph: ir.Graph, node: ir.Node) -> bool:
    output = node.outputs[0]
    normalization = None
    if not only_signs_are_read(output):
        normalization = batch_normalization.following(output)
        if normalization is None or not only_signs_are_read(normalization.output):
            return False
        if not channels_are_axis_one(node):
            return False
    x, bits, scale, bias = node.inputs
    packed, factor, offset = (constants.read(value) for value in (bits, scale, bias))
    assert packed is not None and factor is not None and offset is not None, "verified"
    largest = node.attributes.get_int("channels", 0) * math.prod(packed.shape[1:-1])
    threshold, direction = thresholds(factor, offset, largest, normalization)
    inputs = [
        x,
        bits,
        constants.initializer(graph, f"{node.name}.threshold", threshold),
        constants.initializer(graph, f"{node.name}.direction", direction),
    ]
    fused = ir.node(
        f"{node.op_type}Threshold",
        inputs,
        attributes=node.attributes,
        domain=dialect.DOMAIN,
        name=node.name,
    )
    if normalization is None:
        constants.replace(node, fused)
        notes.rule(fused, "thresholded")
    else:
        notes.carry(node, fused)
        notes.rule(fused, f"thresholded with {normalization.node.name}")
        old = [normalization.node, node]
        values = normalization.node.outputs[:1]
        ir.convenience.replace_nodes_and_values(
            graph, normalization.node, old, [fused], values, fused.outputs
        )
    return True


def channels_are_axis_one(node: ir.Node) -> bool:
    """Whether the filters of a layer lie where batch normalization looks for channels.

    Always for a convolution; for a linear layer when its output is [N, F].
    """
    if "Conv" in node.op_type:
        return True
    shape = node.outputs[0].shape
    return shape is not None and len(shape) == 2
