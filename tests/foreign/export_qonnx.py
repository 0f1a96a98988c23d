"""Run in the foreign environment: networks of Brevitas as QONNX, and what qonnx makes of them.

    .venv/foreign/bin/python tests/foreign/export_qonnx.py OUT

writes OUT/<name>.onnx and OUT/<name>.npz (`x`, `y`) for every network of `NETWORKS`, for `RANDOM`
drawn graphs of BipolarQuant layers and for single quantizers of every kind. The oracle is qonnx's
own executor, which runs its quantizers in numpy and all else in onnxruntime. Imports stand inside
the functions, because pytest reads this file too, where none of them is installed.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

RANDOM = 24
OPSET = 20
DOMAIN = "qonnx.custom_op.general"
MODES = ("ROUND", "CEIL", "FLOOR", "UP", "DOWN", "HALF_UP", "HALF_DOWN")


def example(name: str) -> Callable[[], tuple[Any, tuple[int, ...]]]:
    """A network of brevitas_examples.bnn_pynq and the shape of its input."""

    def make():
        from brevitas_examples.bnn_pynq import models

        shape = (1, 3, 32, 32) if name.startswith("cnv") else (1, 1, 28, 28)
        return getattr(models, name)(pretrained=False), shape

    return make


def convolutional(binary_activations: bool) -> Callable[[], tuple[Any, tuple[int, ...]]]:
    """Convolutions with 1-bit weights, a scale per filter: strided, grouped, padded, pooled."""

    def make():
        from brevitas.core.scaling import ScalingImplType
        from brevitas.core.stats import StatsOp
        from brevitas.nn import QuantConv2d, QuantIdentity, QuantLinear
        from brevitas_examples.bnn_pynq.models.common import CommonActQuant, CommonWeightQuant
        from torch import nn

        class PerFilter(CommonWeightQuant):
            scaling_impl_type = ScalingImplType.STATS
            scaling_stats_op = StatsOp.AVE
            scaling_per_output_channel = True

        def activation():
            if binary_activations:
                return QuantIdentity(act_quant=CommonActQuant, bit_width=1)
            return nn.PReLU()

        def conv(channels, filters, **given):
            return QuantConv2d(
                *(channels, filters, 3),
                **{"bias": False, "weight_quant": PerFilter, "weight_bit_width": 1, **given},
            )

        layers = [
            nn.Conv2d(3, 12, 3, padding=1, bias=False),
            nn.BatchNorm2d(12),
            *(activation(), conv(12, 40, padding=1), nn.BatchNorm2d(40)),
            *(activation(), conv(40, 20, groups=4, stride=2), nn.MaxPool2d(2), nn.BatchNorm2d(20)),
            *(activation(), conv(20, 7, bias=True), nn.Flatten(), nn.BatchNorm1d(7)),
            activation() if binary_activations else nn.Hardtanh(),
            QuantLinear(7, 5, bias=True, weight_quant=PerFilter, weight_bit_width=1),
        ]
        return nn.Sequential(*layers), (1, 3, 14, 14)

    return make


NETWORKS: dict[str, tuple[Callable[[], tuple[Any, tuple[int, ...]]], bool]] = {
    "tfc_1w1a": (example("tfc_1w1a"), True),
    "tfc_1w1a_torchscript": (example("tfc_1w1a"), False),
    "lfc_1w1a": (example("lfc_1w1a"), True),
    "cnv_1w1a": (example("cnv_1w1a"), True),
    "cnv_1w1a_torchscript": (example("cnv_1w1a"), False),
    "scale_per_filter": (convolutional(binary_activations=True), True),
    "scale_per_filter_torchscript": (convolutional(binary_activations=True), False),
    "float_activations": (convolutional(binary_activations=False), True),
}
"""Each network, and whether torch's dynamo exporter writes it or the older one."""


def randomize(network: Any) -> None:
    """Seeded weights of both signs, and statistics as a trained network has them."""
    import torch

    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.3, 3.0)
        elif name.endswith("running_mean"):
            value.normal_(0.0, 1.0)
        elif name.endswith(("weight", "bias")) and torch.is_floating_point(value):
            value.normal_(0.05, 0.5)


def exported(name: str, out: Path) -> onnx.ModelProto:
    """The file that Brevitas writes of a network."""
    import torch
    from brevitas.export import export_qonnx

    torch.manual_seed(len(name))
    make, dynamo = NETWORKS[name]
    network, shape = make()
    randomize(network.eval())
    path = out / f"{name}.onnx"
    export_qonnx(network, args=torch.rand(shape), export_path=str(path), dynamo=dynamo)
    path.with_suffix(".onnx.data").unlink(missing_ok=True)
    return onnx.load(path)


