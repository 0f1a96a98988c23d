"""onnxruntime with our kernels gives what it gives with function bodies; weights stay packed."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from bindeploy import bits, ort
from bindeploy.convert import dialect
from bindeploy.errors import BindeployError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def library(onnxruntime_operators) -> str:
    return onnxruntime_operators


def session(
    model: onnx.ModelProto, library: str | None, **settings
) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    for name, value in settings.items():
        setattr(options, name, value)
    if library:
        options.register_custom_ops_library(library)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def graph(nodes, x_shape, constants, output="y") -> onnx.ModelProto:
    """A model of dialect nodes with their function bodies, x float [..] -> output."""
    made = helper.make_graph(
        nodes,
        "layers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x_shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    imports = [helper.make_opsetid("", dialect.OPSET), helper.make_opsetid(dialect.DOMAIN, 1)]
    model = ir.from_proto(
        helper.make_model(made, opset_imports=imports, ir_version=dialect.IR_VERSION)
    )
    dialect.attach_functions(model)
    dialect.verify(model)
    return ir.to_proto(model)


def layer(op: str, x_shape, constants, **attributes) -> onnx.ModelProto:
    """A model of one node `layer`; `constants` are its inputs after x, in order."""
    names = dialect.OPS[dialect.DOMAIN, op].inputs
    node = helper.make_node(op, names, ["y"], name="layer", domain=dialect.DOMAIN, **attributes)
    return graph([node], x_shape, dict(zip(names[1:], constants, strict=True)))


def outputs(op: str, filters: int, random, largest: int) -> list[np.ndarray]:
    """scale and bias, or threshold and direction, of `filters` filters."""
    if op.endswith("Threshold"):
        thresholds = random.integers(-largest, largest + 1, filters).astype(np.int32)
        return [thresholds, random.choice(np.array([-1, 1], np.int8), filters)]
    scale, bias = random.uniform(-0.3, 0.3, filters), random.normal(size=filters)
    return [scale.astype(np.float32), bias.astype(np.float32)]


def picture(random, *shape: int) -> np.ndarray:
    """Normal floats with the values on which signs are decided by rule: 0, -0 and NaN."""
    x = random.normal(size=shape).astype(np.float32)
    flat = x.reshape(-1)
    flat[:: max(1, flat.size // 3)] = 0.0
    flat[1 :: max(1, flat.size // 3)] = -0.0
    return x


def same(op: str, model: onnx.ModelProto, x: np.ndarray, library: str) -> None:
    """Signs alone make integers, which are equal bit for bit; sums of floats differ by rounding."""
    (expected,) = session(model, None).run(None, {"x": x})
    (found,) = session(model, library).run(None, {"x": x})
    if "Weight" in op:
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    else:
        np.testing.assert_array_equal(found, expected)


CONVOLUTIONS = [
    *("BinaryConv2d", "BinaryConv2dThreshold", "BinaryWeightConv2d"),
    *("SaturatingBinaryConv2d", "SaturatingBinaryConv2dThreshold"),
]
LINEARS = [
    *("BinaryLinear", "BinaryLinearThreshold", "BinaryWeightLinear"),
    *("SaturatingBinaryLinear", "SaturatingBinaryLinearThreshold"),
]


@pytest.mark.parametrize("op", CONVOLUTIONS)
@pytest.mark.parametrize("case", range(14))
def test_convolutions_of_ragged_shapes_equal_their_function_bodies(op, case, library):
    random = np.random.default_rng(case)
    channels = int(random.choice([1, 7, 31, 32, 33, 64, 65, 130]))
    filters = int(random.choice([1, 5, 8, 17, 64, 67]))
    kernel = random.integers(1, 4, 2)
    dilations, strides = random.integers(1, 3, 2), random.integers(1, 4, 2)
    pads = random.integers(0, kernel[[0, 1, 0, 1]] * 2)
    size = kernel * dilations + random.integers(0, 7, 2)
    pad_value = case % 2
    constants = [
        bits.pack(random.normal(size=(filters, *kernel, channels))),
        *outputs(op, filters, random, channels),
    ]
    shape = ["N", channels, *size.tolist()] if case % 3 else ["N", channels, None, None]
    model = layer(
        op,
        shape,
        constants,
        channels=channels,
        group=1,
        strides=strides.tolist(),
        pads=pads.tolist(),
        dilations=dilations.tolist(),
        pad_value=float(pad_value),
    )
    same(op, model, picture(random, 1 + case % 3, channels, *size), library)


@pytest.mark.parametrize("op", LINEARS)
@pytest.mark.parametrize("leading", [(1,), (5,), (2, 3), (1, 300), (0,)])
def test_linear_layers_of_any_rank_equal_their_function_bodies(op, leading, library):
    random = np.random.default_rng(len(leading))
    channels, filters = 77, 19
    constants = [
        bits.pack(random.normal(size=(filters, channels))),
        *outputs(op, filters, random, channels),
    ]
    model = layer(op, [None] * len(leading) + [channels], constants, channels=channels)
    same(op, model, picture(random, *leading, channels), library)


@pytest.mark.parametrize("channels", [1, 40, 64, 70])
def test_pools_of_signs_equal_their_function_bodies(channels, library):
    random = np.random.default_rng(channels)
    direction = random.choice(np.array([-1, 1], np.int8), channels)
    window = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 2, 1]}
    model = layer("BinaryMaxPool2d", ["N", channels, 9, 6], [direction], **window)
    same("BinaryMaxPool2d", model, picture(random, 2, channels, 9, 6), library)


@pytest.mark.parametrize("op", CONVOLUTIONS)
@pytest.mark.parametrize("group", [2, 5, 40])
@pytest.mark.parametrize("pad_value", [0.0, 1.0])
def test_grouped_convolutions_equal_their_function_bodies(op, group, pad_value, library):
    random = np.random.default_rng(group)
    channels, filters = 40 // group, 80
    weights = bits.pack(random.normal(size=(filters, 3, 3, channels)))
    constants = [weights, *outputs(op, filters, random, channels)]
    window = {"strides": [1, 2], "pads": [1, 1, 1, 1], "dilations": [1, 1]}
    model = layer(
        op,
        ["N", 40, 6, 7],
        constants,
        channels=channels,
        group=group,
        pad_value=pad_value,
        **window,
    )
    same(op, model, picture(random, 2, 40, 6, 7), library)


@pytest.mark.parametrize("op", ["Int8Conv2d", "Int8Conv2dThreshold"])
@pytest.mark.parametrize(("channels", "group", "side"), [(3, 1, 9), (3, 1, None), (12, 4, 7)])
def test_int8_convolutions_equal_their_function_bodies(op, channels, group, side, library):
    random = np.random.default_rng(channels)
    weights = random.integers(-127, 128, (20, channels // group, 3, 2)).astype(np.int8)
    constants = [weights, np.float32(0.03), *outputs(op, 20, random, 900)]
    window = {"strides": [2, 1], "pads": [1, 0, 2, 1], "dilations": [1, 2]}
    model = layer(op, ["N", channels, side, side], constants, group=group, **window)
    same(op, model, picture(random, 2, channels, side or 8, side or 8), library)


@pytest.mark.parametrize("op", ["Int8Linear", "Int8LinearThreshold"])
def test_int8_linear_layers_equal_their_function_bodies(op, library):
    random = np.random.default_rng(1)
    weights = random.integers(-127, 128, (11, 70)).astype(np.int8)
    constants = [weights, np.float32(0.03), *outputs(op, 11, random, 900)]
    same(op, layer(op, [None, None, 70], constants), picture(random, 3, 4, 70), library)


@pytest.mark.parametrize("name", [name for domain, name in dialect.OPS if domain == dialect.DOMAIN])
def test_the_library_has_every_operator_of_the_dialect(name, library):
    """Without a function body a node of too few inputs is refused by the library's own schema."""
    value = helper.make_tensor_value_info
    node = helper.make_node(name, ["x"], ["y"], domain=dialect.DOMAIN)
    ends = [value("x", TensorProto.FLOAT, [1])], [value("y", TensorProto.FLOAT, None)]
    imports = [helper.make_opsetid("", dialect.OPSET), helper.make_opsetid(dialect.DOMAIN, 1)]
    model = helper.make_model(
        helper.make_graph([node], "one", *ends),
        opset_imports=imports,
        ir_version=dialect.IR_VERSION,
    )
    schema = rf"schema\({dialect.DOMAIN}::{name}:1\) has input size 1"
    with pytest.raises(Exception, match=schema):
        session(model, library)


