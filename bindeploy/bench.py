"""Measure: a bundle layer by layer, single kernels, and onnxruntime beside them in the same run.

Every comparison is interleaved: round by round, each contestant runs once for its caches, then once
timed, so that a machine that slows down slows all of them and none is charged for another's work.
Reported are medians with the 10th and 90th percentile; machine, threads and versions stand in every
report. Times are of one thread.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bindeploy import __version__
from bindeploy.bundle import Bundle
from bindeploy.convert.engines import onnxruntime_session
from bindeploy.convert.single_layers import (
    Shape,
    binary_layer,
    float_layer,
    int8_layer,
    nothing,
)
from bindeploy.errors import BindeployError, unknown
from bindeploy.on import transport
from bindeploy.session import Session

Measured = dict[str, Any]
Progress = Callable[[int, int], None]

STANDARD_SHAPES = ("56x56x64x64:3x3", "28x28x128x128:3x3", "14x14x256x256:3x3", "7x7x512x512:3x3")
"""The layers by which binary runtimes are compared: 115.6 million multiply-accumulates each."""

COMPARISONS = ("onnxruntime",)


def machine() -> Measured:
    """What the times were taken on."""
    import onnxruntime

    return {
        "processor": _processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": 1,
        "bindeploy": __version__,
        "onnxruntime": onnxruntime.__version__,
        "python": platform.python_version(),
    }


def summary(nanoseconds: list[int]) -> Measured:
    """Median and spread in microseconds."""
    low, median, high = np.percentile(np.asarray(nanoseconds) / 1e3, [10, 50, 90])
    return {"median_us": float(median), "p10_us": float(low), "p90_us": float(high)}


def bench_bundle(
    bundle: Bundle,
    runs: int = 50,
    compare: str | None = None,
    isa: str | None = None,
    progress: Progress | None = None,
) -> Measured:
    """Time one image through a bundle on this machine, in all and layer by layer.

    With `compare="onnxruntime"`, the float32 twin of the network (same layers, ordinary float
    weights, Relu for Sign; see `convert.float_twin`) runs in onnxruntime in the same rounds, whole
    and as single layers, whose times are given without the cost of the call.
    """
    if compare is not None and compare not in COMPARISONS:
        raise unknown("comparison", compare, COMPARISONS)
    image = bundle.golden.inputs[:1]
    with Session(bundle.path, isa=isa) as session:
        contestants = {"bindeploy": _ours(session, image)}
        twins = _float_contestants(bundle, image) if compare else {}
        contestants |= twins
        times, nodes = _rounds(session, image, contestants, runs, progress)
        layers = [
            {
                "name": node.name,
                "op": node.op,
                "kernel": node.kernel,
                "macs": node.macs,
                **summary(nodes[index]),
            }
            for index, node in enumerate(session.nodes)
        ]
        report: Measured = {
            "bundle": str(bundle.path),
            "machine": machine() | {"isa": session.isa},
            "runs": runs,
            "total": summary(times["bindeploy"]),
            "layers": layers,
            "memory": session.memory,
        }
    if twins:
        total = summary(times["onnxruntime"])
        report["compare"] = {
            "engine": "onnxruntime float32",
            "total": total | {"ratio": total["median_us"] / report["total"]["median_us"]},
            "call_us": summary(times["call"])["median_us"],
            "layers": _float_layers(times),
        }
    return report


def bench_on(bundle: Bundle, where: str, runs: int = 50) -> Measured:
    """Time the bundle's own program where it is meant to run; an emulator refuses."""
    place = transport(where)
    measured = place.measure(bundle, runs, warmup=max(2, runs // 10))
    lacking = {"isa", "total", "layers", "memory"} - measured.keys()
    if lacking:
        raise BindeployError(
            f"`{bundle.program}` reports no {', '.join(sorted(lacking))}: export the bundle again"
        )
    return {
        "bundle": str(bundle.path),
        "machine": machine() | {"isa": measured["isa"]},
        "runs": runs,
        **{key: measured[key] for key in ("total", "layers", "memory")},
    }


def bench_kernels(
    shapes: tuple[str, ...] = STANDARD_SHAPES,
    isas: tuple[str, ...] = (),
    compare: str | None = None,
    runs: int = 50,
) -> Iterator[Measured]:
    """Time whole binary convolutions: float NCHW input to float NCHW output, packing included.

    Yields a row a shape and instruction set. Ratios are onnxruntime's median time for the same
    convolution in float32, and in int8, over ours.
    """
    if compare is not None and compare not in COMPARISONS:
        raise unknown("comparison", compare, COMPARISONS)
    import onnx_ir

    parsed = [Shape.parse(text) for text in shapes]
    for text, shape in zip(shapes, parsed, strict=True):
        image = np.random.default_rng(0).standard_normal(shape.input_shape, dtype=np.float32)
        for isa in isas or (None,):
            with Session(onnx_ir.from_proto(binary_layer(shape)), isa=isa) as session:
                contestants = {"bindeploy": _ours(session, image)}
                if compare:
                    contestants["float32"] = _onnxruntime(float_layer(shape), {"x": image})
                    codes = np.clip(image * 32 + 128, 0, 255).astype(np.uint8)
                    contestants["int8"] = _onnxruntime(int8_layer(shape), {"x": codes})
                times, nodes = _rounds(session, image, contestants, runs, None)
                node = max(session.nodes, key=lambda node: node.macs)
                kernel_ns = float(np.median(nodes[session.nodes.index(node)]))
                row = {
                    "shape": text,
                    "isa": session.isa,
                    "kernel": node.kernel,
                    "macs": node.macs,
                    **summary(times["bindeploy"]),
                    "gmacs": node.macs / np.median(times["bindeploy"]),
                    "layer_gmacs": node.macs / kernel_ns,
                }
            ours = row["median_us"]
            for other in ("float32", "int8"):
                if other in times:
                    row[f"{other}_us"] = summary(times[other])["median_us"]
                    row[f"ratio_{other}"] = row[f"{other}_us"] / ours
            yield row


def _rounds(
    session: Session,
    image: np.ndarray,
    contestants: dict[str, Callable[[], object]],
    runs: int,
    progress: Progress | None,
) -> tuple[dict[str, list[int]], list[list[int]]]:
    """Nanoseconds a contestant and a node of the session, one sample each a round."""
    if runs < 1:
        raise BindeployError(f"`--runs {runs}` measures nothing: take 1 or more")
    times: dict[str, list[int]] = {name: [] for name in contestants}
    nodes: list[list[int]] = [[] for _ in session.nodes]
    warm_up = max(2, runs // 10)
    for round_number in range(-warm_up, runs):
        for name, run in contestants.items():
            run()
            start = time.perf_counter_ns()
            run()
            elapsed = time.perf_counter_ns() - start
            if round_number >= 0:
                times[name].append(elapsed)
        (profile,) = session.profile(image, runs=1, warmup=1)
        if round_number >= 0:
            for samples, nanoseconds in zip(nodes, profile, strict=True):
                samples.append(nanoseconds)
            if progress:
                progress(round_number + 1, runs)
    return times, nodes


def _float_layers(times: dict[str, list[int]]) -> dict[str, Measured]:
    """Median of every single float layer, less what the call alone costs: ours are timed in C.

    None where what is left is no more than the spread of the call itself.
    """
    call = summary(times["call"])
    spread = call["p90_us"] - call["p10_us"]
    medians = {
        name.removeprefix("layer/"): summary(samples)["median_us"]
        for name, samples in times.items()
        if name.startswith("layer/")
    }
    alone = {name: median - call["median_us"] for name, median in medians.items()}
    return {name: {"median_us": us if us > spread else None} for name, us in alone.items()}


def _ours(session: Session, image: np.ndarray) -> Callable[[], object]:
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: image})


def _float_contestants(bundle: Bundle, image: np.ndarray) -> dict[str, Callable[[], object]]:
    """The float32 twin of a bundle in onnxruntime, whole (`onnxruntime`) and as `layer/NAME`.

    `call` is a model that does nothing: what a call from Python costs by itself.
    """
    import onnx

    from bindeploy.convert.float_twin import float_twin, layers

    twin = float_twin(onnx.load(bundle.path / "model.onnx"))
    contestants = {"onnxruntime": _onnxruntime(twin, {twin.graph.input[0].name: image})}
    contestants["call"] = _onnxruntime(nothing(), {"x": np.zeros(1, np.float32)})
    generator = np.random.default_rng(0)
    for name, layer in layers(twin).items():
        inputs = {
            value.name: generator.standard_normal(
                [dimension.dim_value for dimension in value.type.tensor_type.shape.dim],
                dtype=np.float32,
            )
            for value in layer.graph.input
        }
        contestants[f"layer/{name}"] = _onnxruntime(layer, inputs)
    return contestants


def _onnxruntime(model: Any, inputs: dict[str, np.ndarray]) -> Callable[[], object]:
    """One single-threaded onnxruntime session, ready to run."""
    session = onnxruntime_session(model, threads=1)
    return lambda: session.run(None, inputs)


def _processor() -> str:
    """The processor's own name where the system tells it."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
