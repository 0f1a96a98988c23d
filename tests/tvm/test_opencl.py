"""The kernels for GPUs, run one after the other on any OpenCL device, are the numpy meaning.

TVM's wheels have no OpenCL runtime: what it would do, `Device` does. On a processor pocl is one
(pip install 'pyopencl[pocl]').
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

tvm = pytest.importorskip("tvm", reason="tvm is not installed: pip install 'bindeploy[tvm]'")
cl = pytest.importorskip(
    "pyopencl", reason="pyopencl is not installed: pip install 'pyopencl[pocl]'"
)

import tvm_ffi  # noqa: E402
from tvm import relax, tirx  # noqa: E402

from bindeploy.convert import dialect  # noqa: E402
from bindeploy.convert.dialect_reference import pack_filters  # noqa: E402
from bindeploy.emit.tvm.compiler import with_kernels  # noqa: E402
from bindeploy.emit.tvm.importer import to_relax  # noqa: E402
from bindeploy.emit.tvm.sources import sources  # noqa: E402
from bindeploy.emit.tvm.targets import describe  # noqa: E402
from bindeploy.target import load  # noqa: E402

OPENCL = describe(load("opencl"))


class Launch(NamedTuple):
    """A kernel, the names of what it takes, and its threads: of all blocks, and of one."""

    kernel: Any
    parameters: list[str]
    threads: tuple[list[int], list[int]]


class Device:
    """Runs modules whose operators are kernels already."""

    def __init__(self) -> None:
        devices = [device for platform in cl.get_platforms() for device in platform.get_devices()]
        if not devices:
            pytest.skip("no OpenCL device is here: pip install 'pyopencl[pocl]' brings one")
        self.context = cl.Context(devices[:1])
        self.queue = cl.CommandQueue(self.context)

    def run(self, module: Any, *inputs: np.ndarray) -> Any:
        """The output of `main`, a list where it has several."""
        module = relax.transform.AttachGlobalSymbol()(module)
        main, launches = module["main"], self.launches(module)
        known = dict(zip(main.params, inputs, strict=True))

        def value(expression: Any) -> Any:
            if isinstance(expression, tvm.ir.GenericConst):
                return expression.value.numpy()
            if isinstance(expression, relax.Tuple):
                return [value(field) for field in expression.fields]
            if isinstance(expression, relax.TupleGetItem):
                return value(expression.tuple_value)[expression.index]
            return known[expression] if isinstance(expression, tvm.ir.Var) else call(expression)

        def call(expression: Any) -> Any:
            name, arguments = expression.op.name, expression.args
            if name == "relax.reshape":
                return value(arguments[0]).reshape([int(size) for size in expression.ty.shape])
            assert name == "relax.call_tir", name
            kind = expression.ty_args[0]
            kinds = kind.fields if isinstance(kind, relax.TupleType) else [kind]
            made = [np.empty([int(size) for size in of.shape], str(of.dtype)) for of in kinds]
            function = module[arguments[0]]
            self.launch(function, launches[arguments[0].name_hint], value(arguments[1]), made)
            return made if isinstance(kind, relax.TupleType) else made[0]

        for block in main.body.blocks:
            for binding in block.bindings:
                known[binding.var] = value(binding.value)
        return value(main.body.body)

    def launches(self, module: Any) -> dict[str, list[Launch]]:
        """The kernels of every PrimFunc of a module, by its name."""
        functions = {
            name.name_hint: function
            for name, function in module.functions_items()
            if isinstance(function, tirx.PrimFunc)
        }
        kernels = tvm.compile(tvm.IRModule(functions), target=OPENCL.target)
        (source,) = sources(kernels, "opencl").values()
        program = cl.Program(self.context, source).build()
        found: dict[str, list[Launch]] = {}
        for name, function in functions.items():
            form = rf"^__kernel void ({name}_kernel(?:_\d+)?)\(([^)]*)\);"
            declared = re.findall(form, source, re.MULTILINE)
            found[name] = [
                Launch(cl.Kernel(program, kernel), re.findall(r"(\w+)_ptr\b", parameters), threads)
                for (kernel, parameters), threads in zip(declared, _threads(function), strict=True)
            ]
        return found

    def launch(self, function: Any, launches: list[Launch], given: list, made: list) -> None:
        flags = cl.mem_flags.READ_WRITE | cl.mem_flags.COPY_HOST_PTR
        buffers = [
            cl.Buffer(self.context, flags, hostbuf=np.ascontiguousarray(array).reshape(-1))
            for array in (*given, *made)
        ]
        names = [str(parameter.name) for parameter in function.params]
        by_name = dict(zip(names, buffers, strict=True))
        for kernel, parameters, threads in launches:
            for index, name in enumerate(parameters):
                kernel.set_arg(index, by_name[name])
            cl.enqueue_nd_range_kernel(self.queue, kernel, *threads)
        for array, buffer in zip(made, buffers[len(given) :], strict=True):
            cl.enqueue_copy(self.queue, array, buffer)


def _threads(function: Any) -> list[tuple[list[int], list[int]]]:
    """Of every kernel that a PrimFunc launches."""
    extents: list[dict[str, int]] = []

    def visit(loop: Any) -> None:
        if loop.kind == tirx.ForKind.THREAD_BINDING:
            tag = str(loop.thread_binding.thread_tag)
            if not extents or (tag.startswith("blockIdx") and tag in extents[-1]):
                extents.append({})
            extents[-1][tag] = max(int(loop.extent), extents[-1].get(tag, 0))

    tvm_ffi.structural_walk(function.body, [(tirx.For, visit)], order="pre")
    found = []
    for extent in extents:
        block = [extent.get(f"threadIdx.{axis}", 1) for axis in "xyz"]
        blocks = [extent.get(f"blockIdx.{axis}", 1) for axis in "xyz"]
        found.append(([count * size for count, size in zip(blocks, block, strict=True)], block))
    return found


@pytest.fixture(scope="module")
def device() -> Device:
    return Device()


def check(device: Device, x: np.ndarray, *nodes: tuple, **tolerance: float) -> None:
    """Nodes (op, constants, attributes), each of x, here and in numpy."""
    made, arrays = [], []
    for number, (op, constants, attributes) in enumerate(nodes):
        named = {f"{name}{number}": array for name, array in constants.items()}
        arrays += [numpy_helper.from_array(array, name) for name, array in named.items()]
        domain = dialect.DOMAIN if (dialect.DOMAIN, op) in dialect.OPS else ""
        given, result = ["x", *named], [f"y{number}"]
        made.append(helper.make_node(op, given, result, result[0], domain=domain, **attributes))
    compare(device, x, made, arrays, [f"y{number}" for number in range(len(made))], tolerance)


def compare(device: Device, x: np.ndarray, nodes, arrays, outputs, tolerance) -> None:
    proto = helper.make_model(
        helper.make_graph(
            nodes,
            "sketch",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            arrays,
        ),
        opset_imports=[
            helper.make_opsetid("", dialect.OPSET),
            helper.make_opsetid(dialect.DOMAIN, dialect.VERSION),
        ],
        ir_version=dialect.IR_VERSION,
    )
    found = device.run(with_kernels(to_relax(proto, OPENCL.processor), OPENCL), x)
    evaluator = ReferenceEvaluator(proto, new_ops=dialect.REFERENCE_OPS)
    expected = evaluator.run(None, {"x": x})
    for ours, theirs in zip([found] if len(outputs) == 1 else found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, **{"rtol": 0, "atol": 0, **tolerance})


class Window(NamedTuple):
    """A convolution of a picture of `size`, with `channels` and `filters` of each group."""

    size: tuple[int, int]
    channels: int
    filters: int
    kernel: tuple[int, int] = (3, 3)
    group: int = 1
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    pad_value: float = 1.0

    def input_shape(self) -> tuple[int, ...]:
        return (1, self.group * self.channels, *self.size)

    def weight_shape(self) -> tuple[int, ...]:
        return (self.group * self.filters, self.channels, *self.kernel)

    def attributes(self) -> dict[str, Any]:
        keys = ("group", "strides", "pads", "dilations", "pad_value")
        return {"channels": self.channels} | {key: getattr(self, key) for key in keys}


WINDOWS = (
    Window((5, 6), 3, 7, pads=(1, 1, 1, 1)),
    Window((4, 3), 1, 33, (1, 1)),
    Window((7, 5), 33, 40, pads=(1, 0, 2, 1), pad_value=0.0),
    Window((6, 5), 9, 36, group=2, pads=(1, 1, 1, 1), pad_value=0.0),
    Window((8, 9), 70, 64, strides=(1, 2), pads=(0, 3, 1, 0), dilations=(2, 3)),
    Window((48, 47), 5, 64, pads=(1, 1, 1, 1)),  # several filters a thread
    Window((6, 7), 1, 1, group=37, pads=(1, 1, 1, 1)),
    Window((5, 5), 300, 35, (5, 5)),  # weights in shared memory by rows of taps
)

LINEAR = (((), 1, 1), ((), 70, 33), ((5,), 130, 20), ((), 9000, 40))
"""Axes between the first and the last, channels, filters."""


def floats(random: np.random.Generator, *shape: int) -> np.ndarray:
    """Zeros of both signs and NaN among them."""
    x = random.normal(size=shape).astype(np.float32)
    for every, value in ((7, 0.0), (11, -0.0), (29, np.nan)):
        x.reshape(-1)[::every] = value
    return x


def numbers(random: np.random.Generator, *shape: int) -> np.ndarray:
    """Sixteenths, whose sums are exact in any order."""
    return (random.integers(-64, 65, shape) / 16).astype(np.float32)


def affine(random: np.random.Generator, filters: int) -> dict[str, np.ndarray]:
    vectors = random.normal(size=(2, filters)).astype(np.float32)
    return {"scale": vectors[0], "bias": vectors[1]}


def threshold(random: np.random.Generator, filters: int) -> dict[str, np.ndarray]:
    return {
        "threshold": random.integers(-9, 9, filters).astype(np.int32),
        "direction": random.choice([-1, 1], filters).astype(np.int8),
    }


def layers(random: np.random.Generator, op: str, shape: tuple[int, ...], attributes: dict) -> list:
    """A layer of bits with weights of a shape, and its threshold."""
    bits = {"bits": pack_filters(random.normal(size=shape).astype(np.float32))}
    return [
        (op, bits | affine(random, shape[0]), attributes),
        (f"{op}Threshold", bits | threshold(random, shape[0]), attributes),
    ]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_convolutions_of_bits(device, window):
    random = np.random.default_rng(0)
    x = floats(random, *window.input_shape())
    check(device, x, *layers(random, "BinaryConv2d", window.weight_shape(), window.attributes()))


@pytest.mark.parametrize("window", WINDOWS[4:6], ids=str)
def test_convolutions_of_bits_that_saturate(device, window):
    random, op = np.random.default_rng(1), "SaturatingBinaryConv2d"
    x = floats(random, *window.input_shape()) + np.float32(1)
    check(device, x, *layers(random, op, window.weight_shape(), window.attributes()))


@pytest.mark.parametrize(("axes", "channels", "filters"), LINEAR)
def test_dense_layers_of_bits(device, axes, channels, filters):
    random = np.random.default_rng(2)
    x, shape = floats(random, 1, *axes, channels), (filters, channels)
    attributes = {"channels": channels}
    saturating = layers(random, "SaturatingBinaryLinear", shape, attributes)
    check(device, x, *layers(random, "BinaryLinear", shape, attributes), *saturating)


@pytest.mark.parametrize("window", WINDOWS[2:6], ids=str)
def test_convolutions_of_numbers_with_bits(device, window):
    random = np.random.default_rng(3)
    x, shape = numbers(random, *window.input_shape()), window.weight_shape()
    weight = pack_filters(random.normal(size=shape).astype(np.float32))
    constants = {"bits": weight} | affine(random, shape[0])
    check(device, x, ("BinaryWeightConv2d", constants, window.attributes()))


def test_a_dense_layer_of_numbers_with_bits(device):
    random = np.random.default_rng(4)
    weight = pack_filters(random.normal(size=(33, 300)).astype(np.float32))
    constants = {"bits": weight} | affine(random, 33)
    check(device, numbers(random, 1, 300), ("BinaryWeightLinear", constants, {"channels": 300}))


def test_what_is_no_layer_of_bits(device):
    """Kernels of ours, and TVM's own by its rules for GPUs."""
    random = np.random.default_rng(5)
    x = random.normal(size=(1, 6, 9, 8)).astype(np.float32)
    weight = {"weight": random.normal(size=(10, 3, 3, 3)).astype(np.float32)}
    direction = {"direction": random.choice([-1, 1], 6).astype(np.int8)}
    pool = {"kernel_shape": (3, 2), "strides": (2, 2), "pads": (1, 1, 0, 1)}
    nodes = [
        ("Conv", weight, {"strides": (2, 1), "pads": (1, 0, 1, 2), "group": 2}),
        ("BinaryMaxPool2d", direction, pool),
        ("MaxPool", {}, pool),
        ("AveragePool", {}, pool),
        ("GlobalAveragePool", {}, {}),
        ("Softmax", {}, {"axis": -1}),
    ]
    check(device, x, *nodes, rtol=1e-5, atol=1e-6)


