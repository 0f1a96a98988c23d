"""Pools over windows of a picture, NHWC: of floats, a vector of channels at once; of signs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm.tirx.script import builder as T

from bindeploy.emit.tvm.processor import Expression, Processor, broadcast, kernel, span


@dataclass(frozen=True)
class Window:
    """The windows of a pool; pads are (top, left, bottom, right), of taps that do not count."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    out: tuple[int, int]
    dilations: tuple[int, int] = (1, 1)

    @classmethod
    def of(
        cls,
        height: int,
        width: int,
        kernel: Sequence[int],
        strides: Sequence[int],
        pads: Sequence[int],
        dilations: Sequence[int] = (1, 1),
    ) -> Window:
        down, across = (
            (size + before + after - dilation * (taps - 1) - 1) // stride + 1
            for size, before, after, taps, stride, dilation in zip(
                (height, width), pads[:2], pads[2:], kernel, strides, dilations, strict=True
            )
        )
        two: Callable[[Sequence[int]], Any] = lambda sizes: tuple(map(int, sizes))  # noqa: E731
        return cls(two(kernel), two(strides), two(pads), (down, across), two(dilations))

    def over_taps(
        self, place: tuple[Expression, Expression], size: tuple[int, int], body: Callable[..., None]
    ) -> None:
        """Emit `body(row, column)` for every tap of the window at `place` inside the picture."""
        with T.serial(0, self.kernel[0]) as down, T.serial(0, self.kernel[1]) as across:
            row = place[0] * self.strides[0] + down * self.dilations[0] - self.pads[0]
            column = place[1] * self.strides[1] + across * self.dilations[1] - self.pads[1]
            if not any(self.pads):
                body(row, column)
                return
            inside = T.And(T.And(row >= 0, row < size[0]), T.And(column >= 0, column < size[1]))
            with T.If(inside), T.Then():
                body(row, column)


def max_pool(name: str, shape: Sequence[int], window: Window, processor: Processor) -> Any:
    """PrimFunc (x float32 [1, H, W, C], y [1, H', W', C])."""

    def finish(value: Expression, counted: Expression, lanes: int) -> Expression:
        return value

    lowest = T.float32(-math.inf)
    return _pool(name, shape, window, processor, lowest, T.max, finish)


def average_pool(
    name: str, shape: Sequence[int], window: Window, counts_pads: bool, processor: Processor
) -> Any:
    """PrimFunc (x float32 [1, H, W, C], y [1, H', W', C]); `counts_pads`: they divide too."""

    def finish(value: Expression, counted: Expression, lanes: int) -> Expression:
        divisor = T.int32(math.prod(window.kernel)) if counts_pads else counted
        return value / broadcast(T.Cast("float32", divisor), lanes)

    def add(left: Expression, right: Expression) -> Expression:
        return left + right

    return _pool(name, shape, window, processor, T.float32(0), add, finish)


def _pool(
    name: str,
    shape: Sequence[int],
    window: Window,
    processor: Processor,
    start: Expression,
    join: Callable[[Expression, Expression], Expression],
    finish: Callable[[Expression, Expression, int], Expression],
) -> Any:
    _, height, width, channels = shape
    lanes = math.gcd(processor.lanes, channels)
    with kernel(name) as builder:
        x = T.arg("x", T.Buffer(tuple(shape), "float32"))
        y = T.arg("y", T.Buffer((1, *window.out, channels), "float32"))
        with processor.each(*window.out, channels // lanes) as (row, column, part):
            found = T.alloc_buffer((lanes,), "float32", scope="local")
            counted = T.alloc_buffer((1,), "int32", scope="local")
            every = span(0, lanes)
            T.buffer_store(found, broadcast(start, lanes), [every])
            T.buffer_store(counted, T.int32(0), [0])

            def take(from_row: Expression, from_column: Expression) -> None:
                number = x[0, from_row, from_column, span(part * lanes, lanes)]  # noqa: B023
                T.buffer_store(found, join(found[every], number), [every])  # noqa: B023
                T.buffer_store(counted, counted[0] + 1, [0])  # noqa: B023

            window.over_taps((row, column), (height, width), take)
            value = finish(found[every], counted[0], lanes)
            T.buffer_store(y, value, [0, row, column, span(part * lanes, lanes)])
    return builder.get()


def binary_max_pool(name: str, shape: Sequence[int], window: Window, processor: Processor) -> Any:
    """PrimFunc (x uint32 [1, H, W, words], falling uint32 [words], y [1, H', W', words]).

    direction * max(direction * sign): a bit (-1) stays where all taps have it, or, where direction
    is -1 (`falling`), where any has.
    """
    _, height, width, words = shape
    with kernel(name) as builder:
        x = T.arg("x", T.Buffer(tuple(shape), "uint32"))
        falling = T.arg("falling", T.Buffer((words,), "uint32"))
        y = T.arg("y", T.Buffer((1, *window.out, words), "uint32"))
        with processor.each(*window.out, words) as (row, column, word):
            found = T.alloc_buffer((1,), "uint32", scope="local")
            T.buffer_store(found, T.uint32(0xFFFFFFFF), [0])

            def take(from_row: Expression, from_column: Expression) -> None:
                turned = x[0, from_row, from_column, word] ^ falling[word]  # noqa: B023
                T.buffer_store(found, found[0] & turned, [0])  # noqa: B023

            window.over_taps((row, column), (height, width), take)
            T.buffer_store(y, found[0] ^ falling[word], [0, row, column, word])
    return builder.get()
