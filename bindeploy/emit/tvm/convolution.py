"""Every convolution and dense layer, of bits or of numbers, as one loop nest over vectors.

    sum[p, f] = combined over (row, column, d): x[p moved by (row, column), d], w[f, row, column, d]

A tile of pixels of one output row meets a block of filters; their sums stay in registers through
all taps. What combining means is a `Product`'s business, what becomes of a sum an `Output`'s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm.tirx.script import builder as T

from bindeploy.emit.tvm import gpu
from bindeploy.emit.tvm.processor import Expression, Processor, broadcast, kernel, span

UNROLLED = 12
"""Steps of a kernel row that are written out; more are a loop for each tap."""

BYTES = 4
"""Bytes of a word."""

BURST = 31
"""Words whose ones a byte can count for each of their bytes: 8 * 31 < 256."""

WORTH_SHARING = 60_000
"""Steps from which a layer is divided among threads."""


@dataclass(frozen=True)
class Layer:
    """The geometry of a layer whose input is padded already.

    `height` and `width` are of the padded input, `depth` is what a pixel holds for one group (words
    or numbers), `filters` are all of them.
    """

    height: int
    width: int
    depth: int
    filters: int
    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def out(self) -> tuple[int, int]:
        down, across = (
            (size - dilation * (taps - 1) - 1) // stride + 1
            for size, taps, stride, dilation in zip(
                (self.height, self.width), self.kernel, self.strides, self.dilations, strict=True
            )
        )
        return down, across

    @property
    def filters_a_group(self) -> int:
        return self.filters // self.groups


@dataclass(frozen=True)
class Tile:
    """`pixels` by `block` filters of one group, and the blocks that a group is cut into."""

    layer: Layer
    pixels: int
    block: int

    @classmethod
    def of(cls, layer: Layer, processor: Processor) -> Tile:
        return cls(layer, *processor.tile(layer.out[1], layer.filters_a_group))

    @property
    def blocks(self) -> int:
        return -(-self.layer.filters_a_group // self.block)

    def laid_out(self, weight: NDArray) -> NDArray:
        """weight [F, KH, KW, D] -> [groups * blocks, KH, KW, D, block], missing filters zero."""
        groups = weight.reshape(self.layer.groups, -1, *weight.shape[1:])
        missing = self.blocks * self.block - groups.shape[1]
        padded = np.pad(groups, [(0, 0), (0, missing), *[(0, 0)] * 3])
        cut = padded.reshape(-1, self.block, *weight.shape[1:])
        return np.ascontiguousarray(np.moveaxis(cut, 1, -1))

    def vector(self, values: NDArray, missing: float = 0) -> NDArray:
        """values [..., F] -> [..., groups * blocks * block], as `laid_out` orders filters."""
        leading = values.shape[:-1]
        groups = values.reshape(*leading, self.layer.groups, -1)
        padding = [(0, 0)] * (groups.ndim - 1) + [(0, self.blocks * self.block - groups.shape[-1])]
        padded = np.pad(groups, padding, constant_values=missing)
        return np.ascontiguousarray(padded.reshape(*leading, -1))


def convolution(name: str, tile: Tile, product: Any, output: Any, processor: Processor) -> Any:
    """The PrimFunc (x [1, H, W, groups * D], laid-out weights, the output's vectors..., y)."""
    layer = tile.layer
    with kernel(name) as builder:
        x_shape = (1, layer.height, layer.width, product.pixel(layer))
        x = T.arg("x", T.Buffer(x_shape, product.x_dtype))
        weight = T.arg("weight", T.Buffer(product.weight_shape(tile), product.weight_dtype))
        output.declare(tile)
        if processor.gpu:
            gpu.convolution(tile, product, output, processor, x, weight)
        else:
            _Nest(tile, product, output, processor, x, weight).rows()
    return builder.get()


@dataclass(frozen=True)
class _Place:
    """A tile: `pixels` of output row `y` from `first` on, by the filters of `block`."""

    block: Expression
    y: Expression
    first: Expression
    pixels: int


@dataclass(frozen=True)
class _Nest:
    """Writes the loops of a CPU; its methods emit TIR into the open builder."""

    tile: Tile
    product: Any
    output: Any
    processor: Processor
    x: Any
    weight: Any

    def rows(self) -> None:
        tile, layer = self.tile, self.tile.layer
        down, across = layer.out
        rows = layer.groups * tile.blocks * down
        steps = rows * across * math.prod(layer.kernel) * layer.depth * tile.block
        shared = steps >= WORTH_SHARING * self.processor.lanes
        with (T.parallel if shared else T.serial)(0, rows) as row:
            self.row(row // down, row % down)

    def row(self, block: Expression, y: Expression) -> None:
        """All tiles of output row `y` for the filters of one block."""
        across, size = self.tile.layer.out[1], self.tile.pixels
        if across >= size:
            with T.serial(0, across // size) as number:
                self.compute(block, y, number * size, size)
        if across % size:
            self.compute(block, y, across // size * size, across % size)

    def compute(self, block: Expression, y: Expression, first: Expression, pixels: int) -> None:
        """One tile: `pixels` of output row `y` from `first` on."""
        place = _Place(block, y, first, pixels)
        sums = self.zeros(place, self.product.sum_dtype, 1)
        (rows, columns), depth = self.tile.layer.kernel, self.tile.layer.depth
        if not self.in_bytes:
            with T.serial(0, rows) as row:
                self.steps(sums, place, row, range(columns), 0, depth)
        elif rows * columns * depth <= BURST:
            counts = self.zeros(place, "uint8", BYTES)
            with T.serial(0, rows) as row:
                self.steps(counts, place, row, range(columns), 0, depth)
            self.widen(counts, sums, place)
        else:
            with T.serial(0, rows) as row:
                self.bursts(sums, place, row)
        self.output.write(self, sums, block, y, first, pixels)

    @property
    def in_bytes(self) -> bool:
        return self.processor.burst and self.product.counts_bytes

    def sum(self, sums: Any, pixel: int, start: int, lanes: int) -> Expression:
        """The sums of `lanes` filters of a pixel from `start` on."""
        return sums[span(pixel * self.tile.block + start, lanes)]

    def zeros(self, place: _Place, dtype: str, lanes_a_number: int) -> Any:
        """Registers for the sums of a tile, `lanes_a_number` for each."""
        lanes = self.processor.lanes * lanes_a_number
        count = place.pixels * self.tile.block * lanes_a_number
        sums = T.alloc_buffer((count,), dtype, scope="local")
        for start in range(0, count, lanes):
            T.buffer_store(sums, broadcast(T.Cast(dtype, 0), lanes), [span(start, lanes)])
        return sums

    def bursts(self, sums: Any, place: _Place, row: Expression) -> None:
        """A kernel row in bursts, each of so few words that bytes hold what they count."""
        columns, depth = self.tile.layer.kernel[1], self.tile.layer.depth
        most = min(BURST, depth)
        together = BURST // most
        for column in range(0, columns, together):
            with T.serial(0, -(-depth // most)) as part:
                counts = self.zeros(place, "uint8", BYTES)
                some = range(column, min(column + together, columns))
                self.steps(counts, place, row, some, part * most, T.min(most, depth - part * most))
                self.widen(counts, sums, place)

    def widen(self, counts: Any, sums: Any, place: _Place) -> None:
        """Add the four bytes of each count to its sum."""
        lanes = self.processor.lanes
        for start in range(0, place.pixels * self.tile.block, lanes):
            at = [span(start, lanes)]
            bytes_of_words = counts[span(BYTES * start, BYTES * lanes)]
            added = self.product.widened(bytes_of_words, lanes, self.processor.pairs)
            T.buffer_store(sums, sums[at[0]] + added, at)

    def steps(
        self,
        sums: Any,
        place: _Place,
        row: Expression,
        columns: range,
        first: Expression,
        count: Expression,
    ) -> None:
        """Words or channels `first` to `first + count` of some taps of a kernel row."""
        if isinstance(count, int) and len(columns) * count <= UNROLLED:
            for column in columns:
                for number in range(count):
                    self.step(sums, place, row, column, first + number)
            return
        for column in columns:
            with T.serial(0, count) as number:
                self.step(sums, place, row, column, first + number)

    def step(
        self, sums: Any, place: _Place, row: Expression, column: Expression, d: Expression
    ) -> None:
        """What word or channel `d` of one tap adds to every sum of the tile."""
        tile, lanes, product = self.tile, self.processor.lanes, self.product
        layer = tile.layer
        for pixel in range(place.pixels):
            from_row = place.y * layer.strides[0] + row * layer.dilations[0]
            from_column = (place.first + pixel) * layer.strides[1] + column * layer.dilations[1]
            at = self.x, (0, from_row, from_column)
            for start in range(0, tile.block, lanes):
                number = product.numbers(*at, tile, place.block, d, start, lanes)
                factor = product.weights(self.weight, (place.block, row, column, d), start, lanes)
                first = pixel * tile.block + start
                if self.in_bytes:
                    where = [span(BYTES * first, BYTES * lanes)]
                    total = sums[where[0]] + product.counted(number, factor, lanes)
                else:
                    where = [span(first, lanes)]
                    total = product.step(sums[where[0]], number, factor, d, lanes)
                T.buffer_store(sums, total, where)
