"""Pass: a transposed convolution becomes one convolution for each phase of its stride.

Along an axis with stride s and kernel K, the taps k = r + s * j alone reach output q * s + r (Shi
et al., 2016, "Is the deconvolution layer the same as a convolutional layer?"):

    y[q * s + r] = sum over j < J of x[q - j] w[r + s * j]        J = ceil((K - r) / s)

That is a convolution over x, its taps in reverse, padded by zeros. The phases r, side by side along
the channels, are woven together. No product with an inserted zero is left, and a filter of +-alpha
has phases of +-alpha. With stride 1 there is one phase, and a dilation d spreads its taps:
y[q] = sum over j of x[q - d * j] w[j].
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import InPlacePass, PassResult

from bindeploy.convert import binary_weights, constants, notes, packed_layer
from bindeploy.convert.binarize_layers import refusal
from bindeploy.convert.binary_weights import BinaryWeight
from bindeploy.convert.transposed_axes import Axis, read_axes
from bindeploy.convert.weave import cut, weave


class SplitTransposed(InPlacePass):
    """1. ConvTranspose of stride 1 over rows or images, with weights +-alpha -> Conv, Slice.
    2. One of a larger stride -> a Conv for each phase, Concat, DepthToSpace, Slice; where the two
       strides of an image differ, and over rows, Reshape, Transpose, Reshape for DepthToSpace.

    A Slice that cuts nothing is left out. Every other ConvTranspose keeps its floats and says why.
    """

    def call(self, model: ir.Model) -> PassResult:
        modified = False
        for node in list(model.graph):
            if (node.domain, node.op_type) != ("", "ConvTranspose"):
                continue
            reason = _split(node)
            modified |= reason is None
            if reason is not None:
                notes.reason(node, reason)
        return PassResult(model, modified)


@dataclass(frozen=True)
class Phase:
    """One phase of every axis, and the taps [F, C/group, ...] that reach it, in reverse."""

    numbers: tuple[int, ...]
    filters: NDArray[np.float32]


def _split(node: ir.Node) -> str | None:
    """Put the convolutions in the place of `node`, or say why not."""
    weight, bias = constants.read(node.inputs[1]), [*node.inputs, None][2]
    if weight is None or (bias is not None and constants.read(bias) is None):
        return "weights or bias are computed"
    if weight.ndim not in (3, 4):
        return f"it convolves in {weight.ndim - 2}-D, not 1-D or 2-D"
    group = node.attributes.get_int("group", 1)
    found = binary_weights.read(binary_weights.of_transposed(weight, group))
    axes = read_axes(node, weight.shape[2:])
    if isinstance(found, str) or isinstance(axes, str):
        return found if isinstance(found, str) else str(axes)
    phases = list(_phases(found, axes))
    for phase in phases:
        read = binary_weights.read(phase.filters)
        reason = read if isinstance(read, str) else refusal(node.inputs[0], read)
        if reason is not None:
            return f"in phase {list(phase.numbers)} of its stride: {reason}"
    _put(node, axes, phases)
    return None


def _phases(weight: BinaryWeight, axes: Sequence[Axis]) -> Iterator[Phase]:
    """Every phase, that of the last axis changing first, with weights that are +-alpha exactly."""
    alpha = weight.scale.reshape(-1, *[1] * len(axes), 1)
    exact = np.where(weight.filters >= 0, alpha, -alpha)
    for numbers in itertools.product(*(range(axis.stride) for axis in axes)):
        taps = [axis.taps(phase) for axis, phase in zip(axes, numbers, strict=True)]
        yield Phase(numbers, exact[np.ix_(*map(range, exact.shape[:2]), *taps)])


def _put(node: ir.Node, axes: Sequence[Axis], phases: Sequence[Phase]) -> None:
    graph = node.graph
    assert graph is not None, "a pass replaces nodes of a graph"
    packed_layer.release(node, 1)
    nodes = [_convolution(node, axes, phase, one_of_many=len(phases) > 1) for phase in phases]
    filters = len(phases[0].filters)
    nodes += weave(graph, str(node.name), axes, [made.outputs[0] for made in nodes], filters)
    nodes += cut(graph, str(node.name), axes, nodes[-1].outputs[0])
    ir.convenience.replace_nodes_and_values(
        graph, node, [node], nodes, node.outputs[:1], nodes[-1].outputs
    )


def _convolution(
    node: ir.Node, axes: Sequence[Axis], phase: Phase, *, one_of_many: bool
) -> ir.Node:
    """The convolution of one phase, with the bias of all."""
    assert node.graph is not None, "a node of a graph"
    numbers = "_".join(map(str, phase.numbers))
    name = f"{node.name}/phase_{numbers}" if one_of_many else str(node.name)
    pads = [axis.pads(number) for axis, number in zip(axes, phase.numbers, strict=True)]
    attributes: dict[str, int | list[int]] = {
        "kernel_shape": list(phase.filters.shape[2:]),
        "strides": [1] * len(axes),
        "dilations": [axis.dilation for axis in axes],
        "pads": [before for before, _ in pads] + [after for _, after in pads],
        "group": node.attributes.get_int("group", 1),
    }
    weight = constants.initializer(node.graph, f"{name}.weight", phase.filters)
    inputs = [node.inputs[0], weight, *node.inputs[2:]]
    convolution = ir.node("Conv", inputs, attributes=attributes, name=name)
    notes.carry(node, convolution)
    notes.rule(convolution, f"{'a phase of ' if one_of_many else ''}a transposed convolution")
    if one_of_many:
        notes.part_of(convolution, str(node.name))
    return convolution
