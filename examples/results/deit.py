"""DeiT-T whole, its dense layers of 1-bit weights, beside onnxruntime's float32 of the same network: deit.md.

    OMP_NUM_THREADS=1 taskset -c 1 python examples/results/deit.py [--model deit-tiny] [--runs 30]

Random weights, one image of 224x224x3, one thread, both engines in turns. The float32 network is the same with ordinary weights.
"""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir
import torch

from bindeploy.bench import interleaved, machine, summary, timed
from bindeploy.convert import convert
from bindeploy.convert.engines import onnxruntime_session
from bindeploy.convert.float_twin import float_twin
from bindeploy.session import Session
from bindeploy.tables import measured_on
from bindeploy.train.models import build
from bindeploy.train.to_onnx import export

MODES = {"bw": "1-bit weights, float inputs", "bw8": "1-bit weights, 8-bit inputs"}


def packed(model: str, mode: str, image: np.ndarray) -> onnx_ir.Model:
    torch.manual_seed(0)
    network = build(model, 3, 1000, 224, "bc", mode)
    network.train()
    with torch.no_grad():
        network(torch.from_numpy(image))
    return convert(export(network.eval(), torch.from_numpy(image)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="deit-tiny")
    parser.add_argument("--runs", type=int, default=30)
    given = parser.parse_args()
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)
    models = {mode: packed(given.model, mode, image) for mode in MODES}
    sessions = {mode: Session(model) for mode, model in models.items()}
    twin = float_twin(onnx_ir.to_proto(models["bw"]))
    floats = onnxruntime_session(twin, threads=1)
    contestants = {mode: timed(lambda session=session: session.run(None, {session.get_inputs()[0].name: image})) for mode, session in sessions.items()}
    contestants["float32"] = timed(lambda: floats.run(None, {floats.get_inputs()[0].name: image}))
    samples = interleaved(contestants, given.runs)
    other = np.asarray(samples["float32"])
    lines = [f"# {given.model} beside onnxruntime\n", f"Made by `python examples/results/{Path(__file__).name}`: medians of {given.runs} rounds (10th to 90th percentile); ratios are taken within each round.\n"]
    lines += ["| network | ms | onnxruntime float32, ms | ratio | weights of 1 bit | as float32 |", "|---|---|---|---|---|---|"]
    for mode, words in MODES.items():
        ours, float32 = (summary(list(values)) for values in (samples[mode], other))
        ratio = np.median(other / np.asarray(samples[mode]))
        bits = sum(value.const_value.nbytes for value in models[mode].graph.initializers.values() if value.const_value.dtype == onnx_ir.DataType.UINT8)
        lines.append(f"| {words} | {ours['median_us'] / 1e3:.2f} ({ours['p10_us'] / 1e3:.2f} to {ours['p90_us'] / 1e3:.2f}) | {float32['median_us'] / 1e3:.2f} ({float32['p10_us'] / 1e3:.2f} to {float32['p90_us'] / 1e3:.2f}) | {ratio:.2f} | {bits / 1e6:.2f} MB | {bits * 32 / 1e6:.1f} MB |")
    lines += ["\nWhere the time goes, ms:\n", "| op | " + " | ".join(MODES) + " |", "|---|---|---|"]
    spent: dict[str, Counter[str]] = {}
    for mode, session in sessions.items():
        times = np.median(session.profile(image, runs=given.runs), axis=0) / 1e6
        spent[mode] = Counter()
        for node, time in zip(session.nodes, times, strict=True):
            spent[mode][node.op] += time
    for op in sorted(set().union(*spent.values()), key=lambda op: -sum(counts[op] for counts in spent.values())):
        lines.append(f"| {op} | " + " | ".join(f"{counts[op]:.2f}" for counts in spent.values()) + " |")
    lines += ["", measured_on(machine() | {"isa": sessions["bw"].isa}) + "\n"]
    Path(__file__).with_suffix(".md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
