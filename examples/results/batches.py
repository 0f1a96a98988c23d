"""Binary layers called with 1 to 8 images at once: batches.md.

    OMP_NUM_THREADS=1 taskset -c 1 python examples/results/batches.py [--runs 30]

From float to float, one thread. A plan holds one image and a call runs one after the other, so an image should cost the same in any batch.
"""

import argparse
from pathlib import Path

import numpy as np
import onnx_ir

from bindeploy.bench import SETS, interleaved, machine, timed
from bindeploy.convert.single_layers import Shape, binary_layer
from bindeploy.session import Session
from bindeploy.tables import measured_on

BATCHES = (1, 2, 3, 4, 5, 6, 7, 8)
SHAPES = (*SETS["standard"], "56x56x65x65:3x3", "28x28x100x120:3x3", "14x14x200x250:3x3", "7x7x470x500:3x3")


def rates(text: str, runs: int) -> list[float]:
    """Images a second in each batch, over those of a batch of one: medians of ratios within each round."""
    shape = Shape.parse(text)
    images = np.random.default_rng(0).standard_normal((max(BATCHES), *shape.input_shape[1:]), dtype=np.float32)
    with Session(onnx_ir.from_proto(binary_layer(shape))) as session:
        calls = {str(count): timed(lambda count=count: session.run(None, {"x": images[:count]})) for count in BATCHES}
        times = {name: np.asarray(samples) for name, samples in interleaved(calls, runs).items()}
    return [float(np.median(times["1"] * count / times[str(count)])) for count in BATCHES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=30)
    runs = parser.parse_args().runs
    lines = ["# Batches\n", f"Made by `python examples/results/{Path(__file__).name}`: images a second over those of one image a call, medians of {runs} rounds.\n"]
    lines += ["| layer, from float to float | " + " | ".join(f"{count} images" for count in BATCHES[1:]) + " |", "|---" * len(BATCHES) + "|"]
    for text in SHAPES:
        lines.append(f"| {text} | " + " | ".join(f"{rate:.2f}" for rate in rates(text, runs)[1:]) + " |")
    with Session(onnx_ir.from_proto(binary_layer(Shape.parse(SHAPES[0])))) as session:
        lines += ["", measured_on(machine() | {"isa": session.isa}) + "\n"]
    Path(__file__).with_suffix(".md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
