"""Floats to packed words and back, and pictures with padding around them. All NHWC."""

from __future__ import annotations

import math
from typing import Any

from tvm.tirx.script import builder as T

from bindeploy.emit.tvm.processor import (
    WORD,
    Expression,
    Processor,
    broadcast,
    cast,
    kernel,
    single_bits,
    span,
)

Shape = tuple[int, ...]


def words_of(channels: int, groups: int = 1) -> int:
    """Words of a pixel: every group begins at a word."""
    return groups * -(-(channels // groups) // WORD)


def binarize(name: str, shape: Shape, groups: int, processor: Processor) -> Any:
    """PrimFunc (x float32 [1, H, W, C], y uint32 [1, H, W, words]): bit 1 where not (x >= 0)."""
    _, height, width, channels = shape
    depth = channels // groups
    words = words_of(depth)
    with kernel(name) as builder:
        x = T.arg("x", T.Buffer(shape, "float32"))
        y = T.arg("y", T.Buffer((1, height, width, groups * words), "uint32"))
        with processor.each(height, width, groups) as (row, column, group):
            whole, rest = divmod(depth, WORD)
            if whole:
                with T.serial(0, whole) as word:
                    bits = _word(x, (row, column), group * depth + word * WORD, WORD, processor)
                    T.buffer_store(y, bits, [0, row, column, group * words + word])
            if rest:
                bits = _word(x, (row, column), group * depth + whole * WORD, rest, processor)
                T.buffer_store(y, bits, [0, row, column, group * words + whole])
    return builder.get()


def _word(
    x: Any, pixel: tuple[Expression, ...], first: Expression, count: int, processor: Processor
) -> Expression:
    """The word of `count` channels from `first` on.

    Ones are found and turned: TVM takes `not (x >= 0)` for `x < 0`, which NaN is not.
    """
    bits = T.uint32(0)
    start = 0
    for lanes in (WORD, WORD // 2, processor.lanes, 1):
        if lanes > 1 and processor.lanes == 1:
            continue
        while count - start >= lanes:
            positive = x[(0, *pixel, span(first + start, lanes))] >= broadcast(T.float32(0), lanes)
            bits = bits | T.shift_left(processor.bits(positive, lanes), T.uint32(start))
            start += lanes
    return bits ^ T.uint32(2**count - 1)


def quantize(name: str, shape: Shape, step: float, processor: Processor) -> Any:
    """PrimFunc (x float32 [N], y int8 [N]): clamp(round(x / step), -128, 127), halves to even.

    NaN gives -128.
    """
    (count,) = shape
    lanes = processor.lanes
    with kernel(name) as builder:
        x = T.arg("x", T.Buffer(shape, "float32"))
        y = T.arg("y", T.Buffer(shape, "int8"))
        with processor.each(count // lanes) as (part,):
            at = span(part * lanes, lanes)
            T.buffer_store(y, _rounded(x[at], step, lanes), [at])
        if count % lanes:
            with T.serial(count // lanes * lanes, count) as at:
                T.buffer_store(y, _rounded(x[at], step, 1), [at])
    return builder.get()


def _rounded(x: Expression, step: float, lanes: int) -> Expression:
    step, lowest, highest = (broadcast(T.float32(value), lanes) for value in (step, -128, 127))
    steps = x / step
    bounded = T.Select(steps >= lowest, T.min(steps, highest), lowest)
    return cast("int8", T.nearbyint(bounded), lanes)


def unpack(name: str, shape: Shape, groups: int, processor: Processor) -> Any:
    """PrimFunc (x uint32 [1, H, W, words], y float32 [1, H, W, C]): -1 where the bit is 1."""
    _, height, width, channels = shape
    depth = channels // groups
    words = words_of(depth)
    with kernel(name) as builder:
        x = T.arg("x", T.Buffer((1, height, width, groups * words), "uint32"))
        y = T.arg("y", T.Buffer(shape, "float32"))
        lanes = math.gcd(processor.lanes, depth)
        with processor.each(height, width, groups, depth // lanes) as (row, column, group, part):
            first = part * lanes
            word = x[0, row, column, group * words + first // WORD]
            place = [0, row, column, span(group * depth + first, lanes)]
            T.buffer_store(y, _signs(word, first % WORD, lanes), place)
    return builder.get()


def _signs(word: Expression, first: Expression, lanes: int) -> Expression:
    """+-1 of `lanes` bits of a word."""
    negative = (broadcast(word, lanes) & single_bits(lanes, first)) != broadcast(T.uint32(0), lanes)
    minus, plus = (broadcast(T.float32(value), lanes) for value in (-1, 1))
    return T.Select(negative, minus, plus)


def pad(
    name: str, shape: Shape, pads: Shape, dtype: str, value: float, processor: Processor
) -> Any:
    """PrimFunc (x [1, H, W, D], y with `pads` (top, left, bottom, right) around, of `value`)."""
    _, height, width, depth = shape
    top, left, bottom, right = pads
    padded = (1, top + height + bottom, left + width + right, depth)
    with kernel(name) as builder:
        x = T.arg("x", T.Buffer(shape, dtype))
        y = T.arg("y", T.Buffer(padded, dtype))
        if processor.gpu:
            with processor.each(*padded[1:]) as (row, column, d):
                down = T.And(row >= top, row < top + height)
                inside = T.And(down, T.And(column >= left, column < left + width))
                number = x[0, row - top, column - left, d]
                number = T.if_then_else(inside, number, T.Cast(dtype, value))
                T.buffer_store(y, number, [0, row, column, d])
        else:
            _pad_rows(x, y, shape, pads, dtype, value)
    return builder.get()


def _pad_rows(x: Any, y: Any, shape: Shape, pads: Shape, dtype: str, value: float) -> None:
    _, height, width, depth = shape
    top, left, bottom, right = pads
    with T.serial(0, top + height + bottom) as row:
        inside = T.And(row >= top, row < top + height)
        with T.If(inside):
            with T.Then():
                _fill(y, row, 0, left, depth, dtype, value)
                with T.grid(width, depth) as (column, d):
                    number = x[0, row - top, column, d]
                    T.buffer_store(y, number, [0, row, left + column, d])
                _fill(y, row, left + width, right, depth, dtype, value)
            with T.Else():
                _fill(y, row, 0, left + width + right, depth, dtype, value)


def _fill(
    y: Any, row: Expression, first: int, count: int, depth: int, dtype: str, value: float
) -> None:
    if count:
        with T.grid(count, depth) as (column, d):
            T.buffer_store(y, T.Cast(dtype, value), [0, row, first + column, d])