def plain_convolution(x_shape, channels=40, filters=24, **changes) -> onnx.ModelProto:
    random = np.random.default_rng(3)
    weights = bits.pack(random.normal(size=(filters, 3, 3, channels)))
    constants = [weights, *outputs("BinaryConv2d", filters, random, 0)]
    attributes = {"channels": channels, "group": 1, "strides": [1, 1], "pads": [1, 1, 1, 1]}
    attributes |= {"dilations": [1, 1], "pad_value": 1.0} | changes
    return layer("BinaryConv2d", x_shape, constants, **attributes)


def test_the_profile_names_our_operator_and_no_inlined_convolution(library, tmp_path):
    x = np.ones((1, 40, 8, 8), np.float32)

    def operators(library: str | None) -> set[str]:
        prefix = str(tmp_path / ("ours" if library else "stock"))
        settings = {"enable_profiling": True, "profile_file_prefix": prefix}
        running = session(plain_convolution(["N", 40, 8, 8]), library, **settings)
        running.run(None, {"x": x})
        events = json.loads(Path(running.end_profiling()).read_text())
        return {event["args"]["op_name"] for event in events if event.get("cat") == "Node"}

    assert operators(library) == {"BinaryConv2d"}
    stock = operators(None)
    assert "BinaryConv2d" not in stock and any("Conv" in name for name in stock)


