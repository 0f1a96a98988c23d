"""Which inputs may serve as golden vectors: those whose binarized floats stay clear of zero.

Engines sum floats in different orders, so a float that is binarized can land on either side of zero
when it is nearly zero. Exactly zero is safe: it is +1 everywhere.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bindeploy.convert import dialect
from bindeploy.convert.engines import onnxruntime_run
from bindeploy.errors import BindeployError

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


def select(model: ir.Model, candidates: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Indices [count] of the first candidates whose margin is at least MARGIN.

    Raises BindeployError when there are fewer, and says how many there were.
    """
    clear = np.flatnonzero(margins(model, candidates) >= MARGIN)
    if len(clear) < count:
        raise BindeployError(
            f"only {len(clear)} of {len(candidates)} candidates keep every binarized float at "
            f"least `{MARGIN}` from zero: give more candidates, or ask for fewer than {count}"
        )
    return clear[:count]
