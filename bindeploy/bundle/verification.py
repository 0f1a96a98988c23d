"""Run the golden inputs on every engine, and say where one differs from the golden vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bindeploy.bundle.folder import Bundle, Golden
from bindeploy.bundle.formats import Progress
from bindeploy.errors import BindeployError
from bindeploy.on import TRANSPORTS, transport
from bindeploy.on.transport import Results

if TYPE_CHECKING:
    import onnx_ir as ir

LOGIT_TOLERANCE = 1e-4
"""Of the largest golden logit, or of 1 if that is larger: integers must be equal, but engines sum
the float layers in different orders, which costs a few of a float32's 24 bits."""


class _Engine(NamedTuple):
    """Who runs a bundle: whether it is meant to, why it cannot (in words, or None), and how."""

    name: str
    where: str | None
    concerned: bool
    obstacle: str | None
    run: Callable[[NDArray[np.float32]], Results]


def verify(
    bundle: Bundle, on: str | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Run the golden inputs on every engine that is here, and compare with the golden vectors.

    Returns `ok`; `engines`, a row each with `name`, `integers_equal`, `max_logit_difference` (None
    where there is none to take), `classes_equal` and, where they differ, `difference`: which layer,
    and where first; and `skipped`, rows of `name` and `reason`. An engine agrees if its integers
    are equal bit for bit, its logits lie within `LOGIT_TOLERANCE` and its classes are equal.

    With `on`, a place that `bindeploy.on` knows, that one must run. Raises `BindeployError` if it
    cannot, and for damaged golden vectors. A bundle brings a program and the command of its
    emulator, or compiled modules, and all are started: verify bundles of people you trust.
    """
    tell = progress or (lambda line: None)
    if on is not None:
        transport(on)
    golden = bundle.golden
    reference = compare(golden.source, golden, (golden.logits, dict(golden.integers)))
    rows = [{**reference, "note": "the reference, recorded at export"}]
    skipped = []
    for engine in _engines(bundle, on):
        if engine.obstacle is None:
            tell(f"{engine.name}: {len(golden.inputs)} images")
            rows.append(_run_and_compare(engine, golden))
        elif on is not None and engine.where == on:
            raise BindeployError(f"`{bundle.path}` does not run on `{on}`: {engine.obstacle}")
        elif engine.concerned:
            skipped.append({"name": engine.name, "reason": engine.obstacle})
    return {"ok": all("difference" not in row for row in rows), "engines": rows, "skipped": skipped}


def _engines(bundle: Bundle, on: str | None) -> Iterator[_Engine]:
    """Engines of the portable file, then every place where the plan or the module runs."""
    from bindeploy.convert import engines

    for name, run in (("onnxruntime", engines.run_onnxruntime), ("numpy", engines.run_numpy)):
        yield _Engine(name, None, True, None, partial(_run_file, run, bundle.model))
    asked_for = {} if on is None else {on: transport(on)}
    for where, place in (TRANSPORTS | asked_for).items():
        run = partial(place.run_model, bundle)
        yield _Engine(place.engine, where, place.concerns(bundle), place.obstacle(bundle), run)


def _run_file(
    run: Callable[[ir.Model, NDArray[np.float32]], Results], path: Path, images: NDArray[np.float32]
) -> Results:
    from bindeploy.convert import pipeline

    return run(pipeline.load(path), images)


def _run_and_compare(engine: _Engine, golden: Golden) -> dict[str, Any]:
    """A row; an engine that breaks down on a damaged file disagrees, and says how."""
    try:
        results = engine.run(golden.inputs)
    except Exception as error:
        line = " ".join(str(error).split())[:300]
        return {
            "name": engine.name,
            "integers_equal": False,
            "max_logit_difference": None,
            "classes_equal": False,
            "difference": line or type(error).__name__,
        }
    return compare(engine.name, golden, results)


def compare(name: str, golden: Golden, results: Results) -> dict[str, Any]:
    """The row of an engine that gave `results`."""
    from bindeploy.convert.golden import MARGIN

    logits, integers = results
    integers_differ = _integer_difference(golden, integers)
    logits_differ, distance = _logit_difference(golden, logits)
    classes_equal = distance is not None and bool(
        np.array_equal(_classes(logits), _classes(golden.logits))
    )
    row = {
        "name": name,
        "integers_equal": integers_differ is None,
        "max_logit_difference": distance,
        "classes_equal": classes_equal,
    }
    if integers_differ and golden.margin is not None and golden.margin < MARGIN:
        integers_differ += f"; a binarized float lies {golden.margin:.0e} from zero: no proof"
    difference = integers_differ or logits_differ
    if difference is None and not classes_equal:
        difference = "the classes differ: the logits of two classes are all but equal"
    return row if difference is None else {**row, "difference": difference}


def _integer_difference(golden: Golden, integers: Mapping[str, NDArray]) -> str | None:
    """The first layer, and the first place in it, where the integers are not the golden ones."""
    for layer, expected in golden.integers.items():
        found = integers.get(layer)
        if found is None:
            return f"layer `{layer}` is missing"
        if found.shape != expected.shape:
            return f"layer `{layer}`: shape {list(found.shape)}, not {list(expected.shape)}"
        wrong = np.argwhere(found != expected)
        if len(wrong):
            first = tuple(wrong[0])
            axes = ("image", "filter", "row", "column")
            where = ", ".join(f"{axis} {index}" for axis, index in zip(axes, first, strict=False))
            return (
                f"layer `{layer}`, {where}: {found[first]}, not {expected[first]} "
                f"({len(wrong)} of {expected.size} differ)"
            )
    return None


def _logit_difference(golden: Golden, logits: NDArray) -> tuple[str | None, float | None]:
    """What is wrong with the logits, and how far they are off."""
    if logits.shape != golden.logits.shape:
        return f"logits: shape {list(logits.shape)}, not {list(golden.logits.shape)}", None
    if not np.isfinite(logits).all():
        return "logits: not all are finite", None
    distances = np.abs(logits.astype(np.float64) - golden.logits)
    distance = float(distances.max())
    if distance <= LOGIT_TOLERANCE * max(1.0, float(np.abs(golden.logits).max())):
        return None, distance
    image, *rest = np.unravel_index(int(distances.argmax()), distances.shape)
    return (
        f"logits: image {image}, class {rest[-1] if rest else 0} is off by {distance:.1e}",
        distance,
    )


def _classes(logits: NDArray) -> NDArray[np.intp]:
    return logits.reshape(len(logits), -1).argmax(axis=1)
