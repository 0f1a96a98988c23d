"""Products of matrices that are both computed, as in attention: one after the other in a batch."""

from __future__ import annotations

from typing import Any

from tvm.tirx.script import builder as T

from bindeploy.emit.tvm.processor import Expression, Processor, broadcast, kernel, span

ROWS = 4
"""Rows of a product that are computed together."""


def product(
    name: str, batch: int, rows: int, depth: int, columns: int, processor: Processor
) -> Any:
    """PrimFunc (x float32 [batch, rows, depth], y [batch, depth, columns], their product).

    Columns that do not fill a vector are computed by one that begins before them.
    """
    lanes = processor.lanes
    while lanes > columns:
        lanes //= 2
    starts = [*range(0, columns - lanes, lanes), columns - lanes]
    together = max(1, processor.sums // ROWS)
    groups = [starts[first : first + together] for first in range(0, len(starts), together)]
    with kernel(name) as builder:
        x = T.arg("x", T.Buffer((batch, rows, depth), "float32"))
        y = T.arg("y", T.Buffer((batch, depth, columns), "float32"))
        z = T.arg("z", T.Buffer((batch, rows, columns), "float32"))
        with T.parallel(0, batch) as one:
            for group in groups:
                if rows >= ROWS:
                    with T.serial(0, rows // ROWS) as tile:
                        _tile(x, y, z, one, tile * ROWS, ROWS, group, lanes)
                if rows % ROWS:
                    _tile(x, y, z, one, rows // ROWS * ROWS, rows % ROWS, group, lanes)
    return builder.get()


def _tile(
    x: Any,
    y: Any,
    z: Any,
    one: Expression,
    first: Expression,
    rows: int,
    starts: list[int],
    lanes: int,
) -> None:
    """`rows` rows from `first` on, at the vectors that begin at `starts`."""
    sums = T.alloc_buffer((rows * len(starts) * lanes,), "float32", scope="local")
    places = [
        (row, start, span((row * len(starts) + number) * lanes, lanes))
        for row in range(rows)
        for number, start in enumerate(starts)
    ]
    for _, _, place in places:
        T.buffer_store(sums, broadcast(T.float32(0), lanes), [place])
    with T.serial(0, int(x.shape[2])) as d:
        for row, start, place in places:
            factor = broadcast(x[one, first + row, d], lanes)
            total = sums[place] + factor * y[one, d, span(start, lanes)]
            T.buffer_store(sums, total, [place])
    for row, start, place in places:
        T.buffer_store(z, sums[place], [one, first + row, span(start, lanes)])