def test_scale_times_dot_is_rounded_before_the_bias(device):
    random = np.random.default_rng(6)
    filters, channels = 256, 70
    weight = random.normal(size=(filters, channels)).astype(np.float32)
    scale = (random.uniform(1, 2, filters) * 2.0 ** random.integers(-20, 20, filters)).astype("f4")
    bias = (-scale * random.integers(-60, 60, filters) * 1.0000001).astype(np.float32)
    constants = {"bits": pack_filters(weight), "scale": scale, "bias": bias}
    x = floats(random, 1, channels)
    check(device, x, ("BinaryLinear", constants, {"channels": channels}))


def test_bits_that_pass_between_layers(device):
    """Thresholds packed by threads, padded, pooled, and read as words and as signs."""
    random = np.random.default_rng(7)
    nodes, arrays = [], []
    for number, (source, result) in enumerate((("x", "middle"), ("middle", "y"))):
        window = Window((8, 8), 40, 40, pads=(1, 1, 1, 1))
        _, (op, constants, _) = layers(random, "BinaryConv2d", window.weight_shape(), {})
        named = {f"{name}{number}": array for name, array in constants.items()}
        arrays += [numpy_helper.from_array(array, name) for name, array in named.items()]
        given, bits = [source, *named], f"bits{number}"
        nodes.append(
            helper.make_node(op, given, [bits], domain=dialect.DOMAIN, **window.attributes())
        )
        pool = {"kernel_shape": (2, 2), "strides": (2, 2)}
        nodes.append(helper.make_node("MaxPool", [bits], [result], **pool))
    compare(device, floats(random, 1, 40, 8, 8), nodes, arrays, ["y"], {})


