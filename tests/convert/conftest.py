"""Small latent graphs, made by hand, and what every conversion of one must keep."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from bindeploy.convert import dialect
from bindeploy.convert.engines import run_numpy, run_onnxruntime
from bindeploy.convert.pipeline import convert

sys.path.insert(0, str(Path(__file__).parent))


class Sketch:
    """A graph in the making: each method adds one node and returns the name of its output.

    Parameters are drawn from a seeded generator unless given; scales are awkward floats.
    """

    def __init__(self, shape: tuple[int, ...], seed: int = 0, opset: int = dialect.OPSET) -> None:
        self.random = np.random.default_rng(seed)
        self.shape = shape
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, name: str, values) -> str:
        array = np.asarray(values)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def node(self, kind: str, inputs, domain: str = "", name: str = "", **attributes) -> str:
        output = f"{kind}_{len(self.nodes)}"
        made = helper.make_node(
            kind, inputs, [output], name=name or output, domain=domain, **attributes
        )
        self.nodes.append(made)
        return output

    def _latent(self, kind, x, weight, scale, bias, name, **attributes) -> str:
        filters = weight.shape[0]
        scale = self.random.uniform(0.01, 0.3, filters) if scale is None else scale
        bias = self.random.normal(0, 0.1, filters) if bias is None else bias
        inputs = [
            x,
            self.constant(f"{name}.weight", weight),
            self.constant(f"{name}.alpha", scale),
            self.constant(f"{name}.offset", bias),
        ]
        return self.node(kind, inputs, dialect.LATENT, f"exporter_{name}", **attributes)

    def conv(self, x, channels, filters, name, *, kernel=(3, 3), group=1, strides=(1, 1)):
        return self.conv_of(x, channels, filters, name, kernel=kernel, group=group, strides=strides)

    def conv_of(
        self,
        x,
        channels,
        filters,
        name,
        *,
        kind="BinaryConv2d",
        kernel=(3, 3),
        group=1,
        strides=(1, 1),
        pads=(1, 1, 1, 1),
        dilations=(1, 1),
        pad_value=1.0,
        scale=None,
        bias=None,
    ) -> str:
        weight = self.random.normal(size=(filters, channels, *kernel))
        return self._latent(
            kind,
            x,
            weight,
            scale,
            bias,
            name,
            group=group,
            strides=strides,
            pads=pads,
            dilations=dilations,
            pad_value=pad_value,
        )

    def linear(self, x, channels, filters, name, kind="BinaryLinear", scale=None, bias=None) -> str:
        weight = self.random.normal(size=(filters, channels))
        return self._latent(kind, x, weight, scale, bias, name)

    def normalize(self, x, channels, name, gamma=None, beta=None, mean=None, var=None) -> str:
        draw = self.random
        given = {
            "weight": draw.normal(0, 1, channels) if gamma is None else gamma,
            "bias": draw.normal(0, 0.5, channels) if beta is None else beta,
            "running_mean": draw.normal(0, 1, channels) if mean is None else mean,
            "running_var": draw.uniform(0.2, 3, channels) if var is None else var,
        }
        inputs = [self.constant(f"{name}.{key}", value) for key, value in given.items()]
        return self.node("BatchNormalization", [x, *inputs], name=f"exporter_{name}")

    def model(self, *outputs: str, batch: int | str = "N") -> ir.Model:
        graph = helper.make_graph(
            self.nodes,
            "sketch",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *self.shape])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            self.initializers,
        )
        imports = [helper.make_opsetid("", self.opset), helper.make_opsetid(dialect.LATENT, 1)]
        proto = helper.make_model(graph, opset_imports=imports, ir_version=10)
        inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
        model = ir.from_proto(inferred)
        dialect.attach_functions(model)
        return model


def same_numbers(latent: ir.Model, x: np.ndarray) -> ir.Model:
    """Convert; the integers of three engine runs are equal, the logits within 1e-5. The result."""
    packed = convert(latent)
    onnx.checker.check_model(ir.to_proto(packed))
    logits, integers = run_onnxruntime(latent, x)
    for run in (run_onnxruntime, run_numpy):
        found, counted = run(packed, x)
        assert list(counted) == list(integers)
        for name, expected in integers.items():
            assert counted[name].dtype == np.int32
            np.testing.assert_array_equal(counted[name], expected, err_msg=name)
        np.testing.assert_allclose(found, logits, rtol=1e-5, atol=1e-5)
    return packed


def same_after(model: ir.Model, steps, x: np.ndarray, exactly: bool = False) -> ir.Model:
    """A copy of the model after some passes alone; onnxruntime gives for x what it gave before, and
    the numpy evaluator the same, `exactly` or within 1e-5.
    """
    changed = model.clone()
    for step in steps:
        step()(changed)
    dialect.attach_functions(changed)
    dialect.verify(changed)
    onnx.checker.check_model(ir.to_proto(changed), full_check=True)
    expected, _ = run_onnxruntime(model, x)
    for run in (run_onnxruntime, run_numpy):
        tolerance = {"rtol": 0, "atol": 0} if exactly else {"rtol": 1e-5, "atol": 1e-5}
        np.testing.assert_allclose(run(changed, x)[0], expected, **tolerance)
    return changed


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.fixture
def sketch() -> type[Sketch]:
    return Sketch


@pytest.fixture
def converted():
    """A function: latent model and input to the packed model, its numbers checked on the way."""
    return same_numbers


@pytest.fixture
def passed():
    """A function: model, passes and input to the model after them, its numbers checked."""
    return same_after


@pytest.fixture
def kinds():
    """A function: the operator names of a model, in order."""
    return operators


@pytest.fixture
def images():
    """A function: seeded normal floats [N, ...]."""
    return lambda *shape: np.random.default_rng(7).normal(size=shape).astype(np.float32)


@pytest.fixture
def saved(tmp_path: Path):
    """A function: write a model to a file, and its path."""

    def save(model: ir.Model, name: str = "model.onnx") -> Path:
        path = tmp_path / name
        path.write_bytes(ir.to_proto(model).SerializeToString())
        return path

    return save
