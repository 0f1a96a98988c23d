"""Maps before a sign become its bounds: x is +1 where lowest <= x <= highest, by channel.

    affine, prelu, clip ... -> binarize    binarize of what the first of them reads, with bounds;
                                           binarize_planes where that is the plan's input

Let f be what the nodes compute of one channel, each operation rounded as the runtime rounds it.
Each rises or falls, roundings included, and so does f, except that a factor of 0 makes NaN of an
infinity, on one end or both. So where f is a number is one interval of the floats, 0 in it, and
f(x) >= 0 an interval in that, at one of its ends. All ends are found by bisection of f itself over
the floats in their order: no equation is solved, and ties, infinities and floats beyond normal
range are what they were.

Only where nothing else reads a value on the way: what a shortcut reads too has to be computed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from bindeploy.convert import channelwise_formulas as formulas
from bindeploy.emit.plan_affine import floats
from bindeploy.emit.plan_builder import Builder
from bindeploy.emit.plan_format import Node

Vector = NDArray[np.float32]
Places = NDArray[np.int64]
"""Where floats stand in their order: both zeros at 0, the infinities at both ends."""

INFINITY = int(np.float32(np.inf).view(np.int32))
SIGN = 1 << 31


def fuse_into_bounds(builder: Builder, output: int) -> None:
    """Fuse all that can be; `output` is the tensor that the plan's caller reads."""
    makers = {node.output: node for node in builder.nodes}
    reads = Counter(tensor for node in builder.nodes for tensor in node.inputs) + Counter([output])
    for node in [*builder.nodes]:
        chain = _chain(builder, node, makers, reads) if node.op == "binarize" else []
        found = bounds(partial(_value, builder, chain), _channels(builder, node)) if chain else None
        if found is None:
            continue
        names = (f"{node.name}/lowest", f"{node.name}/highest")
        vectors = (builder.constant(*pair) for pair in zip(found, names, strict=True))
        source = chain[0].inputs[0]
        if source in makers and makers[source].op == "to_nhwc":
            node.op, source = "binarize_planes", makers[source].inputs[0]
        node.inputs = (source, *vectors)
        for step in chain:
            builder.drop(step)


def bounds(f: Callable[[Vector], Vector], channels: int) -> tuple[Vector, Vector] | None:
    """lowest and highest [C] such that f(x) >= 0 iff lowest <= x <= highest, for every float x.

    `f` takes and gives one float a channel, and in each channel rises or falls where it is a
    number. None where it is none at 0.
    """
    zero = np.zeros(channels, np.int64)
    if np.isnan(f(float_at(zero))).any():
        return None

    def is_number(places: Places) -> NDArray[np.bool_]:
        return ~np.isnan(f(float_at(places)))

    def is_positive(places: Places) -> NDArray[np.bool_]:
        return f(float_at(places)) >= 0

    bottom = _last(is_number, zero, zero - INFINITY)
    top = _last(is_number, zero, zero + INFINITY)
    rises = is_positive(top)
    begin, end = np.where(rises, top, bottom), np.where(rises, bottom, top)
    never = ~is_positive(begin)
    end = _last(is_positive, begin, end)
    lowest = np.where(never, INFINITY, np.minimum(begin, end))
    highest = np.where(never, -INFINITY, np.maximum(begin, end))
    return float_at(lowest), float_at(highest)


def _last(holds: Callable[[Places], NDArray[np.bool_]], begin: Places, end: Places) -> Places:
    """The last place from `begin` to `end` where it holds, if it does from `begin` up to there."""
    begin = np.where(holds(end), end, begin)
    while (abs(end - begin) > 1).any():
        middle = (begin + end) // 2
        held = holds(middle)
        begin, end = np.where(held, middle, begin), np.where(held, end, middle)
    return begin


def float_at(places: Places) -> Vector:
    """The floats that stand there.

    >>> float_at(np.array([-1, 0, INFINITY])).tolist()
    [-1.401298464324817e-45, 0.0, inf]
    """
    return np.where(places < 0, SIGN - places, places).astype(np.uint32).view(np.float32)


def _chain(
    builder: Builder, sign: Node, makers: dict[int, Node], reads: Counter[int | None]
) -> list[Node]:
    """The nodes before a sign whose maps can be its bounds, in the order they run."""
    chain: list[Node] = []
    source = sign.inputs[0]
    while source is not None and reads[source] == 1 and source in makers:
        if not _rises_or_falls(builder, makers[source]):
            break
        chain.insert(0, makers[source])
        source = chain[0].inputs[0]
    return chain


def _channels(builder: Builder, node: Node) -> int:
    return builder.tensors[node.output].shape[3]


def _rises_or_falls(builder: Builder, node: Node) -> bool:
    """Whether a node is a map by channel, each of which rises or falls."""
    if node.op not in ("affine", "prelu", "clip"):
        return False
    vectors = [floats(builder, index) for index in node.inputs[1:] if index is not None]
    by_channel = all(len(vector) == _channels(builder, node) for vector in vectors)
    return by_channel and (node.op != "prelu" or bool((vectors[0] >= 0).all()))


def _value(builder: Builder, chain: list[Node], x: Vector) -> Vector:
    """What the nodes of a chain make of x."""
    with np.errstate(all="ignore"):
        for node in chain:
            given = (None if index is None else floats(builder, index) for index in node.inputs[1:])
            first, second, third = (*given, None, None, None)[:3]
            if node.op == "affine":
                assert first is not None and second is not None
                x = first * x + second
            elif node.op == "prelu":
                assert first is not None
                x = formulas.rectify(x if second is None else x + second, first)
                x = x if third is None else x + third
            x = np.clip(x, np.float32(node.minimum), np.float32(node.maximum))
    return x
