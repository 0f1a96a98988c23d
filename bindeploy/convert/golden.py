"""Which inputs may serve as golden vectors: those whose binarized floats stay clear of zero.

Engines sum floats in different orders, so a float that is binarized can land on either side of zero
when it is nearly zero. Exactly zero is safe: it is +1 everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bindeploy.convert import dialect
from bindeploy.convert.engines import onnxruntime_run

MARGIN = 1e-5
"""The least distance from zero of a binarized float, in its own units."""


def margins(model: ir.Model, inputs: NDArray[np.float32]) -> NDArray[np.float64]:
    """[N]: for each image the smallest non-zero |x| over all floats x that a binarizing op reads.

    Infinity for an image all of whose binarized floats are zero. onnxruntime runs the model, one
    image at a time, with those floats as outputs; any stage of the conversion will do, and the
    unconverted graph has the most floats.
    """
    model = model.clone()
    graph = model.graph
    read = dict.fromkeys(
        node.inputs[0] for node, op in dialect.layers(model) if op.binarizes and node.inputs[0]
    )
    from_input = any(value.is_graph_input() for value in read)
    graph.outputs.clear()
    graph.outputs.extend(value for value in read if not value.is_graph_input())
    for value in graph.outputs:
        value.type = ir.TensorType(ir.DataType.FLOAT)
    dialect.attach_functions(model)
    run = onnxruntime_run(ir.to_proto(model)) if graph.outputs else lambda image: []
    smallest = []
    for image in np.split(inputs, len(inputs)):
        floats = [*run(image), image] if from_input else run(image)
        smallest.append(min((_smallest(array) for array in floats), default=np.inf))
    return np.array(smallest, np.float64)


def _smallest(array: NDArray) -> float:
    magnitudes = np.abs(array[array != 0])
    return float(magnitudes.min()) if magnitudes.size else np.inf


@dataclass(frozen=True)
class Selection:
    """Which candidates were taken: `indices` in their order, `margin` the least of theirs, and
    `skipped`, how many of all candidates come closer to zero than MARGIN.
    """

    indices: NDArray[np.intp]
    margin: float
    skipped: int


def select(model: ir.Model, candidates: NDArray[np.float32], count: int) -> Selection:
    """The up to `count` candidates that stay clearest of zero, none of them closer than MARGIN.

    Of a network with millions of binarized floats an image none comes close in is rare, so where no
    candidate is clear the clearest one is taken alone, and its `margin` says so.
    """
    found = margins(model, candidates)
    clear = int((found >= MARGIN).sum())
    clearest = np.argsort(-found, kind="stable")[: min(max(clear, 1), count)]
    return Selection(np.sort(clearest), float(found[clearest].min()), len(found) - clear)
