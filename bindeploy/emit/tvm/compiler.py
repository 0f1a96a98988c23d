"""Converted model -> compiled module: our kernels, TVM's passes, one shared library."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import tvm
from tvm import relax
from tvm.relax.backend import cpu_generic, gpu_generic

from bindeploy.build import FLAGS, LIBRARY, LIBRARY_SOURCES
from bindeploy.convert.name_layers import NameLayers
from bindeploy.emit.tvm import schedules
from bindeploy.emit.tvm.importer import check_operators, in_words, to_relax
from bindeploy.emit.tvm.languages import cuda_compiler, exact_literals
from bindeploy.emit.tvm.linking import link, linker
from bindeploy.emit.tvm.machine import BUILTIN
from bindeploy.emit.tvm.runtime_layers import take_chains, write_data
from bindeploy.emit.tvm.sources import SOURCES, export_c, sources
from bindeploy.emit.tvm.targets import Described, describe
from bindeploy.emit.tvm.values import OF_NODE
from bindeploy.errors import BindeployError, unknown
from bindeploy.files import installed, resource, whole_file
from bindeploy.target import Target

KERNELS = ("own", "runtime")
"""Who computes the layers of bits: kernels that TVM compiles, or the C runtime's."""


def check(model: ir.Model, target: Target, kernels: str = "own") -> None:
    """BindeployError for what `write_module` would refuse by name; nothing is compiled."""
    _described(target, kernels)
    linker(target)
    if len(model.graph.outputs) != 1:
        names = ", ".join(f"`{value.name}`" for value in model.graph.outputs) or "none"
        raise BindeployError(f"the model has outputs {names}: a module gives one")
    check_operators(_one_image(_named(model)))


def write_module(
    model: ir.Model, target: Target, path: Path, kernels: str = "own"
) -> dict[str, object]:
    """Compile a converted model for `target` into the shared library `path`.

    Its function `main` takes one image float32 [1, ...] and gives the logits [1, ...], or a tuple
    where the model has more outputs; `input_shape` gives the shape of an image. `kernels` is one of
    KERNELS. Raises BindeployError for a model that TVM cannot compile, for a target that it does
    not know, and where the target's compiler, which links, is not here.

    Returns what a manifest says of it: `tvm`, its version; `target`, as TVM writes it, and
    `processor`; `kernels`; name and shape of the `input`, for one image; the name of the first
    `output`; `calls`, every kernel in the order in which they run, and the layer of each, if it is
    one of ours.
    """
    described, compiler = _described(target, kernels), linker(target)
    model = _named(model)
    plans = take_chains(model) if kernels == "runtime" else []
    proto = _one_image(model)
    calls: list[tuple[str, str]] = []
    module = _with_input_shape(to_relax(proto, described.processor), proto)
    with in_words(f"compile `{model.graph.name}`"):
        executable = build(module, described, calls)
    if described.processor.kind == "c":
        export_c(executable, path)
    else:
        with tempfile.TemporaryDirectory(prefix="bindeploy-tvm-") as folder:
            added = _runtime(plans, target, Path(folder)) if plans else []
            link(executable, compiler, path, added)
    written = json.loads(str(described.target))
    return {
        "tvm": tvm.__version__,
        "target": written,
        "processor": written.get("mcpu", written["kind"]),
        "kernels": kernels,
        "input": _input(proto.graph.input[0]),
        "output": proto.graph.output[0].name,
        "calls": _calls(executable, calls, proto.graph),
    }


def _described(target: Target, kernels: str) -> Described:
    if kernels not in KERNELS:
        raise unknown("--tvm-kernels", kernels, KERNELS)
    described = describe(target)
    kind = described.processor.kind
    if kernels == "runtime" and kind != "llvm":
        raise BindeployError(
            f"target `{target.name}`: the C runtime has no kernels in {kind}: "
            "leave out --tvm-kernels runtime"
        )
    if kind == "cuda" and tvm.runtime.enabled("cuda") and cuda_compiler() is None:
        raise BindeployError(
            "no compiler for CUDA is here: install its toolkit, or `pip install cuda-bindings "
            "nvidia-cuda-nvrtc`"
        )
    return described


def _input(value: onnx.ValueInfoProto) -> dict[str, object]:
    _, *sizes = value.type.tensor_type.shape.dim
    return {"name": value.name, "shape": [size.dim_value for size in sizes]}


