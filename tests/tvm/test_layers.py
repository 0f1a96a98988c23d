"""Every layer of the dialect as TVM compiles it is its numpy meaning, for any width of vectors."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from bindeploy import bits
from bindeploy.convert import dialect
from bindeploy.emit.tvm import products
from bindeploy.emit.tvm.convolution import Layer


class Window(NamedTuple):
    """A convolution of [1, group * channels, *size]."""

    size: tuple[int, int]
    channels: int
    filters: int
    kernel: tuple[int, int] = (3, 3)
    group: int = 1
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    pad_value: float = 1.0


WINDOWS = (
    Window((5, 6), 3, 7, pads=(1, 1, 1, 1)),
    Window((4, 9), 1, 33, (1, 1)),
    Window((7, 5), 33, 40, pads=(1, 0, 2, 1), pad_value=0.0),
    Window((9, 10), 70, 17, (5, 5), strides=(2, 1), pads=(2, 2, 2, 2), pad_value=0.0),
    Window((8, 11), 20, 64, strides=(1, 2), pads=(0, 3, 1, 0), dilations=(2, 3)),
    Window((6, 5), 9, 36, group=2, pads=(1, 1, 1, 1), pad_value=0.0),
    Window((5, 4), 64, 6, (1, 3), group=3, strides=(2, 1), pads=(0, 1, 0, 1)),
    Window((6, 7), 1, 37, group=37, pads=(1, 1, 1, 1), pad_value=0.0),
    Window((6, 5), 1, 40, group=40, strides=(2, 2), pads=(0, 1, 1, 1)),
    Window((4, 5), 1, 12, (2, 2), group=6),
    Window((1, 13), 35, 96, (1, 3), pads=(0, 1, 0, 1)),
    Window((16, 15), 1, 3, (12, 12), group=3, pads=(1, 1, 1, 1), pad_value=0.0),
)

DENSE = (((), 1, 1), ((), 70, 33), ((5,), 130, 20), ((2, 3), 33, 10), ((), 300, 7))
"""Axes between the first and the last, channels, filters."""


def floats(random: np.random.Generator, *shape: int) -> np.ndarray:
    """Zeros of both signs and NaN among them."""
    x = random.normal(size=shape).astype(np.float32)
    for every, value in ((7, 0.0), (11, -0.0), (29, np.nan)):
        x.reshape(-1)[::every] = value
    return x


def numbers(random: np.random.Generator, *shape: int) -> np.ndarray:
    """Sixteenths, whose sums are exact in any order."""
    return (random.integers(-64, 65, shape) / 16).astype(np.float32)


def vectors(
    random: np.random.Generator, filters: int, threshold: bool, reach: int
) -> tuple[np.ndarray, np.ndarray]:
    """Scale and bias, or threshold and direction: never and always reached among them."""
    if not threshold:
        scale = random.normal(size=filters).astype(np.float32)
        return scale, random.normal(size=filters).astype(np.float32)
    found = random.integers(-reach // 8 - 1, reach // 8 + 2, filters).astype(np.int32)
    found[:2] = np.array([-reach - 1, reach + 1])[:filters]
    return found, random.choice([-1, 1], filters).astype(np.int8)


def weights(random: np.random.Generator, op: str, shape: tuple[int, ...]) -> tuple[Any, ...]:
    """The constants of `op` before its two vectors; `shape` is [F, ..., C]."""
    if op.startswith("Int8"):
        weight = random.integers(-128, 128, shape).astype(np.int8)
        return np.ascontiguousarray(np.moveaxis(weight, -1, 1)), np.float32(0.1)
    return (bits.pack(random.choice([-1.0, 1.0], shape)),)


def drawn(op: str, share: slice, random: np.random.Generator):
    """Inputs, constants and attributes of a share of the cases of `op`."""
    threshold = op.endswith("Threshold")
    draw = numbers if op.startswith("BinaryWeight") else floats
    largest = 128 * 128 if op.startswith("Int8") else 1
    if "Linear" in op:
        for between, channels, filters in DENSE[share]:
            constants = weights(random, op, (filters, channels))
            more = vectors(random, filters, threshold, channels * largest)
            attributes = {} if op.startswith("Int8") else {"channels": channels}
            yield draw(random, 1, *between, channels), (*constants, *more), attributes
        return
    for case in WINDOWS[share]:
        constants = weights(random, op, (case.filters, *case.kernel, case.channels))
        reach = case.channels * case.kernel[0] * case.kernel[1] * largest
        more = vectors(random, case.filters, threshold, reach)
        left_out = {"channels", "pad_value"} if op.startswith("Int8") else set()
        attributes = {
            name: getattr(case, name) for name in dialect.CONVOLUTION if name not in left_out
        }
        x = draw(random, 1, case.group * case.channels, *case.size)
        yield x, (*constants, *more), attributes


LAYERS = [op.name for op in dialect.OPS.values() if op.domain == "bindeploy" and len(op.inputs) > 2]


@pytest.mark.parametrize("op", LAYERS)
def test_a_layer_is_its_numpy_meaning(op, processor, processors, drawing, compile_model):
    """Each processor has a share of the cases, another one for every op: all of them meet all."""
    number = processors.index(processor) + LAYERS.index(op)
    share = slice(number % len(processors), None, len(processors))
    cases = list(drawn(op, share, np.random.default_rng(1)))
    for x, constants, attributes in cases:
        source = drawing.input(x.shape)
        made = drawing.node(op, source, *constants, domain="bindeploy", **attributes)
        drawing.output(made)
    found = compile_model(drawing.model(), processor)(*(x for x, _, _ in cases))
    meaning = dialect.OPS["bindeploy", op].meaning
    for made, (x, constants, attributes) in zip(found, cases, strict=True):
        expected = meaning(x, *constants, **attributes)
        np.testing.assert_array_equal(made, expected, err_msg=str(attributes))
        assert made.dtype == np.float32


@pytest.mark.parametrize("filters", [1, 6, 18, 37, 40, 96])
def test_blocks_of_channels_that_are_read_as_vectors_divide_them(filters, processor):
    tile, narrow = products.DepthwiseFloats().tile(Layer(3, 4, 1, filters), processor)
    assert filters % tile.block == 0
    assert tile.block % narrow.lanes == 0
    assert narrow.lanes <= processor.lanes
