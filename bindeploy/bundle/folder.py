"""A bundle as it lies in its folder: the manifest and the golden vectors, read and checked."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from bindeploy.build import PROGRAM
from bindeploy.bundle.formats import FORMATS, INPUT, INTEGERS, LOGITS, MANIFEST, MODEL, PLAN
from bindeploy.errors import BindeployError, unknown
from bindeploy.files import read_json
from bindeploy.session import Session
from bindeploy.target import Target, parse

VERSION = 1
"""Of the layout of the folder; a bundle of another version is refused."""


LARGEST_IMAGE = 2**28
"""Numbers of one output or one layer's integers, beyond which a manifest counts as damaged."""

HEADER_BYTES = 1024
"""More than the header of an array in a file."""


@dataclass(frozen=True)
class Golden:
    """What every engine must give, recorded from one that bindeploy did not write.

    `inputs` float32 [N, C, H, W], `logits` float32 [N, ...], `integers` int32 [N, F, H, W] or
    [N, F] of every binary layer by its name. `source` names the engine; `skipped` counts the
    candidates of which a float came too close to the zero it is binarized at; `margin` is how close
    any float of `inputs` comes, None where none is binarized.
    """

    inputs: NDArray[np.float32]
    logits: NDArray[np.float32]
    integers: Mapping[str, NDArray[np.int32]]
    source: str
    skipped: int = 0
    margin: float | None = None


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. Shapes are those of one image; `layers` are in the order they run."""

    path: Path
    format: str
    built_for: Target
    output_shape: tuple[int, ...]
    layers: Mapping[str, tuple[int, ...]]
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path | str) -> Bundle:
        """The bundle in folder `path`; `BindeployError` if it is none, or not whole."""
        path = Path(path)
        manifest = _read_manifest(path)
        try:
            bundle = cls(
                path=path,
                format=str(manifest["format"]),
                built_for=parse(manifest["target"], f"{path / MANIFEST}"),
                output_shape=_shape(manifest["output_shape"]),
                layers={
                    _text(layer["name"]): _shape(layer["shape"]) for layer in manifest["layers"]
                },
                manifest=manifest,
            )
            _golden_record(manifest["golden"])
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise _damaged(path, MANIFEST, reason) from error
        if bundle.format not in FORMATS:
            raise unknown("bundle format", bundle.format, FORMATS)
        for name in (MODEL, INPUT, LOGITS, INTEGERS, *FORMATS[bundle.format].files):
            if not (path / name).is_file():
                raise BindeployError(f"bundle `{path}` has lost its `{name}`: export it again")
        return bundle

    @property
    def target(self) -> str:
        """The name of the target that it was built for."""
        return self.built_for.name

    @property
    def model(self) -> Path:
        return self.path / MODEL

    @property
    def plan(self) -> Path:
        return self.path / PLAN

    @property
    def program(self) -> Path:
        return self.path / PROGRAM

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """The logits of float32 images [N, C, H, W], computed here; a `Session` stays open."""
        with Session(self.path) as session:
            (logits,) = session.run(None, {session.get_inputs()[0].name: images})
        return logits.reshape(len(logits), *self.output_shape)

    @property
    def golden(self) -> Golden:
        """The golden vectors, read and checked; `BindeployError` if they are damaged."""
        inputs = self._golden_array(INPUT, np.float32, None)
        count = len(inputs)
        logits = self._golden_array(LOGITS, np.float32, (count, *self.output_shape))
        integers = self._golden_integers(count)
        about = self.manifest["golden"]
        return Golden(inputs, logits, integers, *_golden_record(about))

    def _golden_array(self, name: str, dtype: type, shape: tuple[int, ...] | None) -> NDArray[Any]:
        return _checked(self.path, name, self._load(name), dtype, shape)

    def _golden_integers(self, count: int) -> dict[str, NDArray[np.int32]]:
        arrays = self._load(INTEGERS)
        if not isinstance(arrays, dict) or set(arrays) != set(self.layers):
            reason = f"it does not hold layers {', '.join(self.layers)}"
            raise _damaged(self.path, INTEGERS, reason)
        return {
            name: _checked(self.path, INTEGERS, arrays[name], np.int32, (count, *shape))
            for name, shape in self.layers.items()
        }

    def _load(self, name: str) -> Any:
        """The array of a .npy file, or the arrays of a .npz file by name."""
        try:
            with open(self.path / name, "rb") as file:
                if name == INTEGERS:
                    self._refuse_bomb(file)
                loaded = np.load(file, allow_pickle=False)
                return dict(loaded) if isinstance(loaded, Mapping) else loaded
        except Exception as error:  # a reader of untrusted bytes raises a dozen kinds
            raise _damaged(self.path, name, str(error)) from error

    def _refuse_bomb(self, file: IO[bytes]) -> None:
        """Raise where an archive says that it holds more than the layers of all golden images."""
        images = (self.path / INPUT).stat().st_size
        most = images * sum(math.prod(shape) * 4 + HEADER_BYTES for shape in self.layers.values())
        with zipfile.ZipFile(file) as archive:
            held = sum(member.file_size for member in archive.infolist())
        if held > most:
            raise ValueError(f"it holds {held} bytes")
        file.seek(0)


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = read_json(path / MANIFEST)
    except (FileNotFoundError, NotADirectoryError):
        raise BindeployError(
            f"`{path}` is no bundle (it has no {MANIFEST}): give a folder that export --out wrote"
        ) from None
    except (OSError, ValueError) as error:
        raise _damaged(path, MANIFEST, str(error)) from error
    if not isinstance(manifest, dict) or "bundle" not in manifest:
        raise BindeployError(f"`{path / MANIFEST}` was not written by bindeploy")
    if manifest["bundle"] != VERSION:
        raise BindeployError(
            f"bundle `{path}` has layout {manifest['bundle']!r}, this bindeploy reads {VERSION}: "
            "export it again"
        )
    return manifest


def _golden_record(about: Mapping[str, Any]) -> tuple[str, int, float | None]:
    """What the manifest says of the golden vectors: source, skipped, margin."""
    margin = about["margin"]
    return str(about["source"]), int(about["skipped"]), None if margin is None else float(margin)


def _shape(sizes: Any) -> tuple[int, ...]:
    """A shape of one image as the manifest writes it; `TypeError` for anything else."""
    if not isinstance(sizes, list) or not all(type(size) is int and size > 0 for size in sizes):
        raise TypeError(f"{sizes!r} is no shape")
    if math.prod(sizes) > LARGEST_IMAGE:
        raise ValueError(f"{sizes!r} is too large")
    return tuple(sizes)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _checked(
    path: Path, name: str, array: Any, dtype: type, shape: tuple[int, ...] | None
) -> NDArray[Any]:
    """`array` if it has the type and shape it should have, and only finite numbers."""
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        raise _damaged(path, name, f"{getattr(array, 'dtype', 'no')} numbers, not {dtype.__name__}")
    if not array.size or not array.ndim or (shape is not None and array.shape != shape):
        raise _damaged(path, name, f"shape {list(array.shape)}, not {list(shape or ['N', '...'])}")
    if not np.isfinite(array).all():
        raise _damaged(path, name, "numbers that are not finite")
    return array


def _damaged(path: Path, name: str, reason: str) -> BindeployError:
    line = " ".join(reason.split())[:200]
    return BindeployError(f"`{name}` of bundle `{path}` is damaged ({line}): export it again")
