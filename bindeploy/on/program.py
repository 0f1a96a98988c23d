"""Talk to `bd_bench`, wherever its command starts it: raw files in, raw files out."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bindeploy.errors import BindeployError
from bindeploy.on.transport import Deployed, Results


def run_model(command: Sequence[str], bundle: Deployed, images: NDArray[np.float32]) -> Results:
    """Run `images` [N, C, H, W] through `command model.bd --input F --output F --integers F`.

    The input and output are float32, image after image. The integers are int32: for each image, for
    each binary layer in the order they run, [H, W, F].
    """
    with tempfile.TemporaryDirectory(prefix="bindeploy-run-") as name:
        given, logits, integers = (Path(name) / file for file in ("input", "output", "integers"))
        given.write_bytes(np.ascontiguousarray(images, "<f4").tobytes())
        files = ("--input", given, "--output", logits, "--integers", integers)
        call([*command, bundle.plan, *files])
        count = len(images)
        return (
            _read(logits, "<f4", count * math.prod(bundle.output_shape)).reshape(
                count, *bundle.output_shape
            ),
            _split(_read(integers, "<i4", count * _integers_an_image(bundle)), bundle, count),
        )


def measure(command: Sequence[str], bundle: Deployed, runs: int, warmup: int) -> dict[str, Any]:
    """The object that `command model.bd --runs N --warmup N --json` prints."""
    counts = ["--runs", str(runs), "--warmup", str(warmup)]
    printed = call([*command, bundle.plan, *counts, "--json"])
    try:
        measured = json.loads(printed)
    except (ValueError, RecursionError) as error:
        raise BindeployError(f"`{command[-1]}` printed no JSON: {error}") from error
    if not isinstance(measured, dict):
        raise BindeployError(f"`{command[-1]}` printed no report: export the bundle again")
    return measured


def call(
    command: Sequence[str | Path], name: str = "", variables: Mapping[str, str] | None = None
) -> str:
    """Standard output of a command that must succeed; an error calls it `name`.

    `variables` are added to its environment.
    """
    name = name or str(command[0])
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env={**os.environ, **(variables or {})},
        )
    except OSError as error:
        raise BindeployError(
            f"`{name}` does not start here: {error.strerror}; is it for another machine?"
        ) from error
    if done.returncode < 0:
        died = signal.Signals(-done.returncode).name
        raise BindeployError(f"`{name}` died of {died}: is it for another processor?")
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it says nothing"]
        raise BindeployError(f"`{name}` failed: {said[-1]}")
    return done.stdout


def _integers_an_image(bundle: Deployed) -> int:
    return sum(math.prod(shape) for shape in bundle.layers.values())


def _read(path: Path, dtype: str, count: int) -> NDArray:
    values = np.fromfile(path, dtype)
    if values.size != count:
        raise BindeployError(
            f"bd_bench wrote {values.size} numbers of {path.name}, not {count}: "
            "its plan is not the one that the manifest describes"
        )
    return values


def _split(
    integers: NDArray[np.int32], bundle: Deployed, count: int
) -> dict[str, NDArray[np.int32]]:
    """Integers by layer, NCHW, [N, F] or [N, T, F], of a stream that is image by image and
    [H, W, F]."""
    images = integers.reshape(count, _integers_an_image(bundle))
    layers = {}
    start = 0
    for name, shape in bundle.layers.items():
        end = start + math.prod(shape)
        if len(shape) == 2:
            layers[name] = images[:, start:end].reshape(count, *shape)
        else:
            filters, *pixels = shape
            part = images[:, start:end].reshape(count, *pixels, filters)
            layers[name] = np.ascontiguousarray(np.moveaxis(part, -1, 1))
        start = end
    return layers
