"""Layers of 1-bit weights, and layers of int8 weights, beside onnxruntime in float32 and int8.

    OMP_NUM_THREADS=1 python examples/results/bw_layers.py [--only 197x192x576] [--isa avx2] [--runs 30]

Every line is one layer, one thread each. Round by round each engine runs it once for its caches and once timed. Ours are the node's own
nanoseconds: floats in, floats out, quantization included. onnxruntime's are of the whole call, less what a call that does nothing
costs; its int8 layers read and write uint8, so that no quantization is charged to them. Times are those of the fastest tenth on both
sides, for a busy machine slows long runs more often than short ones; the median stands beside ours.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir
from onnx import TensorProto, helper, numpy_helper

from bindeploy import bits
from bindeploy.bench.rounds import interleaved, machine, timed
from bindeploy.convert.engines import onnxruntime_session
from bindeploy.convert.single_layers import Shape, float_layer, int8_layer, nothing
from bindeploy.session import Session

RANDOM = np.random.default_rng(0)
STEP = np.float32(1 / 32)
LAYERS = (
    "197x192x576", "197x192x192", "197x192x768", "197x768x192",
    "56x56x64x64:3x3", "28x28x128x128:3x3", "14x14x256x256:3x3", "7x7x512x512:3x3", "1x1x512x1000:1x1",
)  # fmt: skip
INT8 = (
    "224x224x3x64:7x7:2",
    "32x32x3x128:3x3",
    "28x28x1x128:3x3",
    "56x56x64x64:3x3",
    "14x14x256x256:3x3",
    "1x1x512x1000:1x1",
)


@dataclass(frozen=True)
class Layer:
    """A convolution, or a dense layer over the pixels of a row."""

    text: str
    shape: Shape

    @classmethod
    def parse(cls, text: str) -> "Layer":
        if ":" in text:
            return cls(text, Shape.parse(text))
        tokens, features, filters = map(int, text.split("x"))
        return cls(text, Shape(1, tokens, features, filters, (1, 1), 1))

    @property
    def dense(self) -> bool:
        return ":" not in self.text

    @property
    def output(self) -> tuple[int, ...]:
        sides = [(size + 2 * (kernel // 2) - kernel) // self.shape.stride + 1
                 for size, kernel in zip((self.shape.height, self.shape.width), self.shape.kernel)]  # fmt: skip
        return (1, self.shape.filters, *sides)


def model(
    nodes: list[onnx.NodeProto],
    x: tuple[int, ...],
    y: tuple[int, ...],
    constants: dict,
    kind: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes, "layer",
        [helper.make_tensor_value_info("x", kind, x)],
        [helper.make_tensor_value_info("y", kind, y)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("bindeploy", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def window(layer: Layer) -> dict:
    return {
        "strides": [layer.shape.stride] * 2,
        "pads": layer.shape.pads,
        "dilations": [1, 1],
        "group": 1,
    }


def one_bit(layer: Layer, integers: bool) -> onnx.ModelProto:
    """BinaryWeightConv2d on floats, or on what they are as int8."""
    shape = layer.shape
    signs = RANDOM.choice([-1, 1], (shape.filters, *shape.kernel, shape.channels))
    constants = {
        "bits": bits.pack(signs),
        "scale": np.full(shape.filters, 0.05, np.float32),
        "bias": np.zeros(shape.filters, np.float32),
    }
    pair = [
        helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["q"], "quantize"),
        helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["d"], "dequantize"),
    ]
    node = helper.make_node(
        "BinaryWeightConv2d", ["d" if integers else "x", *constants], ["y"], "layer",
        domain="bindeploy", channels=shape.channels, pad_value=0.0, **window(layer),
    )  # fmt: skip
    if integers:
        constants |= {"step": STEP, "zero": np.int8(0)}
    return model([*(pair if integers else []), node], shape.input_shape, layer.output, constants)


def eight_bit(layer: Layer) -> onnx.ModelProto:
    shape = layer.shape
    weights = RANDOM.integers(-127, 128, (shape.filters, shape.channels, *shape.kernel)).astype(
        np.int8
    )
    vector = np.full(shape.filters, 1e-4, np.float32)
    constants = {"w": weights, "step": STEP, "scale": vector, "bias": vector}
    node = helper.make_node(
        "Int8Conv2d",
        ["x", *constants],
        ["y"],
        "layer",
        domain="bindeploy",
        channels=shape.channels,
        **window(layer),
    )
    return model([node], shape.input_shape, layer.output, constants)


def contestants(layer: Layer) -> dict[str, Callable[[], object]]:
    shape = layer.shape
    if not layer.dense:
        image = RANDOM.standard_normal(shape.input_shape, dtype=np.float32)
        codes = np.clip(image * 32 + 128, 0, 255).astype(np.uint8)
        models = {"float32": (float_layer(shape), image), "int8": (int8_layer(shape), codes)}
    else:
        rows, columns = (1, shape.width, shape.channels), (1, shape.width, shape.filters)
        image = RANDOM.standard_normal(rows, dtype=np.float32)
        weights = RANDOM.standard_normal((shape.channels, shape.filters), dtype=np.float32)
        product = model(
            [helper.make_node("MatMul", ["x", "w"], ["y"])], rows, columns, {"w": weights}
        )
        constants = {"s": STEP, "z": np.uint8(128), "w": np.clip(weights * 32, -127, 127).astype(np.int8),
                     "ws": np.float32(0.1), "wz": np.int8(0), "ys": np.float32(1), "yz": np.uint8(128)}  # fmt: skip
        quantized = model([helper.make_node("QLinearMatMul", ["x", "s", "z", "w", "ws", "wz", "ys", "yz"], ["y"])],
                          rows, columns, constants, TensorProto.UINT8)  # fmt: skip
        models = {
            "float32": (product, image),
            "int8": (quantized, np.clip(image * 32 + 128, 0, 255).astype(np.uint8)),
        }
    models["call"] = (nothing(), np.zeros(1, np.float32))
    return {name: call(made, x) for name, (made, x) in models.items()}


def call(made: onnx.ModelProto, x: np.ndarray) -> Callable[[], int]:
    """Nanoseconds of one run in onnxruntime."""
    session = onnxruntime_session(made, threads=1)
    return timed(lambda: session.run(None, {"x": x}))


def measure(layer: Layer, made: onnx.ModelProto, isa: str | None, runs: int) -> dict:
    with Session(onnx_ir.from_proto(made), isa=isa) as session:
        image = RANDOM.standard_normal(layer.shape.input_shape, dtype=np.float32)
        index = max(range(len(session.nodes)), key=lambda i: session.nodes[i].macs)
        node = session.nodes[index]
        ours = {"ours": lambda: session.profile(image, runs=1, warmup=0)[0][index]}
        times = interleaved(ours | contestants(layer), runs)
        samples = np.array(times["ours"]) / 1e3
        nothing_ns = np.percentile(times["call"], 10)
        other = {
            name: (np.percentile(times[name], 10) - nothing_ns) / 1e3
            for name in ("float32", "int8")
        }
        return {"macs": node.macs, "kernel": node.kernel, "bytes": session.memory["weights_bytes"],
                "us": float(np.percentile(samples, 10)), "median": float(np.median(samples)), "other": other}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="")
    parser.add_argument("--isa")
    parser.add_argument("--runs", type=int, default=30)
    options = parser.parse_args()
    print(machine())
    print(
        "| layer | weights x input | us | median | GMAC/s | x float32 | x int8 | weights, of float32 | kernel |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    kinds = {"1 bit x float": LAYERS, "1 bit x int8": LAYERS, "int8 x int8": INT8}
    for text in dict.fromkeys((*LAYERS, *INT8)):
        layer = Layer.parse(text)
        for kind, texts in kinds.items():
            if text not in texts or options.only not in f"{text} {kind}":
                continue
            made = (
                eight_bit(layer) if kind == "int8 x int8" else one_bit(layer, kind.endswith("int8"))
            )
            row = measure(layer, made, options.isa, options.runs)
            weights = layer.shape.filters * layer.shape.channels * np.prod(layer.shape.kernel) * 4
            cells = (f"{row['us']:.0f}", f"{row['median']:.0f}", f"{row['macs'] / row['us'] / 1e3:.0f}",
                     *(f"{row['other'][name] / row['us']:.2f}" for name in ("float32", "int8")),
                     f"{row['bytes']} = 1/{weights / max(row['bytes'], 1):.0f}", row["kernel"])  # fmt: skip
            print(f"| {text} | {kind} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
