"""Images to calibrate with, from files that may come from anywhere.

A file is .npy, or .npz with one array, of float32 [N, ...]. Nothing in it is executed, and no more
of it is read than there is room for.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import onnx_ir as ir
from numpy.lib import format as npy
from numpy.typing import NDArray

from bindeploy.errors import BindeployError

LARGEST = 2**28
"""Bytes of images that are read: calibration takes hundreds of images, not a data set."""

SUFFIXES = (".npy", ".npz")
VERSION = (1, 0)
"""Of the .npy format: what numpy writes for every array of numbers, with headers below 64 KiB."""


def for_model(path: Path | str, model: ir.Model) -> NDArray[np.float32]:
    """`read` for the one input of a model, as it stands before or after conversion."""
    inputs = [value for value in model.graph.inputs if value.const_value is None]
    if len(inputs) != 1 or inputs[0].shape is None:
        names = ", ".join(f"`{value.name}`" for value in inputs) or "none"
        raise BindeployError(
            f"calibration feeds a model of one input of known rank, this one has {names}"
        )
    sizes = list(inputs[0].shape)[1:]
    return read(path, [size if isinstance(size, int) else None for size in sizes])


def read(path: Path | str, shape: Sequence[int | None]) -> NDArray[np.float32]:
    """Images float32 [N, *shape] of a .npy or .npz file, or of all such files in a folder, by name.

    `shape` has None for a size that may be any. Of more than LARGEST bytes the first images are
    read, of each file in a folder an equal share. Raises BindeployError, naming the file, where one
    is missing, of another kind, type or shape, empty, or not finite.
    """
    path = Path(path)
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
    if not files:
        raise BindeployError(f"`{path}` holds no .npy or .npz file: save images into it")
    images = [_read(file, shape, LARGEST // len(files)) for file in files]
    for file, array in zip(files, images, strict=True):
        if array.shape[1:] != images[0].shape[1:]:
            raise BindeployError(
                f"`{file}` holds images of {list(array.shape[1:])}, `{files[0].name}` of "
                f"{list(images[0].shape[1:])}: give images of one shape"
            )
    return np.concatenate(images)


def _read(path: Path, shape: Sequence[int | None], room: int) -> NDArray[np.float32]:
    """The first images of a file, as many as `room` bytes hold, and one at least."""
    try:
        with _opened(path) as file:
            images = _images(file, path, shape, room)
    except BindeployError:
        raise
    except Exception as error:  # of a dozen kinds, for bytes that are no array
        line = " ".join(str(error).split())[:200] or type(error).__name__
        raise BindeployError(
            f"`{path}` cannot be read ({line}): give a .npy or .npz file that numpy.save wrote"
        ) from None
    if not np.isfinite(images).all():
        raise BindeployError(f"`{path}` holds numbers that are not finite: give finite images")
    return images


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of the one array in a file."""
    if not path.is_file():
        raise BindeployError(
            f"`{path}` is no file: give images as .npy or .npz, or a folder of them"
        )
    if path.suffix != ".npz":
        with path.open("rb") as file:
            yield file
        return
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if len(names) != 1:
            held = ", ".join(f"`{name.removesuffix('.npy')}`" for name in names[:10]) or "none"
            raise BindeployError(
                f"`{path}` holds {len(names)} arrays ({held}): save the images alone, as .npy"
            )
        with archive.open(names[0]) as file:
            yield file


def _images(
    file: IO[bytes], path: Path, shape: Sequence[int | None], room: int
) -> NDArray[np.float32]:
    """[n, ...] of the array that begins here, which the header may promise to be of any size."""
    version = npy.read_magic(file)
    if version != VERSION:
        raise ValueError(f"version {version} of the format")
    given, by_columns, dtype = npy.read_array_header_1_0(file)
    if dtype != np.float32:
        raise BindeployError(
            f"`{path}` holds {dtype}: save float32, as the network takes it in training"
        )
    if by_columns:
        raise BindeployError(f"`{path}` is stored by columns: save numpy.ascontiguousarray(images)")
    fits = len(given) == len(shape) + 1 and all(
        size in (None, found) for size, found in zip(shape, given[1:], strict=False)
    )
    if not fits:
        wanted = ", ".join(["N", *("any" if size is None else str(size) for size in shape)])
        raise BindeployError(f"`{path}` holds {list(given)}: give images of [{wanted}]")
    if 0 in given:
        raise BindeployError(f"`{path}` holds {list(given)}, no image: give at least one")
    image = dtype.itemsize * math.prod(given[1:])
    if image > LARGEST:
        raise BindeployError(f"`{path}` holds images of {image} bytes: at most {LARGEST} are taken")
    count = min(given[0], max(room // image, 1))
    content = file.read(count * image)
    if len(content) != count * image:
        raise ValueError(f"it ends within image {len(content) // image}")
    images = np.frombuffer(content, dtype).reshape(count, *given[1:])
    return images.astype(np.float32, copy=False)
