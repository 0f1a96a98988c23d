"""From a graph with latent binary layers to one with packed bits: the passes in reading order."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import onnx
import onnx.version_converter
import onnx_ir as ir
import onnx_ir.passes.common as common
from onnx_ir.passes import InPlacePass

from bindeploy.convert import dialect, provenance
from bindeploy.convert.drop_clip_before_sign import DropClipBeforeSign
from bindeploy.convert.explain import Layer, explain
from bindeploy.convert.fold_latent_weights import FoldLatentWeights
from bindeploy.convert.fuse_batch_normalization_into_scale import FuseBatchNormalizationIntoScale
from bindeploy.convert.fuse_batch_normalization_into_threshold import (
    FuseBatchNormalizationIntoThreshold,
)
from bindeploy.convert.load import load as load
from bindeploy.convert.load import source
from bindeploy.convert.name_layers import NameLayers
from bindeploy.convert.swap_max_pool_and_batch_normalization import (
    SwapMaxPoolAndBatchNormalization,
)
from bindeploy.errors import BindeployError

PIPELINE: tuple[Callable[[], InPlacePass], ...] = (
    NameLayers,
    FoldLatentWeights,
    DropClipBeforeSign,
    SwapMaxPoolAndBatchNormalization,
    FuseBatchNormalizationIntoThreshold,
    FuseBatchNormalizationIntoScale,
    DropClipBeforeSign,
)
"""The last pass again: where a layer became a threshold, a BinarySign after it can go."""


LARGEST_TENSOR = 2**28
"""Numbers of one tensor of one image, or of one constant."""


@dataclass(frozen=True)
class Conversion:
    """A converted model, and what became of each layer of the one it was made from."""

    model: ir.Model
    layers: list[Layer]


def convert(model: ir.Model) -> ir.Model:
    """A new model in which every binary layer is packed; `model` is left as it is.

    The outcome has opset 20 and IR version 10, carries the functions of the dialect ops it uses,
    and nothing of the exporter's metadata. A converted model comes back unchanged. Raises
    BindeployError when the model has no binary layer, or one breaks the dialect's contract.
    """
    conversion = run(model)
    if not any(layer.binarized for layer in conversion.layers):
        raise nothing_binarized(model, conversion)
    return conversion.model


def nothing_binarized(model: ir.Model, conversion: Conversion) -> BindeployError:
    """What to say of a model of which every layer stays in float, with the last layer's reason."""
    last = conversion.layers[-1:]
    why = f" (`{last[0].name}`: {last[0].reason})" if last else ""
    return BindeployError(
        f"`{source(model)}` has no binary layer{why}: train it with bindeploy.binarize(model), or "
        f"export its layers as operators of domain `{dialect.LATENT}`"
    )


def run(model: ir.Model) -> Conversion:
    """As `convert`, with what became of each layer; a model without binary layers is no error."""
    converted = prepare(model)
    for make in PIPELINE:
        _run(make(), converted)
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
        reason = " ".join(str(cause).split())[:200]
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
    _run(common.RemoveUnusedFunctionsPass(), copy)
    _run(common.InlinePass(), copy)
    copy = _to_opset(copy, source(model))
    copy.ir_version = dialect.IR_VERSION
    _run(common.RemoveInitializersFromInputsPass(), copy)
    _run(common.ShapeInferencePass(check_type=False, strict_mode=False), copy)
    for value in _values(copy):
        sizes = [size for size in value.shape or [] if isinstance(size, int)]
        if math.prod(sizes) > LARGEST_TENSOR:
            raise BindeployError(
                f"`{source(model)}` has a tensor `{value.name}` of {list(value.shape or [])}: "
                f"at most {LARGEST_TENSOR} numbers (1 GiB) are taken"
            )
    return copy


def _to_opset(model: ir.Model, name: str) -> ir.Model:
    given = model.opset_imports.get("", dialect.OPSET)
    if given == dialect.OPSET:
        return model
    try:
        proto = onnx.version_converter.convert_version(ir.to_proto(model), dialect.OPSET)
    except Exception as error:
        raise BindeployError(
            f"`{name}` has opset {given}, which does not convert to {dialect.OPSET} "
            f"({str(error).splitlines()[0]}): export it with opset {dialect.OPSET}"
        ) from None
    return ir.from_proto(proto)


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
