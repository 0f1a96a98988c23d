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


def from_source(
    source: Path | str | ir.Model,
    target: Target | str,
    out: Path | str,
    format: str = "runtime",
    progress: Progress | None = None,
) -> Bundle:
    """Convert a RUN folder, an ONNX file or an ONNX model, and bundle it for `target` in `out`.

    A run brings its own images, and torch records the golden vectors. For an ONNX model the images
    are standard normal noise, and stock onnxruntime records them on the graph as it was given.
    `target` is a `Target`, the name of one, or a TOML file. Raises `BindeployError` for a source
    that is neither, and as `create` does.
    """
    from bindeploy.convert import pipeline

    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    built_for = load(target) if isinstance(target, str) else target
    tell = progress or (lambda line: None)
    tell("reading the network")
    latent, candidates, evaluate, engine, provenance = _read_source(source)
    packed = pipeline.convert(latent)
    tell("choosing golden inputs")
    golden = _record(latent, candidates, evaluate, engine)
    return create(packed, golden, built_for, out, provenance, format=format, progress=progress)


class _Source(NamedTuple):
    """A network before conversion, images to choose golden inputs from, and who evaluates it."""

    latent: ir.Model
    candidates: NDArray[np.float32]
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
    return _Source(
        model,
        np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32),
        lambda images: run_onnxruntime(model, images),
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


def _record(
    latent: ir.Model,
    candidates: NDArray[np.float32],
    evaluate: Callable[[NDArray[np.float32]], Results],
    engine: str,
) -> Golden:
    """Golden vectors of the candidates that are clearest of ties, up to `GOLDEN_COUNT`."""
    from bindeploy.convert.golden import select

    chosen = select(latent, candidates, GOLDEN_COUNT)
    images = candidates[chosen.indices]
    margin = chosen.margin if np.isfinite(chosen.margin) else None
    return Golden(images, *evaluate(images), engine, chosen.skipped, margin)


def inspect(path: Path | str) -> dict[str, Any]:
    """What a MODEL.onnx, a bundle or a RUN costs: `layers` and `total` of `convert.inspect`.

    A run is counted as converted. For a bundle, `total` has `file_bytes`: of the plan, or of the
    portable file where there is no plan. A name of the zoo, where nothing of that name is there, is
    counted by `train.summary`.
    """
    path = Path(path)
    if not path.exists():
        return _inspect_model(str(path))
    from bindeploy.convert import pipeline
    from bindeploy.convert.inspect import inspect as cost

    if path.is_file():
        return cost(pipeline.load(path))
    if (path / RUN).is_file():
        return cost(pipeline.convert(_export(path).model))
    bundle = Bundle.open(path)
    report = cost(pipeline.load(bundle.model))
    file = bundle.plan if bundle.plan.is_file() else bundle.model
    report["total"]["file_bytes"] = file.stat().st_size
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
