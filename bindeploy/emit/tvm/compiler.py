"""Converted model -> compiled module: our kernels, TVM's passes, one shared library."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import tvm
from tvm import relax
from tvm.relax.backend import cpu_generic
from tvm.support import cc

from bindeploy.build import FLAGS, LIBRARY
from bindeploy.convert.name_layers import NameLayers
from bindeploy.emit.tvm.importer import to_relax
from bindeploy.emit.tvm.runtime_layers import take_chains, write_data
from bindeploy.emit.tvm.targets import Described, describe
from bindeploy.errors import unknown
from bindeploy.files import installed, resource
from bindeploy.target import Target

KERNELS = ("own", "runtime")
"""Who computes the layers of bits: kernels that TVM compiles, or the C runtime's."""


def write_module(model: ir.Model, target: Target, path: Path, kernels: str = "own") -> None:
    """Compile a converted model for `target` into the shared library `path`.

    Its function `main` takes one image float32 [1, ...] and gives the logits [1, ...], or a tuple
    where the model has more outputs. `kernels` is one of KERNELS. Raises BindeployError for a model
    that TVM cannot compile.
    """
    if kernels not in KERNELS:
        raise unknown("--tvm-kernels", kernels, KERNELS)
    described = describe(target)
    model = model.clone()
    NameLayers()(model)
    plans = take_chains(model) if kernels == "runtime" else []
    executable = build(to_relax(_one_image(model), described.processor), described)
    with tempfile.TemporaryDirectory(prefix="bindeploy-tvm-") as folder:
        added = _runtime(plans, Path(folder)) if plans else {}
        executable.export_library(str(path), **added)


def _runtime(plans: list[bytes], folder: Path) -> dict[str, Any]:
    """What links the C runtime and its plans into a module."""
    sources, library = resource("runtime").resolve(), installed(LIBRARY)
    added = [write_data(plans, folder), sources / "tvm" / "chains.c", library]
    options = [*FLAGS, "-shared", "-fPIC", f"-I{sources}", f"-I{sources}/include", "-lm"]
    return {"fcompile": cc.cross_compiler("cc", options=options, add_files=list(map(str, added)))}


def _one_image(model: ir.Model) -> onnx.ModelProto:
    """The model with N = 1."""
    proto = ir.to_proto(model)
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
