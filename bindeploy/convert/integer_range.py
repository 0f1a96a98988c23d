"""All integers of a symmetric range, of which only those that are asked for are stored."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class IntegerRange:
    """-largest, ..., largest: indexed like the array int64 of them, which may be too long to keep.

    >>> IntegerRange(2)[:]
    array([-2, -1,  0,  1,  2])
    >>> integers = IntegerRange(2**31)
    >>> len(integers), integers[[0, -1]]
    (4294967297, array([-2147483648,  2147483648]))
    >>> integers[np.array([2**31, 5]), None]
    array([[          0],
           [-2147483643]])
    """

    def __init__(self, largest: int) -> None:
        self.largest = largest

    def __len__(self) -> int:
        return 2 * self.largest + 1

    def __getitem__(self, index: Any) -> NDArray[np.int64]:
        first, *rest = index if isinstance(index, tuple) else (index,)
        if isinstance(first, slice):
            places = np.arange(len(self))[first]
        else:
            places = np.asarray(first, np.int64)
            places = np.where(places < 0, places + len(self), places)
        return (places - self.largest)[(..., *rest)]
