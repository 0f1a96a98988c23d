"""What becomes of a tile of sums: integers, floats, or bits.

An output declares the vectors that its PrimFunc takes, in the order in which `vectors` lists them,
and then its result; `write` emits the code for one tile.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm.tirx.script import builder as T

from bindeploy.emit.tvm.convolution import Tile
from bindeploy.emit.tvm.processor import WORD, Expression, broadcast, cast, span

Bounds = tuple[float | None, float | None]
UNBOUNDED: Bounds = (None, None)

NEVER = -(2**31)
"""A threshold below every sum."""


@dataclass(frozen=True)
class Correction:
    """What padded taps add to a dot product although they should add nothing.

    `amount` int32 [row classes, column classes, F] for the classes of output rows and columns that
    see the same padded taps: `rows` [OH], `columns` [OW].
    """

    amount: NDArray[np.int32]
    rows: NDArray[np.int32]
    columns: NDArray[np.int32]


@dataclass
class _Output:
    """`count` is K where sums are popcounts of K signs, None where a sum is the result itself."""

    count: int | None = None
    correction: Correction | None = None
    _buffers: dict[str, Any] = field(default_factory=dict)

    dtype = "float32"

    def shape(self, tile: Tile) -> tuple[int, ...]:
        return (1, *tile.layer.out, tile.layer.filters)

    def vectors(self, tile: Tile) -> dict[str, NDArray]:
        """The arrays that the PrimFunc takes between weights and result."""
        if self.correction is None:
            return {}
        rows, columns = self.correction.rows, self.correction.columns
        amount = tile.vector(self.correction.amount)
        return {"amount": amount, "rows": rows, "columns": columns}

    def declare(self, tile: Tile) -> None:
        for name, array in self.vectors(tile).items():
            self._buffers[name] = T.arg(name, T.Buffer(array.shape, str(array.dtype)))
        self.declare_inputs(tile)
        self._buffers["y"] = T.arg("y", T.Buffer(self.shape(tile), self.dtype))

    def declare_inputs(self, tile: Tile) -> None:
        """Tensors that are read beside the vectors."""

    def dot(
        self, nest: Any, sums: Any, place: tuple[Expression, ...], start: int, lanes: int
    ) -> Expression:
        """The dot products of `lanes` filters from `start` on, at place (block, y, x, pixel)."""
        block, y, first, pixel = place
        size = nest.tile.block
        found = nest.sum(sums, pixel, start, lanes)
        if self.count is None:
            return found
        ones = cast("int32", found, lanes)
        found = broadcast(T.int32(self.count), lanes) - ones - ones
        if self.correction is None:
            return found
        row, column = self._buffers["rows"][y], self._buffers["columns"][first + pixel]
        return found - self._buffers["amount"][row, column, span(block * size + start, lanes)]

    def write(
        self, nest: Any, sums: Any, block: Expression, y: Expression, first: Expression, pixels: int
    ) -> None:
        """Store what `value` makes of every vector, and of the last filters one by one."""
        tile = nest.tile
        filters = tile.layer.filters_a_group
        whole = filters // tile.block
        if filters % tile.block == 0:
            self._store(nest, sums, (block, y, first), pixels, tile.block)
            return
        number = block % tile.blocks if tile.layer.groups > 1 else block
        if whole:
            with T.If(number < whole):
                with T.Then():
                    self._store(nest, sums, (block, y, first), pixels, tile.block)
                with T.Else():
                    self._store(nest, sums, (block, y, first), pixels, filters % tile.block)
        else:
            self._store(nest, sums, (block, y, first), pixels, filters)

    def _store(
        self, nest: Any, sums: Any, place: tuple[Expression, ...], pixels: int, filters: int
    ) -> None:
        lanes = nest.processor.lanes
        for pixel in range(pixels):
            for start in range(0, filters, lanes):
                width = lanes if start + lanes <= filters else 1
                for at in range(start, min(start + lanes, filters), width):
                    self._put(nest, sums, (*place, pixel), at, width)

    def _put(
        self, nest: Any, sums: Any, place: tuple[Expression, ...], start: Expression, lanes: int
    ) -> None:
        tile = nest.tile
        block, y, first, pixel = place
        group, number = block // tile.blocks, block % tile.blocks
        begin = group * tile.layer.filters_a_group + number * tile.block
        index = [0, y, first + pixel, span(begin + start, lanes)]
        value = self.value(nest, sums, place, start, lanes, index)
        T.buffer_store(self._buffers["y"], value, index)

    def write_share(
        self, nest: Any, sums: Any, block: Expression, y: Expression, x: Expression
    ) -> None:
        """What one thread of a GPU stores: `nest.share` filters of one pixel, see `gpu.Threads`."""
        last = nest.tile.layer.filters_a_group - block % nest.tile.blocks * nest.tile.block
        for number in range(nest.share):
            start = nest.first + number
            with T.If(T.And(nest.inside, start < last)), T.Then():
                self._put(nest, sums, (block, y, x, 0), start, 1)

    def value(
        self,
        nest: Any,
        sums: Any,
        place: tuple[Expression, ...],
        start: int,
        lanes: int,
        index: list[Expression],
    ) -> Expression:
        raise NotImplementedError


@dataclass
class Integers(_Output):
    """The dot product itself, int32."""

    dtype = "int32"

    def value(self, nest, sums, place, start, lanes, index):
        return self.dot(nest, sums, place, start, lanes)


@dataclass(kw_only=True)
class Affine(_Output):
    """clamp(clamp(scale * dot + bias) + residual) in float32, one rounding an operation.

    The first clamp is to `bounds`, the last to `last_bounds` (lowest, highest); `residual` says
    whether there is a tensor of the output's shape to add.
    """

    scale: NDArray[np.float32]
    bias: NDArray[np.float32]
    bounds: Bounds = UNBOUNDED
    residual: bool = False
    last_bounds: Bounds = UNBOUNDED

    def vectors(self, tile: Tile) -> dict[str, NDArray]:
        ours = {"scale": tile.vector(self.scale), "bias": tile.vector(self.bias)}
        return super().vectors(tile) | ours

    def declare_inputs(self, tile: Tile) -> None:
        if self.residual:
            self._buffers["residual"] = T.arg("residual", T.Buffer(self.shape(tile), "float32"))

    def value(self, nest, sums, place, start, lanes, index):
        at = span(place[0] * nest.tile.block + start, lanes)
        dot = cast("float32", self.dot(nest, sums, place, start, lanes), lanes)
        product = nest.processor.product(dot, self._buffers["scale"][at], lanes)
        value = _clamped(product + self._buffers["bias"][at], self.bounds, lanes)
        if self.residual:
            value = value + self._buffers["residual"][tuple(index)]
        return _clamped(value, self.last_bounds, lanes)


def _clamped(value: Expression, bounds: Bounds, lanes: int) -> Expression:
    lowest, highest = bounds
    if lowest is not None:
        value = T.max(value, broadcast(T.float32(lowest), lanes))
    if highest is not None:
        value = T.min(value, broadcast(T.float32(highest), lanes))
    return value


@dataclass(kw_only=True)
class Threshold(_Output):
    """Bits: filter f is +1 iff (dot >= threshold[f]), negated where direction[f] is -1.

    The result is packed, [1, OH, OW, words], and starts every group at a word.
    """

    threshold: NDArray[np.int32]
    direction: NDArray[np.int8]

    dtype = "uint32"

    def words(self, tile: Tile) -> int:
        return -(-tile.layer.filters_a_group // WORD)

    def shape(self, tile: Tile) -> tuple[int, ...]:
        return (1, *tile.layer.out, tile.layer.groups * self.words(tile))

    def vectors(self, tile: Tile) -> dict[str, NDArray]:
        thresholds = tile.vector(self.threshold, NEVER)
        falling = tile.vector((self.direction < 0).astype(np.uint8))
        blocks = falling.reshape(-1, tile.block)
        padded = np.pad(blocks, [(0, 0), (0, -tile.block % WORD)])
        turned = np.packbits(padded, axis=-1, bitorder="little").view("<u4")
        return super().vectors(tile) | {"threshold": thresholds, "turned": turned}

    def write(self, nest, sums, block, y, first, pixels):
        tile, processor = nest.tile, nest.processor
        words = -(-tile.block // WORD)
        part = min(WORD, tile.block) if processor.lanes > 1 else 1
        group, number = block // tile.blocks, block % tile.blocks
        for pixel in range(pixels):
            for word in range(words):
                bits = self._buffers["turned"][block, word]
                for start in range(word * WORD, min((word + 1) * WORD, tile.block), part):
                    dot = self.dot(nest, sums, (block, y, first, pixel), start, part)
                    at = span(block * tile.block + start, part)
                    below = dot < self._buffers["threshold"][at]
                    found = processor.bits(below, part)
                    bits = bits ^ T.shift_left(found, T.uint32(start % WORD))
                place = group * self.words(tile) + number * words + word
                if word * WORD < tile.layer.filters_a_group:
                    T.buffer_store(self._buffers["y"], bits, [0, y, first + pixel, place])

    def write_share(self, nest, sums, block, y, x):
        """A thread has some bits of a word; the first of those that share it stores it."""
        tile = nest.tile
        bits = T.uint32(0)
        for number in range(nest.share):
            start = nest.first + number
            dot = self.dot(nest, sums, (block, y, x, 0), start, 1)
            below = dot < self._buffers["threshold"][block * tile.block + start]
            found = nest.processor.bits(below, 1)
            bits = bits | T.shift_left(found, T.Cast("uint32", start))
        word = nest.joined(bits) ^ self._buffers["turned"][block, 0]
        with T.If(T.And(nest.inside, nest.first == 0)), T.Then():
            T.buffer_store(self._buffers["y"], word, [0, y, x, block])
