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

from bindeploy.emit.tvm.processor import Expression, Processor, broadcast, kernel, span

UNROLLED = 12
"""Steps of a kernel row that are written out; more are a loop."""

WORTH_SHARING = 400_000
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
    down, across = layer.out
    taps = math.prod(layer.kernel) * layer.depth
    with kernel(name) as builder:
        x_shape = (1, layer.height, layer.width, product.pixel(layer))
        x = T.arg("x", T.Buffer(x_shape, product.x_dtype))
        weight = T.arg("weight", T.Buffer(product.weight_shape(tile), product.weight_dtype))
        output.declare(tile)
        nest = _Nest(tile, product, output, processor, x, weight)
        rows = layer.groups * tile.blocks * down
        shared = rows * across * taps * tile.block >= WORTH_SHARING * processor.lanes
        with (T.parallel if shared else T.serial)(0, rows) as row:
            nest.row(row // down, row % down)
    return builder.get()


@dataclass(frozen=True)
class _Nest:
    """Writes the loops; its methods emit TIR into the open builder."""

    tile: Tile
    product: Any
    output: Any
    processor: Processor
    x: Any
    weight: Any

    def row(self, block: Expression, y: Expression) -> None:
        """All tiles of output row `y` for the filters of one block."""
        across, size = self.tile.layer.out[1], self.tile.pixels
        if across >= size:
            with T.serial(0, across // size) as number:
                self.compute(block, y, number * size, size)
        if across % size:
            self.compute(block, y, across // size * size, across % size)

    def compute(self, block: Expression, y: Expression, first: Expression, pixels: int) -> None:
        lanes = self.processor.lanes
        count = pixels * self.tile.block
        sums = T.alloc_buffer((count,), self.product.sum_dtype, scope="local")
        zero = broadcast(self.product.zero, lanes)
        for start in range(0, count, lanes):
            T.buffer_store(sums, zero, [span(start, lanes)])
        self.taps(sums, block, y, first, pixels)
        self.output.write(self, sums, block, y, first, pixels)

    def taps(
        self, sums: Any, block: Expression, y: Expression, first: Expression, pixels: int
    ) -> None:
        layer = self.tile.layer
        kernel_rows, columns = layer.kernel
        with T.serial(0, kernel_rows) as row:
            if columns * layer.depth <= UNROLLED:
                for column in range(columns):
                    for d in range(layer.depth):
                        self.step(sums, block, y, first, pixels, row, column, d)
            elif columns <= UNROLLED:
                for column in range(columns):
                    with T.serial(0, layer.depth) as d:
                        self.step(sums, block, y, first, pixels, row, column, d)
            else:
                with T.serial(0, columns) as column, T.serial(0, layer.depth) as d:
                    self.step(sums, block, y, first, pixels, row, column, d)

    def step(
        self,
        sums: Any,
        block: Expression,
        y: Expression,
        first: Expression,
        pixels: int,
        row: Expression,
        column: Expression,
        d: Expression,
    ) -> None:
        """What word or channel `d` of one tap adds to every sum of the tile."""
        tile, lanes = self.tile, self.processor.lanes
        layer = tile.layer
        for pixel in range(pixels):
            from_row = y * layer.strides[0] + row * layer.dilations[0]
            from_column = (first + pixel) * layer.strides[1] + column * layer.dilations[1]
            at = self.x, (0, from_row, from_column)
            for start in range(0, tile.block, lanes):
                place = [span(pixel * tile.block + start, lanes)]
                number = self.product.numbers(*at, tile, block, d, start, lanes)
                factor = self.product.weights(self.weight, (block, row, column, d), start, lanes)
                total = self.product.step(sums[place[0]], number, factor, d, lanes)
                T.buffer_store(sums, total, place)
