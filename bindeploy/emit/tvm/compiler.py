"""Converted model -> compiled module: our kernels, TVM's passes, one shared library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import tvm
from tvm import relax
from tvm.relax.backend import cpu_generic

from bindeploy.convert.name_layers import NameLayers
from bindeploy.emit.tvm.importer import to_relax
from bindeploy.emit.tvm.targets import Described, describe
from bindeploy.target import Target


def write_module(model: ir.Model, target: Target, path: Path) -> None:
    """Compile a converted model for `target` into the shared library `path`.

    Its function `main` takes one image float32 [1, ...] and gives the logits [1, ...], or a tuple
    where the model has more outputs. Raises BindeployError for a model that TVM cannot compile.
    """
    described = describe(target)
    executable = build(to_relax(_one_image(model), described.processor), described)
    executable.export_library(str(path))


def _one_image(model: ir.Model) -> onnx.ModelProto:
    """The model with N = 1 and unique node names."""
    named = model.clone()
    NameLayers()(named)
    proto = ir.to_proto(named)
    for value in proto.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    return proto


def build(module: tvm.IRModule, described: Described) -> Any:
    """The executable of a Relax module for a CPU."""
    target = described.target
    passes = [
        relax.transform.DeadCodeElimination(),
        *cpu_generic.pipeline.library_dispatch_passes(target),
        *cpu_generic.pipeline.legalize_passes(target),
        relax.transform.DeadCodeElimination(),
        *cpu_generic.pipeline.dataflow_lower_passes(target),
        *cpu_generic.pipeline.finalize_passes(target),
    ]
    with target:
        return tvm.compile(module, target=target, relax_pipeline=tvm.transform.Sequential(passes))