def test_pictures_of_many_sizes_run_through_one_session(library):
    model = plain_convolution(["N", 40, None, None])
    stock, ours = session(model, None), session(model, library)
    random = np.random.default_rng(0)
    for size in [3, 9, 4, 9, 5, 6, 7, 3, 8, 1]:
        x = picture(random, 2, 40, size, size + 1)
        np.testing.assert_array_equal(*(run.run(None, {"x": x})[0] for run in (stock, ours)))


def test_threads_that_share_a_session_do_not_disturb_each_other(library):
    ours = session(plain_convolution(["N", 40, None, None]), library)
    random = np.random.default_rng(1)
    inputs = [picture(random, 1, 40, 6 + index % 3, 6) for index in range(6)]
    expected = [ours.run(None, {"x": x})[0] for x in inputs]
    wrong: list[int] = []

    def repeat(index: int) -> None:
        for _ in range(40):
            if not np.array_equal(ours.run(None, {"x": inputs[index]})[0], expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=repeat, args=(index,)) for index in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def refused(model: onnx.ModelProto, library: str) -> str:
    with pytest.raises(Exception) as caught:
        session(model, library)
    return str(caught.value)


def test_a_layer_that_the_runtime_refuses_is_named_when_the_session_opens(library):
    far = plain_convolution(["N", 40, 9, 9], strides=[5000, 1])
    assert "node `layer`: stride is 5000" in refused(far, library)
    clean = plain_convolution(["N", 40, 9, 9])
    packed = numpy_helper.to_array(clean.graph.initializer[0]).copy()
    packed[0, 0, 0, -1] = 0x80
    clean.graph.initializer[0].CopyFrom(numpy_helper.from_array(packed, "bits"))
    assert "node `layer`: weights have a bit beyond channel 40" in refused(clean, library)


def test_a_layer_with_computed_weights_is_named_when_the_session_opens(library):
    model = plain_convolution(["N", 40, 9, 9])
    (computed,) = (entry for entry in model.graph.initializer if entry.name == "bias")
    model.graph.initializer.remove(computed)
    model.graph.input.append(helper.make_tensor_value_info("bias", TensorProto.FLOAT, [24]))
    assert "node `layer`: every input but the first one must be a constant" in refused(
        model, library
    )


