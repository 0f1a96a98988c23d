"""The layers of `convolution` as threads of a GPU: CUDA and OpenCL have the same.

Barriers around shared memory are set by TVM, wherever a thread reads what another one wrote.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tvm.tirx.script import builder as T

from bindeploy.emit.tvm.processor import THREADS, Expression, Processor

SHARE = 8
"""Filters of a thread at most; their sums stay in registers."""

ENOUGH = 1 << 14
"""Threads that keep a GPU busy: where there would be fewer, each gets fewer filters."""

HELD = 1 << 13
"""Bytes of weights in shared memory at most: several blocks of threads have room side by side."""


def convolution(
    tile: Any, product: Any, output: Any, processor: Processor, x: Any, weight: Any
) -> None:
    """Emit the body of `convolution.convolution`.

    A block of threads is a strip of pixels by one block of filters, of which every thread computes
    a few. The block's weights are read by all its threads together, one after the other, into
    memory that they share.
    """
    layer = tile.layer
    pixels = math.prod(layer.out)
    share = min(SHARE, tile.block)
    while share > 1 and pixels * layer.groups * tile.blocks * tile.block < ENOUGH * share:
        share //= 2
    parts = tile.block // share
    strip = min(THREADS // parts, 1 << (pixels - 1).bit_length())
    across = layer.out[1]
    with (
        T.thread_binding(0, -(-pixels // strip), "blockIdx.x") as number,
        T.thread_binding(0, layer.groups * tile.blocks, "blockIdx.y") as block,
        T.thread_binding(0, parts, "threadIdx.y") as part,
        T.thread_binding(0, strip, "threadIdx.x") as thread,
    ):
        place = number * strip + thread
        pixel = T.min(place, pixels - 1)  # those beyond the last compute it too: all meet barriers
        threads = Threads(
            tile, product, processor, x, weight, share, strip, part, thread, place < pixels
        )
        sums = threads.sums(block, pixel // across, pixel % across)
        output.write_share(threads, sums, block, pixel // across, pixel % across)


@dataclass(frozen=True)
class Threads:
    """Writes what a thread does: `thread` of a strip of pixels, `part` of a block of filters.

    It computes `share` filters; `inside` says whether its pixel exists.
    """

    tile: Any
    product: Any
    processor: Processor
    x: Any
    weight: Any
    share: int
    strip: int
    part: Expression
    thread: Expression
    inside: Expression

    @property
    def first(self) -> Expression:
        """Its first filter in the block."""
        return self.part * self.share

    def sum(self, sums: Any, pixel: int, start: Expression, lanes: int) -> Expression:
        """The sum of filter `start` of the block."""
        return sums[start - self.first]

    def sums(self, block: Expression, y: Expression, x: Expression) -> Any:
        """Its sums over all taps of pixel (y, x)."""
        layer, product = self.tile.layer, self.product
        *_, words = product.weight_shape(self.tile)
        together = _divisor(layer.depth, HELD // (4 * words))
        extents = (*layer.kernel, layer.depth // together, together)
        level = next(n for n in range(4) if math.prod(extents[n:]) * words * 4 <= HELD)
        one_by_one, held = (*extents[:level], *[1] * (4 - level)), (*[1] * level, *extents[level:])
        sums = T.alloc_buffer((self.share,), product.sum_dtype, scope="local")
        for number in range(self.share):
            T.buffer_store(sums, T.Cast(product.sum_dtype, 0), [number])
        with T.grid(*one_by_one) as outer:
            shape = (math.prod(held), words)
            weights = T.alloc_buffer(shape, product.weight_dtype, scope="shared")
            self._hold(weights, shape, block, outer[0], outer[1], outer[2] * together)
            with T.grid(*held) as inner:
                row, column, number, last = (a + b for a, b in zip(outer, inner, strict=True))
                index = 0
                for at, extent in zip(inner, held, strict=True):
                    index = index * extent + at
                tap = (
                    y * layer.strides[0] + row * layer.dilations[0],
                    x * layer.strides[1] + column * layer.dilations[1],
                )
                self._step(sums, weights, block, tap, number * together + last, index)
        return sums

    def _hold(
        self, weights: Any, shape: tuple[int, int], block: Expression, *first: Expression
    ) -> None:
        """Fill shared memory with the weights that follow (row, column, d)."""
        count, threads = math.prod(shape), self.strip * (self.tile.block // self.share)
        layer = self.tile.layer
        columns, depth = layer.kernel[1], layer.depth
        begin = (first[0] * columns + first[1]) * depth + first[2]
        with T.serial(0, -(-count // threads)) as turn:
            at = turn * threads + self.part * self.strip + self.thread
            with T.If(at < count), T.Then():
                step, word = begin + at // shape[1], at % shape[1]
                place = (block, step // (columns * depth), step // depth % columns, step % depth)
                T.buffer_store(
                    weights, self.weight[(*place, word)], [at // shape[1], at % shape[1]]
                )

    def _step(
        self,
        sums: Any,
        weights: Any,
        block: Expression,
        tap: tuple[Expression, Expression],
        d: Expression,
        index: Expression,
    ) -> None:
        """What word or channel `d` of one tap adds to every sum."""
        tile, product = self.tile, self.product
        last = tile.layer.filters_a_group - 1 - block % tile.blocks * tile.block
        for number in range(self.share):
            start = self.first + number
            x = product.numbers(self.x, (0, *tap), tile, block, d, T.min(start, last), 1)
            weight = product.weights(weights, (index,), start, 1)
            T.buffer_store(sums, product.step(sums[number], x, weight, d, 1), [number])

    def joined(self, bits: Expression) -> Expression:
        """The bits of all threads that share a pixel and a block of filters."""
        parts = self.tile.block // self.share
        if parts == 1:
            return bits
        words = T.alloc_buffer((parts, self.strip), "uint32", scope="shared")
        T.buffer_store(words, bits, [self.part, self.thread])
        found = words[0, self.thread]
        for part in range(1, parts):
            found = found | words[part, self.thread]
        return found


def _divisor(number: int, most: int) -> int:
    """The largest divisor of `number` that is at most `most`."""
    return next(n for n in range(min(number, most), 0, -1) if number % n == 0)
