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


def read(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The uint8 array of `dimensions` axes in `path`, a gzip-compressed IDX file.

    Anything else, a damaged or a truncated file raises BindeployError with one line.
    """
    try:
        with gzip.open(path) as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, str(error) or type(error).__name__) from None
    header = 4 * (1 + dimensions)
    if len(content) < header:
        raise _damaged(path, "it ends within its header")
    magic, *shape = struct.unpack(f">{1 + dimensions}I", content[:header])
    if magic != UNSIGNED_BYTE << 8 | dimensions:
        raise _damaged(path, f"its magic number is {magic:#010x}")
    expected = math.prod(shape)
    if len(content) - header != expected:
        raise _damaged(path, f"it holds {len(content) - header} bytes where {expected} belong")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _damaged(path: Path, reason: str) -> BindeployError:
    return BindeployError(f"`{path}` is no whole IDX .gz file ({reason}): download it again")
