"""From a graph with binary layers, however written, to packed bits: the passes in order."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
from numpy.typing import NDArray
from onnx_ir.passes import InPlacePass

from bindeploy.convert import dialect, provenance, type_inference
from bindeploy.convert.absorb_padding import AbsorbPadding
from bindeploy.convert.binarize_layers import BinarizeLayers
from bindeploy.convert.cancel_transposes import CancelTransposes
from bindeploy.convert.drop_clip_before_sign import DropClipBeforeSign
from bindeploy.convert.drop_expand import DropExpand
from bindeploy.convert.drop_straight_through import DropStraightThrough
from bindeploy.convert.explain import Layer, explain
from bindeploy.convert.fold_constants import FoldConstants
from bindeploy.convert.fold_latent_weights import FoldLatentWeights
from bindeploy.convert.fuse_int8_into_threshold import FuseInt8IntoThreshold
from bindeploy.convert.fuse_into_scale import FuseIntoScale
from bindeploy.convert.fuse_into_threshold import FuseIntoThreshold
from bindeploy.convert.import_qonnx import ImportQonnx
from bindeploy.convert.import_signs import ImportSigns
from bindeploy.convert.inline_functions import InlineFunctions
from bindeploy.convert.load import load as load
from bindeploy.convert.load import source
from bindeploy.convert.lower_weight_only import LowerWeightOnly
from bindeploy.convert.message_checks import LARGEST_TENSOR
from bindeploy.convert.name_layers import NameLayers
from bindeploy.convert.opsets import ConvertOpset
from bindeploy.convert.quantize_edges import QuantizeEdges
from bindeploy.convert.split_transposed import SplitTransposed
from bindeploy.convert.widen_one_dimensional import WidenOneDimensional
from bindeploy.errors import BindeployError

SIGNS: tuple[Callable[[], InPlacePass], ...] = (
    NameLayers,
    ImportQonnx,
    DropStraightThrough,
    FoldConstants,
    DropExpand,
    ImportSigns,
)
"""Signs, however they are written, become those of the dialect; the numbers stay."""

PIPELINE: tuple[Callable[[], InPlacePass], ...] = (
    *SIGNS,
    CancelTransposes,
    # Layers of +-1 weights into bits.
    AbsorbPadding,
    SplitTransposed,
    WidenOneDimensional,
    BinarizeLayers,
    FoldLatentWeights,
    DropClipBeforeSign,
    AbsorbPadding,
    # What follows a layer into it.
    FuseIntoThreshold,
    FuseIntoScale,
    DropClipBeforeSign,
    CancelTransposes,
)
"""A pad of a standard convolution goes into it before the layer is packed, and one of a latent
layer after; a clip in front of a sign goes before thresholds are found, and what is left of signs
after, and the transposes that it kept apart.
"""


@dataclass(frozen=True)
class Conversion:
    """A converted model, and what became of each layer of the one it was made from."""

    model: ir.Model
    layers: list[Layer]


def convert(model: ir.Model, edges: NDArray[np.float32] | None = None) -> ir.Model:
    """A new model in which every binary layer is packed; `model` is left as it is.

    The outcome has opset 20 and IR version 10, carries the functions of the dialect ops it uses,
    and nothing of the exporter's metadata. Converted again it computes the same. Raises
    BindeployError when the model has no binary layer, or one breaks the dialect's contract.
    """
    conversion = run(model, edges)
    if not any(layer.binarized for layer in conversion.layers):
        raise nothing_binarized(model, conversion)
    return conversion.model


def nothing_binarized(model: ir.Model, conversion: Conversion) -> BindeployError:
    """What to say of a model of which every layer stays in float, with the reason of the first that
    does not read the input itself.
    """
    layer = next(iter(conversion.layers[1:] or conversion.layers), None)
    why = f" (`{layer.name}`: {layer.reason})" if layer else ""
    return BindeployError(
        f"`{source(model)}` has no binary layer{why}: give weights of +-alpha in each filter, or "
        "train it with bindeploy.binarize(model)"
    )


def with_signs(model: ir.Model) -> ir.Model:
    """A prepared copy in which only the signs were recognized: what `model` computes, layer by
    layer in float, with BinarySign where something is binarized.
    """
    copy = prepare(model)
    for make in SIGNS:
        _run(make(), copy)
    dialect.attach_functions(copy)
    return copy


WEIGHT_ONLY: dict[str, Callable[[], InPlacePass]] = {"matmulnbits": LowerWeightOnly}
"""What dense layers of 1-bit weights and float inputs may become, for stock onnxruntime."""


def run(
    model: ir.Model, edges: NDArray[np.float32] | None = None, weight_only: str | None = None
) -> Conversion:
    """As `convert`, with what became of each layer; a model without binary layers is no error.

    `edges`, inputs [N, ...] to calibrate with, turns the layers whose weights stay numbers into
    int8; `weight_only`, a name of `WEIGHT_ONLY`, says what those of 1-bit weights alone become.
    """
    converted = prepare(model)
    steps = [make() for make in PIPELINE]
    if edges is not None:
        steps += [QuantizeEdges(edges), FuseInt8IntoThreshold()]
    if weight_only is not None:
        steps.append(WEIGHT_ONLY[weight_only]())
    for step in steps:
        _run(step, converted)
        dialect.verify(converted)
    _remove_unused(converted)
    layers = explain(converted)
    return Conversion(_finish(converted), layers)


def _remove_unused(model: ir.Model) -> None:
    _run(common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0), model)
    _run(common.RemoveUnusedNodesPass(), model)


def _run(step: InPlacePass, model: ir.Model) -> None:
    """Run one pass; what it says of the model reaches the user as it is, in one line."""
    try:
        step(model)
    except BindeployError:
        raise
    except Exception as error:
        cause = error.__cause__ or error
        if isinstance(cause, BindeployError):
            raise cause from None
        reason = type_inference.contradiction(model) or " ".join(str(cause).split())[:200]
        raise BindeployError(
            f"`{model.graph.name}` does not convert, {type(step).__name__} failed ({reason}): "
            "export it anew"
        ) from error


def prepare(model: ir.Model) -> ir.Model:
    """A copy in opset 20 and IR version 10, without functions, with every shape that can be known.

    It computes what `model` does. Raises BindeployError for an opset that does not convert, and for
    a tensor so large that a machine would be brought to its knees by it.
    """
    copy = model.clone()
    for identifier in [key for key in copy.functions if key[:2] in dialect.OPS]:
        del copy.functions[identifier]
    _run(InlineFunctions(), copy)
    _run(ConvertOpset(), copy)
    copy.ir_version = dialect.IR_VERSION
    _run(common.RemoveInitializersFromInputsPass(), copy)
    type_inference.infer(copy)
    for value in _values(copy):
        sizes = [size for size in value.shape or [] if isinstance(size, int)]
        if math.prod(sizes) > LARGEST_TENSOR:
            raise BindeployError(
                f"`{source(model)}` has a tensor `{value.name}` of {list(value.shape or [])}: "
                f"at most {LARGEST_TENSOR} numbers (1 GiB) are taken"
            )
    return copy


def _finish(model: ir.Model) -> ir.Model:
    kept = provenance.kept(model)
    for step in (
        common.RemoveUnusedFunctionsPass(),
        common.RemoveUnusedOpsetsPass(),
        common.ClearMetadataAndDocStringPass(),
        common.TopologicalSortPass(),
    ):
        _run(step, model)
    for value in _values(model):
        value.metadata_props.clear()
        value.doc_string = None
    model.metadata_props.update(kept)
    model.producer_name, model.producer_version = "bindeploy", None
    model.ir_version = dialect.IR_VERSION
    model.opset_imports[""] = dialect.OPSET
    dialect.attach_functions(model)
    return model


def _values(model: ir.Model) -> list[ir.Value]:
    graph = model.graph
    made = [output for node in graph for output in node.outputs]
    return [*graph.inputs, *graph.initializers.values(), *made]