def test_a_picture_of_the_wrong_shape_is_refused_by_name(library):
    ours = session(plain_convolution(["N", None, None, None], pads=[0, 0, 0, 0]), library)
    for shape, reason in [((1, 39, 9, 9), "x is no"), ((1, 40, 2, 9), "window is larger")]:
        with pytest.raises(Exception, match=f"node `layer`: .*{reason}"):
            ours.run(None, {"x": np.ones(shape, np.float32)})


WIDTHS = [64] * 5 + [128] * 4 + [256] * 4 + [512] * 4
"""Channels before and after the binary layers of a ResNet-18; the side halves where they double."""

MEASURE = """
import sys
import numpy, onnxruntime
path, small, library = sys.argv[1:]
def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) * 1024
def opened(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if library:
        options.register_custom_ops_library(library)
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
warm = opened(small)
before = resident()
session = opened(path)
loaded = resident() - before
session.run(None, {"x": numpy.ones((1, 64, 56, 56), "f")})
print(loaded, resident() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_weights_stay_packed_in_memory(library, tmp_path):
    random = np.random.default_rng(0)
    nodes, constants = [], {}
    for index, (channels, filters) in enumerate(pairwise(WIDTHS)):
        names = [f"{name}{index}" for name in ("bits", "scale", "bias")]
        packed = random.integers(0, 256, (filters, 3, 3, channels // 8)).astype(np.uint8)
        ones = np.ones(filters, np.float32)
        constants |= dict(zip(names, (packed, ones, ones), strict=True))
        attributes = {"channels": channels, "group": 1, "dilations": [1, 1], "pad_value": 1.0}
        attributes |= {"strides": [filters // channels] * 2, "pads": [1, 1, 1, 1]}
        ends = [f"y{index - 1}" if index else "x", *names], [f"y{index}"]
        made = helper.make_node("BinaryConv2d", *ends, domain=dialect.DOMAIN, **attributes)
        made.name = f"layer{index}"
        nodes.append(made)
    model = graph(nodes, ["N", 64, 56, 56], constants, nodes[-1].output[0])
    path, small = tmp_path / "model.onnx", tmp_path / "small.onnx"
    onnx.save(model, path)
    onnx.save(plain_convolution(["N", 40, 9, 9]), small)
    packed_bytes = path.stat().st_size
    float_bytes = 4 * sum(9 * channels * filters for channels, filters in pairwise(WIDTHS))

    def measured(library: str) -> tuple[int, int]:
        command = [sys.executable, "-c", MEASURE, str(path), str(small), library]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        loaded, run = map(int, done.stdout.split())
        return loaded, run

    (ours, ours_run), (stock, _) = measured(library), measured("")
    print(packed_bytes, float_bytes, ours, ours_run, stock)
    assert stock > float_bytes
    assert ours < 6 * packed_bytes < float_bytes / 4
    assert ours_run < float_bytes


def test_a_missing_library_or_header_is_one_line_that_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv(ort.LIBRARY_VARIABLE, str(tmp_path / "none.so"))
    with pytest.raises(BindeployError, match="run `python -m bindeploy.ort build`"):
        ort.onnxruntime_library()
    other = tmp_path / "other.so"
    other.write_bytes(b"no library")
    monkeypatch.setenv(ort.LIBRARY_VARIABLE, str(other))
    with pytest.raises(BindeployError, match="no library of ours"):
        ort.onnxruntime_library()
    with pytest.raises(BindeployError, match="fetch-headers"):
        ort.headers(tmp_path)


def test_what_does_not_compile_is_one_line_and_nothing_is_written(tmp_path):
    (tmp_path / ort.HEADER).write_text("#error no header of ours")
    with pytest.raises(BindeployError, match="do not build: .*no header of ours"):
        ort.build(tmp_path / "library.so", tmp_path, ("-fsyntax-only",))
    assert [path.name for path in tmp_path.iterdir()] == [ort.HEADER]


def test_a_built_library_is_found_by_its_variable(library, monkeypatch):
    monkeypatch.setenv(ort.LIBRARY_VARIABLE, library)
    assert ort.onnxruntime_library() == str(Path(library).resolve())
