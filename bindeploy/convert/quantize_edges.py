"""Pass: layers whose weights stay numbers, as the first and the last, compute in int8.

With w[f] ~ r[f] v, v an integer of -127..127 and r[f] = max |w[f]| / 127, and x ~ s q, q an integer
of -128..127 and s found by calibration (B. Jacob et al., Quantization and Training of Neural
Networks for Efficient Integer-Arithmetic-Only Inference, 2018, symmetric and per filter):

    w x + bias  ~  (s r[f]) (v q) + bias

The sum v q is an integer, the same in every engine; a float sum of s q with r v, as QuantizeLinear
and DequantizeLinear write it, every engine rounds in its own order. Where x is +-c, s = c and q is
exact, as is a padded tap, q = 0.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
from numpy.typing import NDArray
from onnx_ir.passes import InPlacePass, PassResult

from bindeploy.convert import constants, dialect, dialect_int8, notes, packed_layer
from bindeploy.convert.activation_scales import scales
from bindeploy.convert.convolution_window import window
from bindeploy.convert.fuse_int8_into_threshold import FuseInt8IntoThreshold
from bindeploy.convert.name_layers import NameLayers
from bindeploy.convert.scaled_signs import magnitude
from bindeploy.errors import unknown

EDGES = ("int8",)
"""What the layers may become: the choices of `--edges`."""

LAYERS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class Edge:
    """A standard layer as numbers: weight [F, C/group, KH, KW] or [F, C] and bias [F] in float64,
    and the attributes of its int8 form.
    """

    node: ir.Node
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    attributes: dict[str, Any]


class QuantizeEdges(InPlacePass):
    """1. Conv over images, of constant weights -> Int8Conv2d
    2. Gemm, its input not transposed, and MatMul with a constant matrix on the right -> Int8Linear

    `images` [N, ...] calibrate; `which` names the layers, all of them where it is None. A layer
    that is no such one stays float and says why.
    """

    def __init__(self, images: NDArray[np.float32], which: Collection[str] | None = None) -> None:
        super().__init__()
        self.images = images
        self.which = which

    def call(self, model: ir.Model) -> PassResult:
        edges = self._edges(model)
        inputs = {str(x.name): magnitude(x) for x in (edge.node.inputs[0] for edge in edges) if x}
        measured = [name for name, c in inputs.items() if c is None]
        steps = scales(model, self.images, measured) if measured else {}
        steps |= {name: np.float32(c) for name, c in inputs.items() if c is not None}
        for edge in edges:
            x = edge.node.inputs[0]
            assert x is not None, "a layer reads something"
            _quantize(edge, steps[str(x.name)], by_calibration=inputs[str(x.name)] is None)
        return PassResult(model, bool(edges))

    def _edges(self, model: ir.Model) -> list[Edge]:
        """The layers that can be quantized, of those that are wanted; the others say why not."""
        nodes = {
            str(node.name): node
            for node in model.graph
            if node.domain == "" and node.op_type in LAYERS
        }
        for name in self.which or ():
            if name not in nodes:
                raise unknown("float layer", name, nodes)
        edges = []
        for name in nodes if self.which is None else self.which:
            edge = _read(nodes[name])
            if isinstance(edge, str):
                notes.reason(nodes[name], f"no int8: {edge}")
            else:
                edges.append(edge)
        return edges


def quantize_edges(
    model: ir.Model, images: NDArray[np.float32], which: Collection[str] | None = None
) -> ir.Model:
    """A copy of `model` whose float layers compute in int8, calibrated with `images` [N, ...].

    `which` names the layers, all of them where it is None. Where only signs of one are read, it
    compares its integers with thresholds. Raises BindeployError for images that the model does not
    take, for activations that are not finite, and for a name that is no float layer's.
    """
    quantized = model.clone()
    for step in (
        NameLayers(),
        QuantizeEdges(images, which),
        FuseInt8IntoThreshold(),
        common.ClearMetadataAndDocStringPass(),
    ):
        step(quantized)
    dialect.verify(quantized)
    dialect.attach_functions(quantized)
    return quantized


def _read(node: ir.Node) -> Edge | str:
    """The layer as numbers, or in words why it has no int8 form."""
    array = constants.read(node.inputs[1])
    if array is None:
        left = constants.read(node.inputs[0]) is not None
        return "weights are on the left" if left else "both factors are computed"
    if constants.read(node.inputs[0]) is not None:
        return "its input is constant"
    if array.dtype != np.float32 or not np.isfinite(array).all():
        return f"weights are {array.dtype}, not float32, or not finite"
    given = node.attributes
    attributes: dict[str, Any] = {}
    if node.op_type == "Conv":
        found = window(node, array.shape[2:])
        if isinstance(found, str):
            return found
        attributes = {"group": given.get_int("group", 1), **found}
        del attributes["pad_value"]
    elif array.ndim != 2:
        return f"weights are of rank {array.ndim}, no matrix"
    elif given.get_int("transA", 0):
        return "its input is transposed"
    rows = node.op_type == "Conv" or given.get_int("transB", 0) == 1
    weight = (array if rows else array.T) * np.float64(given.get_float("alpha", 1.0))
    bias = _bias(node, len(weight))
    return bias if isinstance(bias, str) else Edge(node, weight, bias, attributes)


def _bias(node: ir.Node, filters: int) -> NDArray[np.float64] | str:
    """[F]: the third input times a Gemm's beta; in words where it is no number a filter."""
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return np.zeros(filters)
    bias = constants.read(node.inputs[2])
    if bias is None or bias.size not in (1, filters) or any(size > 1 for size in bias.shape[:-1]):
        return "bias is computed, or differs from row to row"
    scaled = bias.reshape(-1) * np.float64(node.attributes.get_float("beta", 1.0))
    return np.broadcast_to(scaled, filters)


