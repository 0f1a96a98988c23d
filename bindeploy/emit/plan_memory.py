"""Where activations live: one arena, placed by liveness.

Two tensors may share bytes if no node needs both. Placing the largest first, each at the lowest
offset where it meets no tensor that lives at the same time, is "greedy by size" of Y. Pisarchyk and
J. Lee, Efficient Memory Management for Deep Neural Net Inference (2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bindeploy.emit.plan_format import aligned


class Lifetime(NamedTuple):
    """A tensor of `size` bytes that must survive the nodes `first` to `last`, both included."""

    size: int
    first: int
    last: int

    def meets(self, other: Lifetime) -> bool:
        return self.first <= other.last and other.first <= self.last


def place(lifetimes: Sequence[Lifetime]) -> tuple[list[int], int]:
    """Offsets in the arena, each a multiple of 64, and the arena's bytes.

    Lifetimes that meet get disjoint bytes. A node's output begins to live at the node where its
    inputs are last read, so both ends being included is what keeps an output off its inputs.
    """
    offsets = [0] * len(lifetimes)
    placed: list[int] = []
    for index in sorted(range(len(lifetimes)), key=lambda i: -lifetimes[i].size):
        lifetime = lifetimes[index]
        taken = sorted(
            (offsets[other], offsets[other] + aligned(lifetimes[other].size))
            for other in placed
            if lifetime.meets(lifetimes[other])
        )
        offsets[index] = _lowest_gap(lifetime.size, taken)
        placed.append(index)
    ends = (offset + aligned(life.size) for offset, life in zip(offsets, lifetimes, strict=True))
    return offsets, max(ends, default=0)


def _lowest_gap(size: int, taken: Sequence[tuple[int, int]]) -> int:
    """Lowest offset at which `size` bytes miss every (begin, end) of `taken`, sorted by begin."""
    offset = 0
    for begin, end in taken:
        if offset + size <= begin:
            break
        offset = max(offset, end)
    return offset