def drawn(random: np.random.Generator) -> onnx.ModelProto:
    """A graph of two or three BipolarQuant layers of random shapes, scales and geometry."""
    nodes, constants = [], []

    def constant(array: Any) -> str:
        constants.append(
            numpy_helper.from_array(np.asarray(array, np.float32), f"c{len(constants)}")
        )
        return constants[-1].name

    def node(kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        nodes.append(
            helper.make_node(kind, inputs, [f"v{len(nodes)}"], domain=domain, **attributes)
        )
        return nodes[-1].output[0]

    def binarized(x: str, scale: Any) -> str:
        return node("BipolarQuant", x, constant(scale), domain=DOMAIN)

    def scale(*per_filter: int) -> Any:
        shape = ((), (1,), per_filter)[random.integers(3)]
        return random.choice([0.25, 0.1, 1.0, 1.7], shape)

    spatial = bool(random.integers(2))
    channels = int(random.integers(1, 5)) * 2
    shape = (2, channels, 11, 9) if spatial else (2, channels)
    x = "x"
    for _ in range(int(random.integers(2, 4))):
        filters = int(random.integers(1, 12)) * 2
        x = binarized(x, random.choice([0.5, 1.0, 3.0], ((), (1,))[random.integers(2)]))
        if spatial:
            group = 2 if random.integers(2) else 1
            kernel = random.integers(1, 4, 2).tolist()
            weight = random.normal(size=(filters, channels // group, *kernel))
            x = node(
                *("Conv", x, binarized(constant(weight), scale(filters, 1, 1, 1))),
                group=group,
                strides=random.integers(1, 3, 2).tolist(),
                pads=random.integers(0, 2, 4).tolist(),
                kernel_shape=kernel,
            )
        elif random.integers(2):
            weight = binarized(constant(random.normal(size=(filters, channels))), scale(filters, 1))
            x = node("MatMul", x, node("Transpose", weight, perm=[1, 0]))
        else:
            weight = random.normal(size=(channels, filters))
            x = node("MatMul", x, binarized(constant(weight), scale(1, filters)))
        moments = [random.normal(size=filters) for _ in range(3)]
        moments.append(random.uniform(0.3, 3, filters))
        x = node("BatchNormalization", x, *map(constant, moments))
        channels = filters
    return _model(nodes, constants, shape, x)


def quantizers() -> Iterator[tuple[str, onnx.ModelProto]]:
    """Every rounding mode, sign, range and zero point of Quant, and both versions of Trunc."""
    for number, (mode, signed, narrow, bits, zero) in enumerate(
        product(MODES, (0, 1), (0, 1), (1, 2, 4, 8), (0, 3))
    ):
        scale = np.float32([0.25, 0.3])[number % 2]
        yield (
            f"quant_{number}",
            _quantizer(
                *("Quant", [scale, zero, bits]), signed=signed, narrow=narrow, rounding_mode=mode
            ),
        )
    for number, mode in enumerate(MODES[1:]):
        yield f"trunc1_{number}", _quantizer("Trunc", [0.25, 0, 8, 5], rounding_mode=mode)
        yield (
            f"trunc2_{number}",
            _quantizer(
                *("Trunc", [0.25, 4, 8, 1.0, 5]), version=2, rounding_mode=mode, signed=1, narrow=1
            ),
        )


def _quantizer(kind: str, given: list[Any], version: int = 1, **attributes: Any):
    names = [f"c{number}" for number in range(len(given))]
    constants = [
        numpy_helper.from_array(np.array(value, np.float32), name)
        for name, value in zip(names, given, strict=True)
    ]
    node = helper.make_node(kind, ["x", *names], ["y"], domain=DOMAIN, **attributes)
    return _model([node], constants, (4, 200), "y", version)


def _model(nodes, constants, shape, output, version: int = 1) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "drawn",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [None] * len(shape))],
        constants,
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, version)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def expected(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """The output of qonnx's own executor."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes
    from qonnx.util.cleanup import cleanup_model

    wrapped = cleanup_model(ModelWrapper(model)).transform(InferShapes())
    (name,) = (entry.name for entry in wrapped.graph.input)
    (output,) = execute_onnx(wrapped, {name: x}).values()
    return output


def write(out: Path) -> None:
    """Every file, in `out`."""
    random = np.random.default_rng(0)
    models = [(name, exported(name, out)) for name in NETWORKS]
    models += [(f"drawn_{number}", drawn(random)) for number in range(RANDOM)]
    models += list(quantizers())
    for name, model in models:
        path = out / f"{name}.onnx"
        path.write_bytes(model.SerializeToString())
        constants = {tensor.name for tensor in model.graph.initializer}
        (entry,) = (value for value in model.graph.input if value.name not in constants)
        shape = [size.dim_value for size in entry.type.tensor_type.shape.dim]
        x = random.normal(size=shape).astype(np.float32)
        if name.startswith(("quant", "trunc")):
            x = (4 * np.round(8 * x) / 8).astype(np.float32)
        np.savez(path.with_suffix(".npz"), x=x, y=expected(model, x))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    write(Path(sys.argv[1]))