def integers(weight: NDArray[np.float64]) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """v int8 [F, ...] and r [F] of a weight [F, ...]; a filter of zeros has r = 1."""
    largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)
    steps = np.where(largest > 0, largest / dialect_int8.HIGHEST, 1.0)
    counted = weight / steps.reshape(-1, *[1] * (weight.ndim - 1))
    return np.round(counted).astype(np.int8), steps


def _quantize(edge: Edge, input_scale: np.float32, by_calibration: bool) -> None:
    """Put the int8 layer in the place of the float one, or say why not."""
    node, graph = edge.node, edge.node.graph
    assert graph is not None, "a pass replaces nodes of a graph"
    weight, steps = integers(edge.weight)
    with np.errstate(over="ignore"):
        scale = (steps * np.float64(input_scale)).astype(np.float32)
        bias = edge.bias.astype(np.float32)
    if dialect_int8.largest_dots(weight).max() > dialect_int8.LARGEST_DOT:
        notes.reason(node, "no int8: it sums beyond 32-bit integers")
        return
    if not (np.isfinite(scale).all() and np.isfinite(bias).all()):
        notes.reason(node, "no int8: scale or bias is not finite")
        return
    for index in range(1, len(node.inputs)):
        packed_layer.release(node, index)
    arrays: tuple[NDArray, ...] = (weight, np.asarray(input_scale), scale, bias)
    inputs = [
        constants.initializer(graph, f"{node.name}.{name}", array)
        for name, array in zip(dialect.INT8_AFFINE[1:], arrays, strict=True)
    ]
    layer = ir.node(
        "Int8Conv2d" if node.op_type == "Conv" else "Int8Linear",
        [node.inputs[0], *inputs],
        attributes=edge.attributes,
        domain=dialect.DOMAIN,
        name=node.name,
    )
    constants.replace(node, layer)
    how = "by calibration: input scale" if by_calibration else "of signs: input scale"
    notes.reason(layer, f"int8 {how} {input_scale:.4g}, was float")
