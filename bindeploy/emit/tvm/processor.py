"""What a kernel may assume of its processor, and the vectors it is written with."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

WORD = 32
"""Bits of a packed word."""

GPUS = ("cuda", "opencl")
"""What TVM calls the languages of GPUs."""

THREADS = 256
"""Threads of a block on a GPU at most: every one has room for so many."""

Expression = Any
"""A number or a vector of TIR."""


@dataclass(frozen=True)
class Processor:
    """`lanes` numbers of 32 bits are a vector; `sums` vectors of sums fit the registers at once.

    `x86` says whether it has x86's instruction that gathers signs into a word, `kind` who makes the
    code: `llvm`, whose intrinsics kernels may use then, `c`, `cuda` or `opencl`. `burst`: it counts
    the ones of bytes faster than those of words, so bytes hold the counts of some words before they
    are added; `pairs` is LLVM's name of an instruction that adds neighbours, if it has one.
    """

    lanes: int = 1
    sums: int = 8
    x86: bool = False
    kind: str = "llvm"
    burst: bool = False
    pairs: str = ""

    @property
    def gpu(self) -> bool:
        """Whether a kernel is threads, each of them scalar."""
        return self.kind in GPUS

    def tile(self, pixels: int, filters: int) -> tuple[int, int]:
        """Pixels of a row, and filters, that are computed together.

        Filters are whole words where there is more than one. Of the tiles that fit, the largest
        whose pixels divide the row, and of those the one nearest to a square of vectors. On a GPU
        one pixel and a power of two: threads share them, see `gpu.Threads`.
        """
        if self.gpu:
            return 1, WORD if filters > WORD // 2 else 1 << (filters - 1).bit_length()
        whole = WORD if filters > WORD // 2 else -(-filters // self.lanes) * self.lanes
        blocks = [whole, 2 * WORD] if filters % (2 * WORD) == 0 else [whole]
        room = max(self.sums * self.lanes, whole)
        tiles = [
            (size, block)
            for block in blocks
            for size in range(1, room // block + 1)
            if size <= pixels and (pixels % size == 0 or size * block * 2 > room)
        ]
        return max(tiles, key=lambda tile: self._worth(tile, pixels))

    def _worth(self, tile: tuple[int, int], pixels: int) -> tuple[float, int]:
        size, block = tile
        computed = -(-pixels // size) * size
        return size * block * (pixels / computed) ** 2, -abs(size - block // self.lanes)

    @contextmanager
    def each(self, *extents: int) -> Iterator[tuple[Expression, ...]]:
        """Steps in any order: nested loops, or a thread for each."""
        if not self.gpu:
            with T.grid(*extents) as place:
                yield place if len(extents) > 1 else (place,)
            return
        steps = math.prod(extents)
        size = min(steps, THREADS)
        with (
            T.thread_binding(0, -(-steps // size), "blockIdx.x") as block,
            T.thread_binding(0, size, "threadIdx.x") as thread,
        ):
            number = block * size + thread
            with T.If(number < steps), T.Then():
                yield tuple(
                    number // math.prod(extents[axis + 1 :]) % extent
                    for axis, extent in enumerate(extents)
                )

    def product(self, left: Expression, right: Expression, lanes: int) -> Expression:
        """left * right of floats, rounded: no compiler may fuse it with a sum.

        What C and OpenCL compilers may do is said where their source is made, in `sources`.
        """
        if self.kind == "cuda":
            return T.call_extern("float32", "__fmul_rn", left, right)
        if self.kind == "llvm":
            dtype = "float32" if lanes == 1 else f"float32x{lanes}"
            return T.call_llvm_pure_intrin(dtype, "llvm.arithmetic.fence", left * right)
        return left * right

    def bits(self, condition: Expression, lanes: int) -> Expression:
        """Word whose bit i says whether `condition` holds in lane i, of at most 32 lanes."""
        if lanes == 1:
            return T.Select(condition, T.uint32(1), T.uint32(0))
        if self.x86 and lanes in (WORD // 2, WORD):
            name = "llvm.x86.avx2.pmovmskb" if lanes == WORD else "llvm.x86.sse2.pmovmskb.128"
            signs = T.Select(
                condition, T.Broadcast(T.int8(-1), lanes), T.Broadcast(T.int8(0), lanes)
            )
            return T.reinterpret("uint32", T.call_llvm_pure_intrin("int32", name, signs))
        chosen = T.Select(condition, single_bits(lanes), T.Broadcast(T.uint32(0), lanes))
        return T.call_llvm_pure_intrin("uint32", "llvm.vector.reduce.or", chosen)


OPAQUE = 8
"""TVM's word for a function that its fusion leaves alone."""


@contextmanager
def kernel(name: str) -> Iterator[IRBuilder]:
    """The inside of a PrimFunc, which the builder has afterwards: `builder.get()`."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
        yield builder


def single_bits(lanes: int, first: int = 0) -> Expression:
    """The words 1 << (first + lane)."""
    ones = broadcast(T.uint32(1), lanes)
    return T.shift_left(ones, cast("uint32", span(first, lanes), lanes))


def span(first: Expression, lanes: int) -> Expression:
    """The indices of `lanes` neighbours, or one index."""
    return first if lanes == 1 else T.Ramp(first, 1, lanes)


def broadcast(value: Expression, lanes: int) -> Expression:
    return value if lanes == 1 else T.Broadcast(value, lanes)


def cast(dtype: str, value: Expression, lanes: int) -> Expression:
    return T.Cast(dtype if lanes == 1 else f"{dtype}x{lanes}", value)
