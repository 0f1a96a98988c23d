"""The bit order, once: how signs become bits, and what a dot product of bits is.

Bit 1 means -1 (the sign bit), bit 0 means +1; sign(0) = +1. Element `k` of a row is bit `k % 8` of
byte `k // 8`, and rows are padded with 0 bits to a multiple of 32. Two rows padded alike have equal
pad bits, so `dot = K - 2 popcount(a xor b)` holds with `K` the true number of elements.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

WORD = 32
"""Bits to which a row is padded in files."""


def row_bytes(count: int) -> int:
    """Bytes of a packed row of `count` elements: 4 * ceil(count / 32)."""
    return -(-count // WORD) * (WORD // 8)


def sign(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """+1 where `values >= 0`, else -1, in the dtype of `values`.

    >>> sign(np.array([-2.0, -0.0, 0.0, 3.0]))
    array([-1.,  1.,  1.,  1.])
    """
    return np.where(values >= 0, 1, -1).astype(values.dtype)


def pack(values: NDArray) -> NDArray[np.uint8]:
    """Signs of `values` [..., K] as packed rows uint8 [..., row_bytes(K)].

    >>> pack(np.array([[1.0, -1.0, 1.0, -1.0, -1.0]])).tolist()
    [[26, 0, 0, 0]]
    """
    count = values.shape[-1]
    packed = np.packbits(~(values >= 0), axis=-1, bitorder="little")
    padding = [(0, 0)] * (packed.ndim - 1) + [(0, row_bytes(count) - packed.shape[-1])]
    return np.pad(packed, padding)


def unpack(packed: NDArray[np.uint8], count: int) -> NDArray[np.int8]:
    """The +-1 int8 values [..., count] of packed rows: the inverse of `pack`.

    >>> unpack(np.array([[26, 0, 0, 0]], np.uint8), 5).tolist()
    [[1, -1, 1, -1, -1]]
    """
    bits = np.unpackbits(packed, axis=-1, count=count, bitorder="little")
    return (1 - 2 * bits.astype(np.int8)).astype(np.int8)


def dot(a: NDArray[np.uint8], b: NDArray[np.uint8], count: int) -> NDArray[np.int32]:
    """Dot products of packed rows, broadcast: `count - 2 popcount(a xor b)` over the last axis.

    >>> dot(pack(np.array([1.0, -1.0, 1.0])), pack(np.array([1.0, 1.0, 1.0])), 3)
    np.int32(1)
    """
    ones = np.bitwise_count(a ^ b).sum(axis=-1, dtype=np.int32)
    return np.int32(count) - np.int32(2) * ones
