"""IDX, the file format of MNIST: big-endian shape, then bytes; gzip-compressed as published."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bindeploy.errors import BindeployError

UNSIGNED_BYTE = 8

LARGEST = 2**30
"""Bytes that a file may unpack to: twenty times the largest split of MNIST."""


def read(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The uint8 array of `dimensions` axes in `path`, a gzip-compressed IDX file.

    Anything else, a damaged or a truncated file raises BindeployError with one line.
    """
    header = 4 * (1 + dimensions)
    try:
        with gzip.open(path) as file:
            start = file.read(header)
            if len(start) < header:
                raise _damaged(path, "it ends within its header")
            magic, *shape = struct.unpack(f">{1 + dimensions}I", start)
            if magic != UNSIGNED_BYTE << 8 | dimensions:
                raise _damaged(path, f"its magic number is {magic:#010x}")
            expected = math.prod(shape)
            if expected > LARGEST:
                raise _damaged(path, f"it claims {expected} bytes")
            content = file.read(expected + 1)  # no more than it claims, whatever it unpacks to
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, str(error) or type(error).__name__) from None
    if len(content) != expected:
        held = "more" if len(content) > expected else f"{len(content)} bytes"
        raise _damaged(path, f"it holds {held} where {expected} belong")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _damaged(path: Path, reason: str) -> BindeployError:
    return BindeployError(f"`{path}` is no whole IDX .gz file ({reason}): download it again")
