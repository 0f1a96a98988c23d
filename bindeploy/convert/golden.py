"""Which inputs may serve as golden vectors: those whose rounded floats stay clear of the edges.

Engines sum floats in different orders, so a float that is binarized can land on either side of zero
when it is nearly zero, and one that becomes an 8-bit integer on either side of a half step. Exactly
zero is safe: it is +1 everywhere, and 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bindeploy.convert import constants, dialect
from bindeploy.convert.engines import onnxruntime_run

MARGIN = 1e-5
"""The least distance of a rounded float from where it would be rounded otherwise, in its units."""

Distance = Callable[[NDArray], float]


def margins(model: ir.Model, inputs: NDArray[np.float32]) -> NDArray[np.float64]:
    """[N]: for each image how near a float comes to being rounded otherwise.

    The least over the non-zero |x| of every x that a binarizing op reads, and over the distance
    from the next half step of every computed x that becomes an 8-bit integer. Infinity for an image
    that has neither. onnxruntime runs the model, one image at a time, with those floats as outputs;
    any stage of the conversion will do, and the unconverted graph has the most floats.
    """
    model = model.clone()
    graph = model.graph
    read = _rounded(graph)
    computed = {value: found for value, found in read.items() if not value.is_graph_input()}
    given = [distance for value in read.keys() - computed.keys() for distance in read[value]]
    graph.outputs.clear()
    graph.outputs.extend(computed)
    for value in graph.outputs:
        value.type = ir.TensorType(ir.DataType.FLOAT)
    dialect.attach_functions(model)
    run = onnxruntime_run(ir.to_proto(model)) if graph.outputs else lambda image: []
    smallest = []
    for image in np.split(inputs, len(inputs)):
        distances = [distance(image) for distance in given]
        for array, found in zip(run(image), computed.values(), strict=True):
            distances += [distance(array) for distance in found]
        smallest.append(min(distances, default=np.inf))
    return np.array(smallest, np.float64)


def _rounded(graph: ir.Graph) -> dict[ir.Value, list[Distance]]:
    """Every float that becomes a sign or an integer, and how far it is from becoming another.

    An integer of the input itself is the same in every engine: they divide alike.
    """
    read: dict[ir.Value, list[Distance]] = {}
    for node in graph:
        op, x = dialect.op_of(node), node.inputs[0] if node.inputs else None
        if x is None:
            continue
        if op is not None and op.binarizes:
            read.setdefault(x, []).append(_from_zero)
        elif (index := _step_of(node)) is not None and not x.is_graph_input():
            step = constants.read(node.inputs[index])
            if step is not None and step.size == 1 and 0 < step.item() < np.inf:
                read.setdefault(x, []).append(partial(_from_half_step, step=step.item()))
    return read


def _step_of(node: ir.Node) -> int | None:
    """Which input is the step of the 8-bit integers that a node makes of its first input."""
    if (node.domain, node.op_type) == ("", "QuantizeLinear"):
        return 1
    op = dialect.op_of(node)
    return op.inputs.index("input_scale") if op is not None and "input_scale" in op.inputs else None


def _from_zero(array: NDArray) -> float:
    magnitudes = np.abs(array[array != 0])
    return float(magnitudes.min()) if magnitudes.size else np.inf


def _from_half_step(array: NDArray, step: float) -> float:
    """From the nearest (q + 1/2) step with q and q + 1 in -128..127."""
    steps = array.astype(np.float64) / step
    halves = np.clip(np.floor(steps), -128, 126) + 0.5
    return float(np.abs(steps - halves).min(initial=np.inf)) * step


@dataclass(frozen=True)
class Selection:
    """Which candidates were taken: `indices` in their order, `margin` the least of theirs, and
    `skipped`, how many of all candidates come closer than MARGIN to being rounded otherwise.
    """

    indices: NDArray[np.intp]
    margin: float
    skipped: int


def select(model: ir.Model, candidates: NDArray[np.float32], count: int) -> Selection:
    """The up to `count` candidates with the largest margins, none of them below MARGIN.

    Of a network with millions of rounded floats an image none comes close in is rare, so where no
    candidate is clear the clearest one is taken alone, and its `margin` says so.
    """
    found = margins(model, candidates)
    clear = int((found >= MARGIN).sum())
    clearest = np.argsort(-found, kind="stable")[: min(max(clear, 1), count)]
    return Selection(np.sort(clearest), float(found[clearest].min()), len(found) - clear)
