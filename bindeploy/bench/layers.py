"""Measure single binary convolutions, beside onnxruntime's of the same shape in the same rounds.

Two times a layer: from packed bits to thresholded bits, as it runs inside of a network, by the
runtime's own clock; and from float NCHW to float NCHW, called from Python, packing included.
onnxruntime's times are given without what its call alone costs in the first comparison, and with
it in the second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np

from bindeploy.bench.rounds import Measured, interleaved, summary, timed
from bindeploy.convert.engines import onnxruntime_session
from bindeploy.convert.single_layers import (
    Shape,
    binary_layer,
    float_layer,
    int8_layer,
    nothing,
    threshold_layer,
)
from bindeploy.errors import unknown
from bindeploy.library import peak
from bindeploy.session import Node, Session

COMPARISONS = ("onnxruntime",)

SETS: dict[str, tuple[str, ...]] = {
    "standard": (
        "56x56x64x64:3x3",
        "28x28x128x128:3x3",
        "14x14x256x256:3x3",
        "7x7x512x512:3x3",
    ),
    "odd": (
        "56x56x64x64:3x3",
        "56x56x48x40:3x3",
        "56x56x65x65:3x3",
        "56x56x64x64:1x1",
        "56x56x64x64:5x5",
        "56x56x64x64:3x3:2",
        "28x28x128x128:3x3",
        "28x28x100x120:3x3",
        "28x28x130x130:3x3",
        "28x28x128x128:1x1",
        "28x28x128x128:5x5",
        "28x28x128x128:3x3:2",
        "14x14x256x256:3x3",
        "14x14x200x250:3x3",
        "14x14x300x270:3x3",
        "14x14x256x256:1x1",
        "14x14x256x256:5x5",
        "14x14x256x256:3x3:2",
        "7x7x512x512:3x3",
        "7x7x520x520:3x3",
        "7x7x470x500:3x3",
        "7x7x512x512:1x1",
        "7x7x512x512:5x5",
        "7x7x512x512:3x3:2",
    ),
    "channels": tuple(
        f"14x14x{count}x{count}:3x3"
        for count in (32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
    ),
}
"""Shapes that are measured together: those by which binary runtimes are compared (115.6 million
multiply-accumulates each), those that are no round number, and one layer that grows."""


def bench_layers(
    shapes: tuple[str, ...] = SETS["standard"],
    isas: tuple[str, ...] = (),
    compare: str | None = None,
    runs: int = 50,
    threads: int = 1,
) -> Iterator[Measured]:
    """Time whole binary convolutions; yields a row a shape and instruction set.

    `median_us`, `gmacs` and `share` (of the rate at which the same instruction set counts the ones
    of words that never leave the registers, `peak_gmacs`) are of the layer from bits to bits,
    `whole_us` is the one from float to float. With more than one thread, `one_thread_us` is the
    layer on one. Ratios are onnxruntime's time for the same convolution, on as many threads, over
    ours: `ratio_float32`, `ratio_int8` of the layer, `ratio_whole` of float to float in float32.
    """
    if compare is not None and compare not in COMPARISONS:
        raise unknown("comparison", compare, COMPARISONS)
    parsed = [Shape.parse(text) for text in shapes]
    for text, shape in zip(shapes, parsed, strict=True):
        for isa in isas or (None,):
            yield {"shape": text} | _row(shape, isa, compare is not None, runs, threads)


def _row(shape: Shape, isa: str | None, compared: bool, runs: int, threads: int) -> Measured:
    import onnx_ir

    image = np.random.default_rng(0).standard_normal(shape.input_shape, dtype=np.float32)
    with ExitStack() as open_sessions:

        def opened(model: Any, threads: int) -> Session:
            session = Session(onnx_ir.from_proto(model), isa=isa, threads=threads)
            return open_sessions.enter_context(session)

        layer, whole = opened(threshold_layer(shape), threads), opened(binary_layer(shape), threads)
        contestants: dict[str, Callable[[], float]] = {
            "layer": _node(layer, image),
            "whole": timed(lambda: whole.run(None, {"x": image})),
            "peak": lambda: peak(layer.isa),
        }
        if threads > 1:
            contestants["one"] = _node(opened(threshold_layer(shape), 1), image)
        if compared:
            contestants |= _onnxruntime(shape, image, threads)
        samples = interleaved(contestants, runs)
        node = _convolution(layer)
        row = {"isa": layer.isa, "threads": threads, "kernel": node.kernel, "macs": node.macs}
    peak_gmacs = float(np.median(samples.pop("peak"))) * threads
    return row | _measured(node.macs, peak_gmacs, {k: summary(s) for k, s in samples.items()})


def _measured(macs: int, peak_gmacs: float, times: dict[str, Measured]) -> Measured:
    layer, whole = times["layer"], times["whole"]
    gmacs = macs / layer["median_us"] / 1e3
    row = layer | {"gmacs": gmacs, "peak_gmacs": peak_gmacs, "share": gmacs / peak_gmacs}
    row |= {f"whole_{name.removeprefix('median_')}": value for name, value in whole.items()}
    if "one" in times:
        row["one_thread_us"] = times["one"]["median_us"]
        row["speedup"] = row["one_thread_us"] / row["median_us"]
    if "call" in times:
        call = times["call"]["median_us"]
        for other in ("float32", "int8"):
            row[f"{other}_us"] = times[other]["median_us"] - call
            row[f"ratio_{other}"] = row[f"{other}_us"] / row["median_us"]
        row["ratio_whole"] = times["float32"]["median_us"] / whole["median_us"]
    return row


def _convolution(session: Session) -> Node:
    """The one node that multiplies."""
    return max(session.nodes, key=lambda node: node.macs)


def _node(session: Session, image: np.ndarray) -> Callable[[], float]:
    """Nanoseconds of the convolution alone, by the runtime's clock."""
    index = session.nodes.index(_convolution(session))
    return lambda: session.profile(image, runs=1, warmup=0)[0][index]


def _onnxruntime(shape: Shape, image: np.ndarray, threads: int) -> dict[str, Callable[[], float]]:
    """The same convolution in float32 and in int8, and `call`, which computes nothing."""
    codes = np.clip(image * 32 + 128, 0, 255).astype(np.uint8)
    models = {
        "float32": (float_layer(shape), image),
        "int8": (int8_layer(shape), codes),
        "call": (nothing(), np.zeros(1, np.float32)),
    }

    def contestant(model: Any, x: np.ndarray) -> Callable[[], float]:
        session = onnxruntime_session(model, threads=threads)
        return timed(lambda: session.run(None, {"x": x}))

    return {name: contestant(*model) for name, model in models.items()}
