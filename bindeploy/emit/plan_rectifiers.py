"""A prelu behind a layer becomes part of it: the layer rectifies each strip of floats it writes.

    layer -> prelu               layer with a rectifier
    layers -> concat -> prelu    layers with their share of the rectifier -> concat

Done when all nodes are there, and each prelu has its shifts. No float changes by a bit.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from bindeploy.emit.plan_affine import floats, is_unclamped, maps_twice
from bindeploy.emit.plan_builder import RESIDUALS, Builder
from bindeploy.emit.plan_format import Node

NOTHING_BEFORE = np.float32(-0.0)
"""What changes no float where it is added, -0 included."""


def fuse_rectifiers(builder: Builder, output: int) -> None:
    """Fuse every prelu that can be; `output` is the tensor that the plan's caller reads."""
    makers = {node.output: node for node in builder.nodes}
    reads = Counter(tensor for node in builder.nodes for tensor in node.inputs) + Counter([output])
    for node in [*builder.nodes]:
        if node.op != "prelu" or not is_unclamped(node):
            continue
        source = node.inputs[0]
        maker = makers.get(source) if source is not None and reads[source] == 1 else None
        rows = _rows(builder, node)
        if maker is None or rows is None:
            continue
        joined = maker.inputs if maker.op == "concat" else (maker.output,)
        layers = [makers.get(tensor) for tensor in joined if tensor is not None]
        if all(
            layer is not None and reads[layer.output] == 1 and _has_room(builder, layer)
            for layer in layers
        ):
            _split(builder, node, rows, [layer for layer in layers if layer is not None])
            maker.output = node.output
            makers[node.output] = maker
            builder.drop(node)


def _has_room(builder: Builder, layer: Node) -> bool:
    """Whether a node is a layer that does not rectify yet, and has no limits after its sum with a
    residual: a layer that rectifies adds it behind them."""
    if layer.op not in RESIDUALS or len(layer.inputs) > RESIDUALS[layer.op] + 1:
        return False
    adds = len(layer.inputs) > RESIDUALS[layer.op]
    return not adds or is_unclamped(layer) or maps_twice(builder, layer)


def _rows(builder: Builder, prelu: Node) -> NDArray[np.float32] | None:
    """[3, C]: slopes, what is added before, and after; None where they are by element."""
    channels = builder.tensors[prelu.output].shape[3]
    slope, before, after = (*prelu.inputs[1:], None, None)[:3]
    rows = [
        floats(builder, slope),
        np.full(channels, NOTHING_BEFORE) if before is None else floats(builder, before),
        np.zeros(channels, np.float32) if after is None else floats(builder, after),
    ]
    return np.stack(rows) if all(len(row) == channels for row in rows) else None


def _split(builder: Builder, prelu: Node, rows: NDArray[np.float32], layers: list[Node]) -> None:
    """Give each layer the rectifier of its channels."""
    first = 0
    for layer in layers:
        end = first + builder.tensors[layer.output].shape[3]
        rectifier = builder.constant(rows[:, first:end].reshape(-1), f"{prelu.name}/rectifier")
        absent = (None,) * (RESIDUALS[layer.op] + 1 - len(layer.inputs))
        layer.inputs = (*layer.inputs, *absent, rectifier)
        first = end