def test_layers_of_bytes_and_layers_with_a_filter_for_each_channel(device):
    random = np.random.default_rng(8)
    window = {"strides": (2, 1), "pads": (1, 0, 2, 1), "dilations": (1, 1)}
    step = {"input_scale": np.float32(0.02)}
    integers = {
        "int8_weight": random.integers(-127, 128, (10, 3, 3, 3), np.int8),
        **step,
        **affine(random, 10),
    }
    bits = pack_filters(random.normal(size=(6, 1, 3, 3)).astype(np.float32))
    depthwise = {"channels": 1, "group": 6, "pad_value": 0.0, **window}
    nodes = [
        ("Int8Conv2d", integers, {"group": 2, **window}),
        ("BinaryConv2d", {"bits": bits} | affine(random, 6), depthwise),
        ("Conv", {"weight": random.normal(size=(6, 1, 3, 3)).astype("f4")}, {"group": 6}),
    ]
    check(device, floats(random, 1, 6, 9, 8), *nodes, rtol=1e-6, atol=1e-5)


def test_sums_of_bytes_that_saturate_beside_pads_that_add_nothing(device):
    random = np.random.default_rng(9)
    bits = pack_filters(random.uniform(-0.2, 1, (33, 70, 3, 3)).astype(np.float32))
    window = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1), "group": 1}
    about = {"channels": 70, "pad_value": 0.0, **window}
    x = np.abs(floats(random, 1, 70, 5, 4)) - np.float32(0.1)
    check(device, x, ("SaturatingBinaryConv2d", {"bits": bits} | affine(random, 33), about))


def test_attention(device):
    """Products of matrices that are computed: TVM's own, as it schedules them for GPUs."""
    random = np.random.default_rng(10)
    nodes = [
        helper.make_node("Transpose", ["x"], ["turned"], "turn", perm=(0, 1, 3, 2)),
        helper.make_node("MatMul", ["x", "turned"], ["seen"], "scores"),
        helper.make_node("Softmax", ["seen"], ["weights"], "softmax", axis=-1),
        helper.make_node("MatMul", ["weights", "x"], ["y"], "attend"),
    ]
    x = random.normal(size=(1, 3, 17, 10)).astype(np.float32)
    compare(device, x, nodes, [], ["y"], {"rtol": 1e-5, "atol": 1e-5})
