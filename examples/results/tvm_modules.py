"""TVM modules beside the C runtime and onnxruntime's float32: tvm_modules.md.

    OMP_NUM_THREADS=1 taskset -c 1 python examples/results/tvm_modules.py [--runs 30]

Random weights, one image, one thread, all engines in turns. A layer is measured from packed bits to thresholded bits, inside of its module.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx_ir
import torch

from bindeploy import target
from bindeploy.bench import SETS, interleaved, machine, summary, timed
from bindeploy.convert import convert
from bindeploy.convert.engines import onnxruntime_session
from bindeploy.convert.float_twin import float_twin
from bindeploy.convert.single_layers import Shape, threshold_layer
from bindeploy.emit.tvm.compiler import KERNELS, write_module
from bindeploy.emit.tvm.machine import Machine
from bindeploy.session import Session
from bindeploy.tables import measured_on
from bindeploy.train.models import build
from bindeploy.train.to_onnx import export

NETWORKS = {"vgg-small": 32, "resnet20": 32, "quicknet-small": 224, "quicknet": 224, "quicknet-large": 224, "bi-real-18": 224}
"""Each with the size of its images."""

OF_A_LAYER = ("pad", "binary_convolution")
"""How the kernels of a layer of bits are called; the others bring the bits in and out."""


def compiled(model: onnx_ir.Model, folder: Path, name: str, kernels: str = "own") -> tuple[Machine, float, int]:
    """The module, the seconds that making it took, and its bytes."""
    path, start = folder / f"{name}-{kernels}.so", time.perf_counter()
    write_module(model, target.load("host"), path, kernels)
    return Machine(path), time.perf_counter() - start, path.stat().st_size


def layer_of_module(module: Machine, image: np.ndarray) -> Callable[[], int]:
    return lambda: sum(spent for name, spent in module.profile(image) if name.startswith(OF_A_LAYER))


def layer_of_runtime(session: Session, image: np.ndarray) -> Callable[[], int]:
    index, _ = max(enumerate(session.nodes), key=lambda numbered: numbered[1].macs)
    return lambda: session.profile(image, runs=1, warmup=0)[0][index]


def layers(runs: int, folder: Path) -> list[str]:
    lines = ["| layer | C runtime, GMAC/s | TVM, GMAC/s | TVM over C |", "|---|---|---|---|"]
    for text in SETS["standard"]:
        shape = Shape.parse(text)
        model = onnx_ir.from_proto(threshold_layer(shape))
        image = np.random.default_rng(0).standard_normal(shape.input_shape, dtype=np.float32)
        session, (module, _, _) = Session(model), compiled(model, folder, text.replace(":", "-"))
        times = interleaved({"c": layer_of_runtime(session, image), "tvm": layer_of_module(module, image)}, runs)
        macs = max(node.macs for node in session.nodes)
        c, tvm = (macs / summary(times[name])["median_us"] / 1e3 for name in ("c", "tvm"))
        share = np.median(np.asarray(times["c"]) / np.asarray(times["tvm"]))
        lines.append(f"| {text} | {c:,.0f} | {tvm:,.0f} | {share:.2f} |")
    return lines


def packed(name: str, size: int) -> tuple[onnx_ir.Model, np.ndarray]:
    image = np.random.default_rng(0).standard_normal((1, 3, size, size), dtype=np.float32)
    torch.manual_seed(0)
    network = build(name, 3, 10 if size == 32 else 1000, size, "bc", "bwa")
    network.train()
    with torch.no_grad():
        network(torch.from_numpy(image))
    return convert(export(network.eval(), torch.from_numpy(image))), image


def networks(runs: int, folder: Path) -> list[str]:
    names = "| network | TVM, ms | TVM with the C runtime's kernels | C runtime | onnxruntime float32 | TVM ahead by | compiled in | module |"
    lines = [names, "|---|---|---|---|---|---|---|---|"]
    for name, size in NETWORKS.items():
        model, image = packed(name, size)
        session, floats = Session(model), onnxruntime_session(float_twin(onnx_ir.to_proto(model)), threads=1)
        modules = {kernels: compiled(model, folder, name, kernels) for kernels in KERNELS}
        contestants = {kernels: timed(lambda module=module: module.run(image)) for kernels, (module, _, _) in modules.items()}
        contestants["c"] = timed(lambda session=session, image=image: session.run(None, {session.get_inputs()[0].name: image}))
        contestants["float32"] = timed(lambda floats=floats, image=image: floats.run(None, {floats.get_inputs()[0].name: image}))
        times = interleaved(contestants, runs)
        shown = [f"{row['median_us'] / 1e3:.2f} ({row['p10_us'] / 1e3:.2f} to {row['p90_us'] / 1e3:.2f})" for row in map(summary, map(times.get, (*KERNELS, "c", "float32")))]
        ahead = np.median(np.asarray(times["float32"]) / np.asarray(times["own"]))
        _, seconds, size_of = modules["own"]
        lines.append(f"| {name} | {' | '.join(shown)} | {ahead:.1f} | {seconds:.1f} s | {size_of / 1e6:.2f} MB |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=30)
    runs = parser.parse_args().runs
    lines = ["# TVM modules\n", f"Made by `python examples/results/{Path(__file__).name}`: medians of {runs} rounds (10th to 90th percentile); ratios are taken within each round.\n"]
    with tempfile.TemporaryDirectory() as folder:
        lines += ["## Binary layers, packed bits to thresholded bits\n", *layers(runs, Path(folder)), ""]
        lines += ["## Whole networks\n", *networks(runs, Path(folder)), ""]
    lines += [f"tvm {version('apache-tvm')}; {measured_on(machine() | {'isa': Session(threshold()).isa})}\n"]
    Path(__file__).with_suffix(".md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


def threshold() -> onnx_ir.Model:
    return onnx_ir.from_proto(threshold_layer(Shape.parse(SETS["standard"][-1])))


if __name__ == "__main__":
    main()
