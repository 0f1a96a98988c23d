"""The C interface of the runtime through ctypes, for tests."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bindeploy.library import ERROR_BYTES, Description, NodeRow, Observer, Options


class LoadFailure(Exception):
    """The line that bd_open wrote."""


class Model:
    """A plan loaded from a file; closed with the process."""

    def __init__(self, library: ctypes.CDLL, path: Path, isa: str | None, threads: int = 1) -> None:
        self.library = library
        self.handle = ctypes.c_void_p()
        error = ctypes.create_string_buffer(ERROR_BYTES)
        options = Options(None if isa is None else isa.encode(), threads)
        arguments = ctypes.byref(options), ctypes.byref(self.handle), error
        if library.bd_open(str(path).encode(), *arguments):
            raise LoadFailure(error.value.decode())

    def describe(self) -> Description:
        description = Description()
        self.library.bd_describe(self.handle, ctypes.byref(description))
        return description

    def node(self, index: int) -> NodeRow:
        row = NodeRow()
        self.library.bd_node_at(self.handle, ctypes.c_size_t(index), ctypes.byref(row))
        return row

    def run(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        image = np.ascontiguousarray(image, np.float32)
        output = np.empty(tuple(self.describe().output_shape), np.float32)
        floats = ctypes.POINTER(ctypes.c_float)
        self.library.bd_run(
            self.handle, image.ctypes.data_as(floats), output.ctypes.data_as(floats)
        )
        return output

    def integers(self, image: NDArray[np.float32], node: int) -> NDArray[np.int32]:
        """The integers [H, W, F] of binary convolution `node`."""
        _, height, width, filters = self.node(node).output_shape
        seen = np.full((height * width, filters), np.iinfo(np.int32).min, np.int32)

        def record(_user, at, pixel, pixels, first, count, dots, stride):
            if at == node:
                tile = np.ctypeslib.as_array(dots, (pixels * stride,)).reshape(pixels, stride)
                seen[pixel : pixel + pixels, first : first + count] = tile[:, :count]

        observer = Observer(record)
        self.library.bd_observe(self.handle, observer, None)
        self.run(image)
        self.library.bd_observe(self.handle, Observer(), None)
        return seen.reshape(height, width, filters)

    def close(self) -> None:
        self.library.bd_close(self.handle)


def load_library(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    library.bd_isa.restype = ctypes.c_char_p
    library.bd_version.restype = ctypes.c_char_p
    for name in ("bd_close", "bd_describe", "bd_run", "bd_observe", "bd_node_at", "bd_profile"):
        getattr(library, name).restype = None
    return library
