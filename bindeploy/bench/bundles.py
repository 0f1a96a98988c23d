"""Measure a bundle layer by layer, and other engines beside it in the same rounds.

Reported are medians with the 10th and 90th percentile; machine, threads and versions stand in every
report.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bindeploy.bench.layers import COMPARISONS
from bindeploy.bench.rounds import Measured, Progress, interleaved, machine, summary, timed
from bindeploy.bundle import Bundle, inspect
from bindeploy.convert.engines import onnxruntime_session
from bindeploy.convert.single_layers import nothing
from bindeploy.errors import BindeployError, unknown
from bindeploy.on import transport
from bindeploy.op_kinds import split
from bindeploy.session import Node, Session

MULTIPLIES = ("_convolution", "_dense")
"""How the kernels are named in a compiled module that multiply, before `_threshold`."""


def bench_bundle(
    bundle: Bundle,
    runs: int = 50,
    compare: str | None = None,
    isa: str | None = None,
    threads: int = 1,
    progress: Progress | None = None,
) -> Measured:
    """Time one image through a bundle on this machine, in all and layer by layer.

    With `compare="onnxruntime"`, the float32 twin of the network (same layers, ordinary float
    weights, Relu for Sign; see `convert.float_twin`) runs in onnxruntime in the same rounds, whole
    and as single layers, whose times are given without the cost of the call. Beside a module that
    TVM compiled our runtime runs the same network, where it can.
    """
    if compare is not None and compare not in COMPARISONS:
        raise unknown("comparison", compare, COMPARISONS)
    image = bundle.golden.inputs[:1]
    with Session(bundle.path, isa=isa, threads=threads) as session:
        contestants: dict[str, Callable[[], Any]] = {
            "bindeploy": _ours(session, image),
            "nodes": lambda: session.profile(image, runs=1, warmup=0)[0],
        }
        rival, reason = _runtime(bundle, image, threads)
        twins = _float_contestants(bundle, image, threads) if compare else {}
        times = interleaved(contestants | rival | twins, runs, progress)
        nodes = list(zip(*times["nodes"], strict=True))
        macs = _macs(bundle) if bundle.format == "tvm" else {}
        layers = [
            {
                "name": node.name,
                "op": node.op,
                "kernel": node.kernel,
                "macs": node.macs or (macs.get(node.name, 0) if _multiplies(node) else 0),
                **summary(list(nodes[index])),
            }
            for index, node in enumerate(session.nodes)
        ]
        report: Measured = {
            "bundle": str(bundle.path),
            "machine": machine(threads) | {"isa": session.isa},
            "runs": runs,
            "total": summary(times["bindeploy"]),
            "layers": layers,
            "memory": session.memory,
        }
    if bundle.format == "tvm":
        report["tvm"] = bundle.manifest["build"]["tvm"]
        report["runtime"] = _beside(times["runtime"], report) if rival else {"reason": reason}
    else:
        report["split_us"] = split((layer["op"], layer["median_us"]) for layer in layers)
    if twins:
        report["compare"] = {
            "engine": "onnxruntime float32",
            **_beside(times["onnxruntime"], report),
            "call_us": summary(times["call"])["median_us"],
            "layers": _float_layers(times),
        }
    return report


def _macs(bundle: Bundle) -> dict[str, int]:
    """Multiply-accumulates of every layer of the portable file: a module does not say them."""
    layers = inspect(bundle.path)["layers"]
    return {layer["name"]: layer["binary_macs"] + layer["float_macs"] for layer in layers}


def _multiplies(node: Node) -> bool:
    """Of the kernels of a layer in a module, whether this one multiplies; others pack and pad."""
    return node.op.removesuffix("_threshold").endswith(MULTIPLIES)


def _beside(times: list[int], report: Measured) -> Measured:
    """The `total` of another engine in the same rounds, its `ratio` how often ours fits into it."""
    total = summary(times)
    return {"total": total | {"ratio": total["median_us"] / report["total"]["median_us"]}}


def _runtime(
    bundle: Bundle, image: np.ndarray, threads: int
) -> tuple[dict[str, Callable[[], int]], str]:
    """Our runtime as a contestant of a compiled module; none, and why, where it cannot be one."""
    if bundle.format != "tvm":
        return {}, ""
    try:
        return {"runtime": _ours(Session(bundle.model, threads=threads), image)}, ""
    except BindeployError as error:
        return {}, str(error)


def bench_on(bundle: Bundle, where: str, runs: int = 50) -> Measured:
    """Time the bundle's own program or module where it is meant to run; an emulator refuses."""
    place = transport(where)
    measured = place.measure(bundle, runs, warmup=max(2, runs // 10))
    if "nanoseconds" in measured:
        measured["total"] = summary(measured["nanoseconds"])
    lacking = {"isa", "total", "layers", "memory"} - measured.keys()
    if lacking:
        raise BindeployError(
            f"`{bundle.program}` reports no {', '.join(sorted(lacking))}: export the bundle again"
        )
    return {
        "bundle": str(bundle.path),
        "machine": machine() | {"isa": measured["isa"]} | measured.get("machine", {}),
        "runs": runs,
        **{key: measured[key] for key in ("total", "layers", "memory")},
    }


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


def _ours(session: Session, image: np.ndarray) -> Callable[[], int]:
    name = session.get_inputs()[0].name
    return timed(lambda: session.run(None, {name: image}))


def _float_contestants(
    bundle: Bundle, image: np.ndarray, threads: int
) -> dict[str, Callable[[], int]]:
    """The float32 twin of a bundle in onnxruntime, whole (`onnxruntime`) and as `layer/NAME`.

    `call` is a model that does nothing: what a call from Python costs by itself.
    """
    import onnx

    from bindeploy.convert.float_twin import float_twin, layers

    twin = float_twin(onnx.load(bundle.path / "model.onnx"))
    contestants = {"onnxruntime": _onnxruntime(twin, {twin.graph.input[0].name: image}, threads)}
    contestants["call"] = _onnxruntime(nothing(), {"x": np.zeros(1, np.float32)}, threads)
    generator = np.random.default_rng(0)
    for name, layer in layers(twin).items():
        inputs = {
            value.name: generator.standard_normal(
                [dimension.dim_value for dimension in value.type.tensor_type.shape.dim],
                dtype=np.float32,
            )
            for value in layer.graph.input
        }
        contestants[f"layer/{name}"] = _onnxruntime(layer, inputs, threads)
    return contestants


def _onnxruntime(model: Any, inputs: dict[str, np.ndarray], threads: int) -> Callable[[], int]:
    """One session of onnxruntime, ready to run."""
    session = onnxruntime_session(model, threads=threads)
    return timed(lambda: session.run(None, inputs))
