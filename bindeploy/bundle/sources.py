"""What a bundle is made from: a run, an ONNX file, or an ONNX model."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bindeploy.bundle.folder import Bundle, Golden
from bindeploy.bundle.formats import FORMATS, Progress
from bindeploy.bundle.writing import create
from bindeploy.errors import BindeployError, not_installed, unknown
from bindeploy.files import read_json
from bindeploy.on.transport import Results
from bindeploy.target import Target, load

if TYPE_CHECKING:
    import onnx_ir as ir

RUN = "run.json"
"""The file by which a folder is a run."""

GOLDEN_COUNT = 8
"""Golden inputs of a bundle."""

CANDIDATE_COUNT = 64
"""Random images from which they are chosen where the network comes without data."""


CANDIDATE_NUMBERS = 2**26
"""What they may hold in all: large images are fewer."""

STOCK = ("", "bindeploy", "bindeploy.latent", "com.microsoft")
"""Domains whose operators run in stock onnxruntime, from the file itself where they are ours."""


def from_source(
    source: Path | str | ir.Model,
    target: Target | str,
    out: Path | str,
    format: str = "runtime",
    edges: str | None = None,
    calibrate: Path | str | None = None,
    tvm_kernels: str | None = None,
    progress: Progress | None = None,
) -> Bundle:
    """Convert a RUN folder, an ONNX file or an ONNX model, and bundle it for `target` in `out`.

    A run brings its own images, and torch records the golden vectors. For an ONNX model the images
    are standard normal noise, and stock onnxruntime records them on the graph as it was given.
    `edges` "int8" turns the layers whose weights stay numbers into int8, which `calibrate` (a file
    or folder for `calibration.read`; a run's own images do too) fits; onnxruntime then records the
    golden vectors on the converted graph. `tvm_kernels` "runtime" leaves the layers of bits of a
    compiled module to the C runtime. `target` is a `Target`, the name of one, or a TOML file.
    Raises `BindeployError` for a source that is neither, and as `create` does.
    """
    from bindeploy.convert import pipeline

    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    options = _options(format, tvm_kernels)
    built_for = load(target) if isinstance(target, str) else target
    tell = progress or (lambda line: None)
    tell("reading the network")
    given = _read_source(source)
    packed = pipeline.convert(given.latent, _calibration(given, edges, calibrate))
    FORMATS[format].check(packed, built_for, **options)
    tell("choosing golden inputs")
    golden = _record(given, packed, recalibrated=edges is not None)
    return create(
        packed,
        golden,
        built_for,
        out,
        given.provenance,
        format=format,
        options=options,
        progress=progress,
    )


def _options(format: str, tvm_kernels: str | None) -> dict[str, str]:
    """The options of the format."""
    if tvm_kernels is None:
        return {}
    if format != "tvm":
        raise BindeployError(f"`--tvm-kernels {tvm_kernels}` goes with --format tvm")
    return {"kernels": tvm_kernels}


def _calibration(
    given: _Source, edges: str | None, calibrate: Path | str | None
) -> NDArray[np.float32] | None:
    """The images to calibrate with, None where nothing is to be calibrated."""
    from bindeploy.convert import calibration
    from bindeploy.convert.quantize_edges import EDGES

    if edges not in (None, *EDGES):
        raise unknown("edges", str(edges), EDGES)
    if edges is None:
        if calibrate is not None:
            raise BindeployError(f"`{calibrate}` calibrates nothing: give --edges int8 as well")
        return None
    if calibrate is not None:
        return calibration.for_model(calibrate, given.latent)
    if not given.real:
        raise BindeployError(
            "--edges int8 is fitted to real inputs: give --calibrate, a .npy or .npz of them"
        )
    return given.candidates


class _Source(NamedTuple):
    """A network before conversion, images to choose golden inputs from, and who evaluates it.

    `real` says whether the images are of the network's data.
    """

    latent: ir.Model
    candidates: NDArray[np.float32]
    real: bool
    evaluate: Callable[[NDArray[np.float32]], Results]
    engine: str
    provenance: dict[str, object]


def _read_source(source: Path | str | ir.Model) -> _Source:
    if not isinstance(source, (str, Path)):
        return _from_model(source, {"source": source.graph.name or "an ONNX model"})
    path = Path(source)
    if path.is_dir():
        return _from_run(path)
    from bindeploy.convert import pipeline

    return _from_model(pipeline.load(path), {"source": path.name})


def _from_run(run: Path) -> _Source:
    from bindeploy.convert.provenance import of_run

    exported = _export(run)
    record = read_json(run / RUN)
    exported.model.metadata_props.update(of_run(record))
    return _Source(
        exported.model,
        exported.candidates,
        True,
        exported.evaluate,
        f"torch {version('torch').partition('+')[0]}",
        {"source": run.name, "run": record},
    )


def _export(run: Path) -> Any:
    """A run as `train.to_onnx` exports it: `model`, `candidates` and `evaluate`."""
    if not (run / RUN).is_file():
        raise BindeployError(
            f"`{run}` is no run (it has no {RUN}): give a folder that train --out wrote, "
            "or an ONNX file"
        )
    try:
        from bindeploy.train.to_onnx import from_run
    except ModuleNotFoundError as error:
        raise not_installed(error) or error from None
    return from_run(run)


def _from_model(model: ir.Model, provenance: dict[str, object]) -> _Source:
    from bindeploy.convert import pipeline
    from bindeploy.convert.engines import run_onnxruntime

    model = pipeline.prepare(model)  # stock onnxruntime knows no newer opset, and ours no older
    shape = _input_shape(model)
    count = min(CANDIDATE_COUNT, CANDIDATE_NUMBERS // math.prod(shape))
    if not count:
        raise BindeployError(f"the model's images of {list(shape)} are too large to be recorded")
    signed = pipeline.with_signs(model)
    for node in signed.graph:
        if node.domain not in STOCK:
            raise BindeployError(
                f"node `{node.name}` is `{node.domain}::{node.op_type}`, which no engine runs: "
                "`bindeploy convert` keeps it, for an engine of yours"
            )
    foreign = any(node.domain not in STOCK for node in model.graph)
    return _Source(
        signed,
        np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32),
        False,
        lambda images: run_onnxruntime(signed if foreign else model, images),
        f"onnxruntime {version('onnxruntime')}",
        provenance,
    )


def _input_shape(model: ir.Model) -> tuple[int, ...]:
    """The shape of one image."""
    inputs = [value for value in model.graph.inputs if value.const_value is None]
    batch, *sizes = list(inputs[0].shape or [None]) if len(inputs) == 1 else [None]
    images = sizes and all(isinstance(size, int) and size > 0 for size in sizes)
    if not images or (isinstance(batch, int) and batch != 1):
        found = ", ".join(f"`{value.name}` {value.shape}" for value in inputs) or "none"
        raise BindeployError(
            "the model must have one input, its first size open or 1, the others fixed; "
            f"it has {found}"
        )
    return tuple(int(size) for size in sizes)  # type: ignore[arg-type]


def _record(given: _Source, packed: ir.Model, recalibrated: bool) -> Golden:
    """Golden vectors of the candidates that are clearest of ties, up to `GOLDEN_COUNT`.

    Of the source graph, whose layers may be no binary ones yet: the integers that it does not name
    are those of the converted graph. Where calibration changed the numbers, all are.
    """
    from bindeploy.convert.engines import run_onnxruntime
    from bindeploy.convert.golden import select

    chosen = select(packed if recalibrated else given.latent, given.candidates, GOLDEN_COUNT)
    images = given.candidates[chosen.indices]
    margin = chosen.margin if np.isfinite(chosen.margin) else None
    if recalibrated:
        engine = f"onnxruntime {version('onnxruntime')}, of the int8 edges"
        return Golden(images, *run_onnxruntime(packed, images), engine, chosen.skipped, margin)
    logits, integers = given.evaluate(images)
    if not _integer_layers(packed) <= integers.keys():
        integers = run_onnxruntime(packed, images)[1] | integers
    return Golden(images, logits, integers, given.engine, chosen.skipped, margin)


def _integer_layers(packed: ir.Model) -> set[str]:
    from bindeploy.convert import dialect

    return {
        str(node.name)
        for node, op in dialect.layers(packed)
        if op.binarizes and "bits" in op.inputs
    }


def inspect(path: Path | str) -> dict[str, Any]:
    """What a MODEL.onnx, a bundle or a RUN costs: `layers` and `total` of `convert.inspect`.

    A run is counted as converted. For a file, `total` has `file_bytes`, and in `file` the bytes of
    bits, scales, float constants and graph, whose sum that is; a bundle's file is its plan, or the
    portable file where there is no plan. A name of the zoo, where nothing of that name is there, is
    counted by `train.summary`.
    """
    path = Path(path)
    if not path.exists():
        return _inspect_model(str(path))
    from bindeploy.convert import pipeline
    from bindeploy.convert.file_bytes import onnx_bytes
    from bindeploy.convert.inspect import inspect as cost
    from bindeploy.emit.plan_bytes import plan_bytes

    if path.is_file():
        return _with_file(cost(pipeline.load(path)), onnx_bytes(path))
    if (path / RUN).is_file():
        return cost(pipeline.convert(_export(path).model))
    bundle = Bundle.open(path)
    parts = plan_bytes(bundle.plan) if bundle.plan.is_file() else onnx_bytes(bundle.model)
    return _with_file(cost(pipeline.load(bundle.model)), parts)


def _with_file(report: dict[str, Any], parts: dict[str, int]) -> dict[str, Any]:
    report["total"] |= {"file_bytes": sum(parts.values()), "file": parts}
    return report


def _inspect_model(name: str) -> dict[str, Any]:
    """What the model `name` of the zoo costs, in bits; BindeployError where there is none."""
    from bindeploy.train.models import MODELS

    if name not in MODELS:
        raise BindeployError(
            f"`{name}` is not there: give an ONNX file, a bundle, a run, "
            f"or a model: {', '.join(MODELS)}"
        )
    try:
        from bindeploy.train.summary import summarize
    except ModuleNotFoundError as error:
        raise not_installed(error) or error from None
    return summarize(name)