def _calls(
    executable: Any, before: Sequence[tuple[str, str]], graph: onnx.GraphProto
) -> list[dict[str, str]]:
    """The kernels that the virtual machine's program calls, between its own steps.

    `before` are the same, and some that became steps of its own, each with the tensor it makes.
    """
    rest = iter(before)
    found = []
    for name in re.findall(r"^ *call +(\S+)", executable.as_text(), re.MULTILINE):
        if not name.startswith(BUILTIN):
            tensor = next((tensor for kernel, tensor in rest if kernel == name), "")
            number = re.match(rf"{OF_NODE}(\d+)_", tensor)
            found.append(
                {"kernel": name, "layer": graph.node[int(number[1])].name if number else ""}
            )
    return found


def _runtime(plans: list[bytes], target: Target, folder: Path) -> list[str]:
    """What a compiler is given to link the C runtime and its plans into a module."""
    sources = resource("runtime").resolve()
    library = installed(LIBRARY) if target.toolchain == "installed" else None
    code = (
        [library] if library else [path for form in LIBRARY_SOURCES for path in sources.glob(form)]
    )
    added = [write_data(plans, folder), sources / "tvm" / "chains.c", *sorted(code)]
    flags = [*FLAGS, *target.cflags, "-fPIC", f"-I{sources}", f"-I{sources}/include", "-pthread"]
    return [*flags, *map(str, added)]


def _with_input_shape(module: tvm.IRModule, proto: onnx.ModelProto) -> tvm.IRModule:
    """`module` and a function without arguments that gives the shape of its input."""
    sizes = proto.graph.input[0].type.tensor_type.shape.dim
    builder = relax.BlockBuilder(module)
    with builder.function("input_shape", []):
        builder.emit_func_output(relax.ShapeExpr([size.dim_value for size in sizes]))
    return builder.get()


def write_sources(model: ir.Model, target: Target, folder: Path) -> list[str]:
    """Write the kernels of a converted model into `folder` as source; the names of the files.

    For `cuda` and `opencl` that is one file, which shows what the module runs. For `c` it is all of
    the module:

        cc -O3 -ffp-contract=off -shared -fPIC -I INCLUDES kernels.c network.c -o model.so

    with the headers that come with TVM. Empty for a target whose kernels are machine code. Raises
    BindeployError for a model that TVM cannot compile.
    """
    described = describe(target)
    if described.processor.kind not in SOURCES:
        return []
    module = to_relax(_one_image(_named(model)), described.processor)
    with in_words(f"compile `{model.graph.name}`"):
        executable = build(module, described)
    texts = sources(executable, described.processor.kind)
    for name, text in texts.items():
        with whole_file(folder / name) as path:
            path.write_text(text, encoding="utf-8")
    return list(texts)


def _named(model: ir.Model) -> ir.Model:
    """A copy whose nodes have unique names."""
    named = model.clone()
    NameLayers()(named)
    return named


def _one_image(model: ir.Model) -> onnx.ModelProto:
    """The model with N = 1."""
    proto = ir.to_proto(model)
    for value in proto.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    return proto


def build(
    module: tvm.IRModule, described: Described, calls: list[tuple[str, str]] | None = None
) -> Any:
    """The executable of a Relax module.

    `calls` gets every kernel that is called, and the name of the tensor that it makes.
    """
    target = described.target
    generic = gpu_generic if described.processor.gpu else cpu_generic
    ready = with_kernels(module, described)
    if calls is not None:
        calls.extend(_called(ready["main"]))
    passes = [
        *generic.pipeline.dataflow_lower_passes(target),
        *generic.pipeline.finalize_passes(target),
    ]
    unchecked = {"tirx.disable_assert": described.processor.kind == "c"}  # half of a C file
    with target, tvm.transform.PassContext(config=unchecked):
        return tvm.compile(ready, target=target, relax_pipeline=tvm.transform.Sequential(passes))


def with_kernels(module: tvm.IRModule, described: Described) -> tvm.IRModule:
    """The module with a PrimFunc for each of its operators."""
    target, processor = described.target, described.processor
    generic = gpu_generic if processor.gpu else cpu_generic
    passes = [
        relax.transform.DeadCodeElimination(),
        *generic.pipeline.library_dispatch_passes(target),
        *generic.pipeline.legalize_passes(target),
        *([] if processor.gpu else [schedules.over_vectors(processor.lanes)]),
        exact_literals(processor.kind),
        relax.transform.DeadCodeElimination(),
    ]
    with target:
        return tvm.transform.Sequential(passes)(module)


def _called(main: Any) -> Iterator[tuple[str, str]]:
    for block in main.body.blocks:
        for binding in block.bindings:
            if getattr(binding.value, "op", None) == tvm.ir.Op.get("relax.call_tir"):
                yield binding.value.args[0].name_hint, binding.var.name
