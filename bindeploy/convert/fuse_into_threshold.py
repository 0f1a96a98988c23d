"""Pass: a binary layer of which only signs are read, after any functions, compares integers.

    sign(f(scale * d + bias))  =  +1 iff d >= threshold, negated where direction is -1

for f of functions of one channel, max pools and moves (`chains`), on every integer d that occurs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
from numpy.typing import NDArray
from onnx_ir.passes import InPlacePass, PassResult

from bindeploy.convert import channelwise, constants, dialect, notes, type_inference
from bindeploy.convert.chains import Pool, Step, follow
from bindeploy.convert.channelwise import Function
from bindeploy.convert.layer_outputs import layout_of, occurring
from bindeploy.convert.pool_signs import can_pool_signs, pool_signs
from bindeploy.convert.sign_flow import only_signs_are_read
from bindeploy.convert.thresholds import ALWAYS, Chain, NoThreshold, Thresholds, thresholds

LAYERS = frozenset(
    (dialect.DOMAIN, f"{sums}{layer}")
    for sums in ("", "Saturating")
    for layer in ("BinaryConv2d", "BinaryLinear")
)

ENDS_TRIED = 16
"""Of a layer's ends, of which a network has one or two."""


class FuseIntoThreshold(InPlacePass):
    """1. BinaryConv2d or BinaryLinear -> functions and moves, of which only signs are read
       -> BinaryConv2dThreshold or BinaryLinearThreshold -> moves; and so those that saturate.
    2. MaxPool among them -> BinaryMaxPool2d(direction).
    3. Several layers that meet in a Concat on the way: all of them, or none.

    Only where nothing else reads a value on the way, so that the floats vanish altogether. Of the
    values of which only signs are read the last one is taken that has thresholds. `layers` are the
    ops that are replaced.
    """

    def __init__(self, layers: Collection[tuple[str, str]] = LAYERS) -> None:
        super().__init__()
        self.layers = layers

    def call(self, model: ir.Model) -> PassResult:
        common.RemoveUnusedNodesPass()(model)  # a node that nobody reads reads nothing
        type_inference.infer(model)  # of what other passes have made, too
        roads = [_Road.of(node) for node, op in dialect.layers(model) if op.key in self.layers]
        meeting: dict[ir.Value, list[_Road]] = {}
        for road in roads:
            for end in road.ends:
                meeting.setdefault(end, []).append(road)
        left = {road.layer: road for road in roads}
        for road in roads:
            if road.layer in left:
                for fused in _fuse(model.graph, road, meeting, left):
                    del left[fused]
        return PassResult(model, len(left) < len(roads))


@dataclass(frozen=True, eq=False)
class _Road:
    """A layer, the steps after it, and after how many of them only signs are read, most first."""

    layer: ir.Node
    steps: list[Step]
    ends: dict[ir.Value, int]

    @classmethod
    def of(cls, layer: ir.Node) -> _Road:
        steps = follow(layer.outputs[0], layout_of(layer))
        values = [layer.outputs[0], *(step.node.outputs[0] for step in steps)]
        ends: dict[ir.Value, int] = {}
        only_signs = only_signs_are_read(values[-1])
        for count in range(len(steps), -1, -1):
            if count < len(steps) and not _carries_signs(steps[count]):
                only_signs = only_signs_are_read(values[count])
            if only_signs:
                ends[values[count]] = count
        return cls(layer, steps, ends)

    def to(self, end: ir.Value) -> list[Step]:
        return self.steps[: self.ends[end]]


def _carries_signs(step: Step) -> bool:
    """Whether only signs are read before the step where only signs are read after it."""
    return not isinstance(step, Function) or step.changes_nothing


def _fuse(
    graph: ir.Graph,
    road: _Road,
    meeting: dict[ir.Value, list[_Road]],
    left: dict[ir.Node, _Road],
) -> list[ir.Node]:
    """Fuse the layer and those it meets at the last possible end; the layers that were replaced."""
    why = None
    for end in islice(road.ends, ENDS_TRIED):
        party = [other for other in meeting[end] if other.layer in left]
        if not _is_whole(party, end):
            continue
        try:
            found = {other: _compare(other, end) for other in party}
        except NoThreshold as reason:
            why = why or reason
            continue
        _replace(graph, found, end)
        return [other.layer for other in party]
    if why is not None:
        notes.rule(road.layer, f"floats kept ({why})")
    return []


def _is_whole(party: Iterable[_Road], end: ir.Value) -> bool:
    """Whether everything that a Concat on the way joins comes from layers of the party."""
    steps = [step for road in party for step in road.to(end)]
    passed = {step.x for step in steps}
    return all(
        value in passed
        for step in steps
        if step.node.op_type == "Concat"
        for value in step.node.inputs
    )


def _compare(road: _Road, end: ir.Value) -> Thresholds:
    """The layer's thresholds up to `end`; NoThreshold where it has none."""
    scale, bias = (constants.read(value) for value in road.layer.inputs[-2:])
    assert scale is not None and bias is not None, "verified"
    chain = Chain(scale.astype(np.float32), bias.astype(np.float32), road.to(end))
    found = thresholds(chain, occurring(road.layer))
    pools = [step for step in chain.steps if isinstance(step, Pool)]
    for pool, direction in zip(pools, found.pools, strict=True):
        if not can_pool_signs(pool) and (direction < 0).any():
            raise NoThreshold(f"MaxPool `{pool.node.name}` has no binary form")
    return found


def _replace(graph: ir.Graph, found: dict[_Road, Thresholds], end: ir.Value) -> None:
    directions: dict[ir.Node, NDArray[np.int8]] = {}
    passed: dict[ir.Node, Step] = {}
    for road, comparison in found.items():
        steps = road.to(end)
        passed |= {step.node: step for step in steps}
        pools = [step for step in steps if isinstance(step, Pool)]
        for pool, direction in zip(pools, comparison.pools, strict=True):
            whole = directions.setdefault(pool.node, np.ones(pool.layout.size, np.int8))
            whole[pool.layout.channel] = direction
    for step in reversed(passed.values()):
        if isinstance(step, Function):
            channelwise.bypass(step)
        elif isinstance(step, Pool) and can_pool_signs(step):
            pool_signs(step.node, directions[step.node])
    for road, comparison in found.items():
        _replace_layer(graph, road.layer, comparison, road.to(end))


def _replace_layer(
    graph: ir.Graph, layer: ir.Node, comparison: Thresholds, steps: Iterable[Step]
) -> None:
    inputs = [
        *layer.inputs[:-2],
        constants.initializer(graph, f"{layer.name}.threshold", comparison.threshold),
        constants.initializer(graph, f"{layer.name}.direction", comparison.direction),
    ]
    fused = ir.node(
        f"{layer.op_type}Threshold",
        inputs,
        attributes=layer.attributes,
        domain=dialect.DOMAIN,
        name=layer.name,
    )
    constants.replace(layer, fused)
    names = [
        str(step.node.name)
        for step in steps
        if isinstance(step, Function) and not step.changes_nothing
    ]
    said = " with " + " and ".join(names) if names else ""
    always = comparison.threshold == ALWAYS
    if always.all() and len(set(comparison.direction)) == 1:
        said += f" (always {comparison.direction[0]:+d})"
    notes.rule(fused, f"thresholded{said}")
