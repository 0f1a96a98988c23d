"""The float operators of convolutional networks, one at a time, beside onnxruntime.

    OMP_NUM_THREADS=1 python examples/results/float_ops.py [--only depthwise] [--isa avx2] [--seconds 0.3]

Every line is a graph of one node, one thread each. Round by round both engines run it once for their caches and once timed. Ours are
the node's own nanoseconds without the turn to NHWC and back, which have lines of their own. onnxruntime's are of the whole call into
memory that is there already, less what a call that does nothing costs; `nodes` is what its own profile says of its nodes, without those
that only reorder. All are 10th percentiles, since what else the machine does only adds; beside ours stand median and 90th. The ratio
is against the smaller of onnxruntime's two.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from bindeploy import bits
from bindeploy.bench import machine
from bindeploy.convert.single_layers import nothing
from bindeploy.session import Session

TURNS = ("to_nhwc", "to_nchw")
RANDOM = np.random.default_rng(0)


def model(op: str, shape: tuple[int, ...], inputs: list[str], constants: dict, domain: str = "", **attributes) -> onnx.ModelProto:
    node = helper.make_node(op, [*inputs, *constants], ["y"], "node", domain=domain, **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("bindeploy", 1)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return onnx.shape_inference.infer_shapes(made) if not domain else made


def floats(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape, dtype=np.float32)


def conv(size: int, channels: int, filters: int, kernel: int, stride: int = 1, group: int = 1, dilation: int = 1) -> onnx.ModelProto:
    return model(
        "Conv",
        (1, channels, size, size),
        ["x"],
        {"w": floats(filters, channels // group, kernel, kernel), "b": floats(filters)},
        strides=[stride] * 2,
        pads=[kernel // 2 * dilation] * 4,
        group=group,
        dilations=[dilation] * 2,
    )


def binary_depthwise(size: int, channels: int, kernel: int, stride: int = 1) -> onnx.ModelProto:
    signs = RANDOM.choice([-1, 1], (channels, kernel, kernel, 1))
    constants = {"bits": bits.pack(signs), "scale": np.ones(channels, np.float32), "b": floats(channels)}
    made = model(
        "BinaryConv2d", (1, channels, size, size), ["x"], constants, domain="bindeploy", channels=1, group=channels,
        strides=[stride] * 2, pads=[kernel // 2] * 4, dilations=[1, 1], pad_value=1.0,
    )  # fmt: skip
    out = (size + 2 * (kernel // 2) - kernel) // stride + 1
    made.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, channels, out, out)))
    return made


def dense(features: int, classes: int) -> onnx.ModelProto:
    return model("Gemm", (1, features), ["x"], {"w": floats(classes, features), "b": floats(classes)}, transB=1)


def pool(op: str, size: int, channels: int, kernel: int, stride: int, pad: int = 0) -> onnx.ModelProto:
    return model(op, (1, channels, size, size), ["x"], {}, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4)


def pointwise(op: str, size: int, channels: int, constants: dict | None = None, inputs: int = 1, **attributes) -> onnx.ModelProto:
    return model(op, (1, channels, size, size), ["x"] * inputs, constants or {}, **attributes)


def normalization(size: int, channels: int) -> onnx.ModelProto:
    constants = {name: floats(channels) for name in ("scale", "bias", "mean")} | {"variance": np.abs(floats(channels)) + 1}
    return pointwise("BatchNormalization", size, channels, constants)


Case = tuple[onnx.ModelProto, onnx.ModelProto]
"""What we run, and what onnxruntime runs."""


def cases() -> dict[str, Callable[[], Case | onnx.ModelProto]]:
    return {
        "conv 7x7 s2, 224x224x3 -> 64": lambda: conv(224, 3, 64, 7, 2),
        "conv 11x11 s4, 224x224x3 -> 64": lambda: conv(224, 3, 64, 11, 4),
        "conv 3x3 s2, 224x224x3 -> 16": lambda: conv(224, 3, 16, 3, 2),
        "conv 3x3 s2, 224x224x3 -> 32": lambda: conv(224, 3, 32, 3, 2),
        "conv 3x3, 32x32x3 -> 128": lambda: conv(32, 3, 128, 3),
        "conv 3x3, 28x28x1 -> 128": lambda: conv(28, 1, 128, 3),
        "conv 3x3, 56x56x64 -> 64": lambda: conv(56, 64, 64, 3),
        "conv 3x3, 14x14x256 -> 256": lambda: conv(14, 256, 256, 3),
        "conv 3x3, 28x28x24 -> 24": lambda: conv(28, 24, 24, 3),
        "conv 3x3 dilated 2, 28x28x64 -> 64": lambda: conv(28, 64, 64, 3, 1, 1, 2),
        "conv 3x3 of 4 groups, 28x28x128 -> 128": lambda: conv(28, 128, 128, 3, 1, 4),
        "conv 3x3 of 32 groups, 28x28x128 -> 128": lambda: conv(28, 128, 128, 3, 1, 32),
        "conv 1x1, 56x56x16 -> 64": lambda: conv(56, 16, 64, 1),
        "conv 1x1, 56x56x64 -> 128": lambda: conv(56, 64, 128, 1),
        "conv 1x1 s2, 56x56x64 -> 128": lambda: conv(56, 64, 128, 1, 2),
        "conv 1x1, 28x28x64 -> 128": lambda: conv(28, 64, 128, 1),
        "conv 1x1, 14x14x256 -> 512": lambda: conv(14, 256, 512, 1),
        "conv 1x1, 7x7x512 -> 512": lambda: conv(7, 512, 512, 1),
        "conv 1x1, 14x14x96 -> 100": lambda: conv(14, 96, 100, 1),
        "depthwise 3x3, 112x112x32": lambda: conv(112, 32, 32, 3, 1, 32),
        "depthwise 3x3 s2, 112x112x16": lambda: conv(112, 16, 16, 3, 2, 16),
        "depthwise 3x3 s2, 112x112x64": lambda: conv(112, 64, 64, 3, 2, 64),
        "depthwise 3x3, 14x14x512": lambda: conv(14, 512, 512, 3, 1, 512),
        "depthwise 5x5, 28x28x120": lambda: conv(28, 120, 120, 5, 1, 120),
        "depthwise 5x5 s2, 28x28x240": lambda: conv(28, 240, 240, 5, 2, 240),
        "binary depthwise 3x3, 56x56x64": lambda: (binary_depthwise(56, 64, 3), conv(56, 64, 64, 3, 1, 64)),
        "binary depthwise 3x3 s2, 28x28x256": lambda: (binary_depthwise(28, 256, 3, 2), conv(28, 256, 256, 3, 2, 256)),
        "dense 512 -> 10": lambda: dense(512, 10),
        "dense 512 -> 1000": lambda: dense(512, 1000),
        "dense 4096 -> 1000": lambda: dense(4096, 1000),
        "max pool 3x3 s2, 112x112x64": lambda: pool("MaxPool", 112, 64, 3, 2, 1),
        "max pool 2x2 s2, 32x32x128": lambda: pool("MaxPool", 32, 128, 2, 2),
        "average pool 2x2 s2, 56x56x64": lambda: pool("AveragePool", 56, 64, 2, 2),
        "average pool 3x3, 28x28x128": lambda: pool("AveragePool", 28, 128, 3, 1, 1),
        "global average pool, 7x7x512": lambda: pointwise("GlobalAveragePool", 7, 512),
        "global average pool, 56x56x64": lambda: pointwise("GlobalAveragePool", 56, 64),
        "add, 56x56x64": lambda: pointwise("Add", 56, 64, inputs=2),
        "batch normalization, 56x56x64": lambda: normalization(56, 64),
        "prelu, 56x56x64": lambda: pointwise("PRelu", 56, 64, {"slope": floats(64, 1, 1)}),
        "clip, 56x56x64": lambda: pointwise("Clip", 56, 64, {"low": np.float32(-1), "high": np.float32(1)}),
        "concat, 28x28x128 twice": lambda: pointwise("Concat", 28, 128, inputs=2, axis=1),
        "depth to space 2x2, 28x28x128": lambda: pointwise("DepthToSpace", 28, 128, blocksize=2),
        "NCHW to NHWC, 224x224x3": lambda: turn(224, 3, "to_nhwc"),
        "NCHW to NHWC, 56x56x64": lambda: turn(56, 64, "to_nhwc"),
        "NHWC to NCHW, 56x56x64": lambda: turn(56, 64, "to_nchw"),
        "NHWC to NCHW, 7x7x512": lambda: turn(7, 512, "to_nchw"),
    }  # fmt: skip


def turn(size: int, channels: int, op: str) -> Case:
    shape = (1, channels, size, size) if op == "to_nhwc" else (1, size, size, channels)
    permutation = [0, 2, 3, 1] if op == "to_nhwc" else [0, 3, 1, 2]
    return pointwise("Relu", size, channels), model("Transpose", shape, ["x"], {}, perm=permutation)


def theirs(made: onnx.ModelProto, profile: Path | None = None) -> tuple[Callable[[], object], onnxruntime.InferenceSession]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    x = onnxruntime.OrtValue.ortvalue_from_numpy(floats(*session.get_inputs()[0].shape))
    binding.bind_ortvalue_input("x", x)
    first = session.run(None, {"x": x.numpy()})[0]
    binding.bind_ortvalue_output("y", onnxruntime.OrtValue.ortvalue_from_numpy(first))
    return (lambda: session.run_with_iobinding(binding)), session


def of_nodes(session: onnxruntime.InferenceSession) -> float:
    """Nanoseconds (10th percentile) a run of a profiled session's nodes, reorders left out, of every second run, the warm ones: the very first
    made its output. It counts whole microseconds, rounded down."""
    path = Path(session.end_profiling())
    spent: dict[str, list[int]] = {}
    for event in json.loads(path.read_text()):
        if event["name"].endswith("_kernel_time") and "Reorder" not in event["args"]["op_name"]:
            spent.setdefault(event["name"], []).append(event["dur"])
    return 1e3 * sum(float(np.percentile(durations[2::2], 10)) + 0.5 for durations in spent.values())


def timed(run: Callable[[], object]) -> int:
    run()
    start = time.perf_counter_ns()
    run()
    return time.perf_counter_ns() - start


def measure(name: str, case: Case | onnx.ModelProto, isa: str | None, seconds: float, call: Callable[[], object], folder: Path) -> str:
    ours, other = case if isinstance(case, tuple) else (case, case)
    run, _ = theirs(other)
    run_profiled, session_profiled = theirs(other, folder / "profile")
    wanted = "to_nhwc" if "to NHWC" in name else "to_nchw" if "to NCHW" in name else ""
    samples: list[tuple[int, int, int]] = []
    with Session(onnx_ir.from_proto(ours), isa=isa) as session:
        image = floats(*(size if isinstance(size, int) else 1 for size in session.get_inputs()[0].shape))
        session.profile(image, runs=2)
        counted = [node.op == wanted if wanted else node.op not in TURNS for node in session.nodes]
        shown = [node.kernel.removeprefix("bd_") for node, counts in zip(session.nodes, counted, strict=True) if counts]
        kernels = ", ".join(filter(None, shown))
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(samples) < 10:
            (nodes,) = session.profile(image, runs=1, warmup=1)
            mine = sum(ns for ns, counts in zip(nodes, counted, strict=True) if counts)
            samples.append((mine, timed(run), timed(call)))
            run_profiled()
            run_profiled()
    columns = np.array(samples[len(samples) // 10 :]) / 1e3
    low, median, high = np.percentile(columns[:, 0], [10, 50, 90])
    whole = float(np.percentile(columns[:, 1], 10) - np.percentile(columns[:, 2], 10))
    inner = of_nodes(session_profiled) / 1e3
    best = min(whole, inner)
    return f"| {name} | {low:.1f} | {median:.1f}, {high:.1f} | {whole:.1f} | {inner:.1f} | {best / low:.2f} | {kernels} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], help="lines whose name has this in it")
    parser.add_argument("--isa")
    parser.add_argument("--seconds", type=float, default=0.3, help="of each line")
    given = parser.parse_args()
    call, _ = theirs(nothing())
    print("| operator | ours, us | median, 90th percentile | onnxruntime, us | its nodes, us | ratio | kernel |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, make in cases().items():
            if not given.only or any(part in name for part in given.only):
                print(measure(name, make(), given.isa, given.seconds, call, Path(folder)), flush=True)
    described = machine()
    print(f"\n{described['processor']}, one thread, {given.isa or 'fastest'} kernels, onnxruntime {described['onnxruntime']}")


if __name__ == "__main__":
    main()
