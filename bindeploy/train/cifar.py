"""CIFAR-10 and CIFAR-100 as published: Python pickles, read without running what they ask for."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bindeploy.errors import BindeployError

SHAPE = (3, 32, 32)


@dataclass(frozen=True)
class Version:
    """One of the two: how many classes, and under which keys its files hold labels and names."""

    title: str
    classes: int
    labels: bytes
    names: bytes


CIFAR10 = Version("CIFAR-10", 10, b"labels", b"label_names")
CIFAR100 = Version("CIFAR-100", 100, b"fine_labels", b"fine_label_names")


def _empty_array(subtype: object, shape: tuple[int, ...], dtype: bytes) -> NDArray:
    """Stands in for numpy's `_reconstruct`: makes the array that the pickle then fills."""
    return np.empty(0, np.uint8)


def _encode(text: str, encoding: str) -> bytes:
    """Stands in for `_codecs.encode`, by which Python 3 writes bytes into old pickles."""
    return text.encode("latin1")


ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy._core.multiarray", "_reconstruct"): _empty_array,
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
}
"""All that a pickle may name, and what it gets. Nothing here reads, writes or runs anything."""


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return ALLOWED[module, name]


def _load(path: Path, version: Version) -> dict[bytes, Any]:
    try:
        with path.open("rb") as file:
            content = _ArraysOnly(file, encoding="bytes").load()
    except MemoryError:
        raise _refused(path, version, "it asks for more memory than there is") from None
    except Exception as error:  # a damaged pickle can raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise _refused(path, version, reason) from None
    if not isinstance(content, dict):
        raise _refused(path, version, "it holds no dictionary")
    return content


def read_batch(
    path: Path, version: Version = CIFAR10
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images uint8 [N, 3, 32, 32] and labels int64 [N] of one batch file, else BindeployError."""
    content = _load(path, version)
    rows, labels = content.get(b"data"), content.get(version.labels)
    width = SHAPE[0] * SHAPE[1] * SHAPE[2]
    if not (isinstance(rows, np.ndarray) and rows.dtype == np.uint8 and rows.shape[1:] == (width,)):
        raise _refused(path, version, f"its data is not uint8 rows of {width}")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise _refused(path, version, f"its {version.labels.decode()} are no list of integers")
    if len(labels) != len(rows) or not all(0 <= label < version.classes for label in labels):
        raise _refused(path, version, f"its labels do not match its {len(rows)} images")
    return rows.reshape(-1, *SHAPE), np.array(labels, np.int64)


def read_class_names(path: Path, version: Version = CIFAR10) -> tuple[str, ...]:
    """The class names in `batches.meta` or `meta`, else BindeployError."""
    names = _load(path, version).get(version.names)
    if not isinstance(names, list) or len(names) != version.classes:
        raise _refused(path, version, f"it has no list of {version.classes} label names")
    if not all(isinstance(name, bytes) for name in names):
        raise _refused(path, version, "its label names are no strings")
    return tuple(name.decode("latin1") for name in names)


def _refused(path: Path, version: Version, reason: str) -> BindeployError:
    return BindeployError(
        f"`{path}` is no {version.title} file ({reason}): use the published python version"
    )
