"""What a pixel's word or number and a vector of weights add to a vector of sums."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm.tirx.script import builder as T

from bindeploy.emit.tvm.convolution import Layer, Tile
from bindeploy.emit.tvm.processor import (
    WORD,
    Expression,
    Processor,
    broadcast,
    cast,
    single_bits,
    span,
)


class _Product:
    """Weights are laid out as `Tile.laid_out` says, one a filter."""

    name = ""
    x_dtype = weight_dtype = sum_dtype = "float32"

    counts_bytes = False
    """Whether sums can be counted in bytes first: `counted` and `widened`."""

    def tile(self, layer: Layer, processor: Processor) -> tuple[Tile, Processor]:
        """How a layer is cut, and the processor as its kernel is to see it."""
        return Tile.of(layer, processor), processor

    def pixel(self, layer: Layer) -> int:
        """Numbers or words of one pixel of x."""
        return layer.groups * layer.depth

    def numbers(
        self,
        x: Any,
        pixel: tuple[Expression, ...],
        tile: Tile,
        block: Expression,
        d: Expression,
        start: int,
        lanes: int,
    ) -> Expression:
        """What a pixel gives the filters of a block from `start` on: one number for all of them."""
        first = (block // tile.blocks) * tile.layer.depth if tile.layer.groups > 1 else 0
        return broadcast(x[(*pixel, first + d)], lanes)

    def weight_shape(self, tile: Tile) -> tuple[int, ...]:
        layer = tile.layer
        return (layer.groups * tile.blocks, *layer.kernel, layer.depth, tile.block)

    def laid_out(self, weight: NDArray, tile: Tile) -> NDArray:
        return tile.laid_out(weight)

    def weights(
        self, weight: Expression, place: tuple[Expression, ...], start: int, lanes: int
    ) -> Expression:
        return weight[(*place, span(start, lanes))]


class Floats(_Product):
    """sum + x * w."""

    name = "floats"

    def step(
        self, total: Expression, x: Expression, w: Expression, d: Expression, lanes: int
    ) -> Expression:
        return total + x * w


class Bytes(_Product):
    """sum + x * w of int8, exact in int32."""

    name = "bytes"
    x_dtype = weight_dtype = "int8"
    sum_dtype = "int32"

    def step(
        self, total: Expression, x: Expression, w: Expression, d: Expression, lanes: int
    ) -> Expression:
        return total + cast("int32", x, lanes) * cast("int32", w, lanes)


@dataclass(frozen=True)
class Bits(_Product):
    """sum + popcount(x xor w): the dot product of K signs is K - 2 sum."""

    name = "binary"
    x_dtype = weight_dtype = sum_dtype = "uint32"

    def step(
        self, total: Expression, x: Expression, w: Expression, d: Expression, lanes: int
    ) -> Expression:
        return total + T.popcount(x ^ w)

    counts_bytes = True

    def counted(self, x: Expression, w: Expression, lanes: int) -> Expression:
        """The ones of every byte."""
        return T.popcount(T.reinterpret(f"uint8x{4 * lanes}", x ^ w))

    def widened(self, counts: Expression, lanes: int, pairs: str) -> Expression:
        """The sum of the four bytes of every word; `pairs` adds neighbours, see `Processor`."""
        if pairs:
            halves = T.call_llvm_pure_intrin(f"uint16x{2 * lanes}", pairs, counts)
            return T.call_llvm_pure_intrin(f"uint32x{lanes}", pairs, halves)
        words = T.reinterpret(f"uint32x{lanes}", counts)
        for width in (8, 16):
            mask = broadcast(T.uint32(0x00FF00FF if width == 8 else 0x0000FFFF), lanes)
            words = (words & mask) + (
                T.shift_right(words, broadcast(T.uint32(width), lanes)) & mask
            )
        return words


@dataclass(frozen=True)
class SaturatingBits(_Product):
    """clamp(sum + n - 2 popcount(x xor w), -128, 127) after each word of n channels.

    `channels` of one tap; its last word may hold fewer than 32. Of a picture with `pads` around it,
    taps there add nothing.
    """

    channels: int
    pads: tuple[int, ...] | None = None

    name = "saturating"
    x_dtype = weight_dtype = "uint32"
    sum_dtype = "int32"

    def numbers(self, x, pixel, tile, block, d, start, lanes):
        """The word, and whether it is of the picture."""
        word = super().numbers(x, pixel, tile, block, d, start, lanes)
        if self.pads is None:
            return word, None
        (_, row, column), (top, left, bottom, right) = pixel, self.pads
        down, across = tile.layer.height - bottom, tile.layer.width - right
        inside = T.And(T.And(row >= top, row < down), T.And(column >= left, column < across))
        return word, broadcast(inside, lanes)

    def step(self, total, x, w, d, lanes):
        word, inside = x
        last = -(-self.channels // WORD) - 1
        rest = self.channels - last * WORD
        valid = T.Select(d == last, T.int32(rest), T.int32(WORD)) if rest < WORD else T.int32(WORD)
        ones = cast("int32", T.popcount(word ^ w), lanes)
        moved = total + broadcast(valid, lanes) - ones - ones
        low, high = (broadcast(T.int32(bound), lanes) for bound in (-128, 127))
        bounded = T.min(T.max(moved, low), high)
        return bounded if inside is None else T.Select(inside, bounded, total)


class Signs(Floats):
    """sum +- x: weights are one bit a filter, a word for 32 filters, and stay so in memory.

    In registers they are numbers, made once for all pixels of a tile.
    """

    name = "signs"
    weight_dtype = "uint32"

    def weight_shape(self, tile: Tile) -> tuple[int, ...]:
        *leading, block = super().weight_shape(tile)
        return (*leading, -(-block // WORD))

    def laid_out(self, weight: NDArray, tile: Tile) -> NDArray:
        """`weight` holds 1 where it is -1."""
        tiled = tile.laid_out(weight)
        padding = [(0, 0)] * (tiled.ndim - 1) + [(0, -tiled.shape[-1] % WORD)]
        packed = np.packbits(np.pad(tiled, padding), axis=-1, bitorder="little")
        return np.ascontiguousarray(packed).view("<u4")

    def weights(
        self, weight: Expression, place: tuple[Expression, ...], start: int, lanes: int
    ) -> Expression:
        word = weight[(*place, start // WORD)]
        bit = broadcast(word, lanes) & single_bits(lanes, start % WORD)
        minus, plus = (broadcast(T.float32(sign), lanes) for sign in (-1, 1))
        return T.Select(bit != broadcast(T.uint32(0), lanes), minus, plus)


class DepthwiseFloats(Floats):
    """sum + x * w, every filter with a channel of its own.

    Vectors of x are whole, so blocks divide the channels.
    """

    name = "depthwise"

    def tile(self, layer: Layer, processor: Processor) -> tuple[Tile, Processor]:
        lanes = math.gcd(processor.lanes, layer.filters)
        pixels, block = processor.tile(layer.out[1], layer.filters)
        tile = Tile(layer, pixels, math.gcd(block, layer.filters))
        return tile, replace(processor, lanes=lanes)

    def pixel(self, layer: Layer) -> int:
        return layer.filters

    def numbers(self, x, pixel, tile, block, d, start, lanes):
        return x[(*pixel, span(block * tile.block + start, lanes))]


class DepthwiseBits(Signs):
    """sum + (x xor w), every filter with a bit of its own of x and w."""

    name = "binary_depthwise"
    x_dtype = sum_dtype = "uint32"

    def laid_out(self, weight: NDArray, tile: Tile) -> NDArray:
        """`weight` holds words of one bit."""
        return super().laid_out(weight & 1, tile)

    def pixel(self, layer: Layer) -> int:
        return -(-layer.filters // WORD)

    def numbers(self, x, pixel, tile, block, d, start, lanes):
        return broadcast(x[(*pixel, (block * tile.block + start) // WORD)], lanes)

    def weights(self, weight, place, start, lanes):
        word = broadcast(weight[(*place, start // WORD)], lanes)
        return word, single_bits(lanes, start % WORD)

    def step(self, total, x, w, d, lanes):
        word, bit = w
        zero, one = (broadcast(T.uint32(value), lanes) for value in (0, 1))
        return total + T.Select(((x ^ word) & bit) != zero, one, zero)
