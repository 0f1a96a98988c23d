"""The int8 ops: function body under two engines, numpy meaning, and integers written out."""

import os
import platform
import shutil
import subprocess
import sys

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from bindeploy.convert import dialect, dialect_int8
from bindeploy.errors import BindeployError

WINDOWS = {
    "plain": {"group": 1, "strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1]},
    "padded": {"group": 1, "strides": [2, 2], "pads": [1, 1, 1, 1], "dilations": [1, 1]},
    "ragged": {"group": 2, "strides": [2, 1], "pads": [0, 2, 1, 1], "dilations": [1, 3]},
    "depthwise": {"group": 6, "strides": [1, 1], "pads": [1, 0, 1, 0], "dilations": [1, 1]},
}


def one_node(name, x, constants, attributes=None):
    """A model of one op of the dialect, its first input x, the others constant."""
    op = dialect.OPS[dialect.DOMAIN, name]
    source = ir.Value(
        name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["N", *x.shape[1:]])
    )
    values = [
        ir.Value(
            name=given,
            const_value=ir.tensor(array, name=given),
            shape=ir.Shape(array.shape),
            type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        )
        for given, array in zip(op.inputs[1:], constants, strict=True)
    ]
    node = ir.node(
        name, [source, *values], attributes=attributes, domain=dialect.DOMAIN, name="layer"
    )
    (y,) = node.outputs
    y.name, y.type, y.shape = "y", ir.TensorType(ir.DataType.FLOAT), ir.Shape([None] * x.ndim)
    imports = {"": dialect.OPSET, dialect.DOMAIN: 1}
    graph = ir.Graph(
        [source], [y], nodes=[node], initializers=values, opset_imports=imports, name="one"
    )
    model = ir.Model(graph, ir_version=dialect.IR_VERSION)
    dialect.attach_functions(model)
    return model


def every_engine(name, x, constants, attributes=None):
    """The output, which onnxruntime, onnx's evaluator of the body, and the numpy meaning agree on
    to the last bit; shape inference knows its shape.
    """
    model = one_node(name, x, constants, attributes)
    dialect.verify(model)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, {"x": x})
    for evaluator in (
        ReferenceEvaluator(proto),
        ReferenceEvaluator(proto, new_ops=dialect.REFERENCE_OPS),
    ):
        np.testing.assert_array_equal(evaluator.run(None, {"x": x})[0], found)
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True).graph.output[0]
    sizes = [dim.dim_value for dim in inferred.type.tensor_type.shape.dim]
    assert sizes[1:] == list(found.shape[1:])
    assert found.dtype == np.float32
    return found


def weights(random, *shape):
    return random.integers(-127, 128, shape).astype(np.int8)


def vectors(random, filters):
    """scale and bias; threshold and direction."""
    return (
        (
            random.uniform(-0.01, 0.01, filters).astype(np.float32),
            random.normal(size=filters).astype(np.float32),
        ),
        (
            random.integers(-9000, 9000, filters).astype(np.int32),
            random.choice([-1, 1], filters).astype(np.int8),
        ),
    )


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("channels", [1, 3, 33])
def test_convolutions(channels, window, images):
    geometry, random = WINDOWS[window], np.random.default_rng(3)
    x = images(2, channels * geometry["group"], 7, 8) * np.float32(50)
    weight, scale = weights(random, 6, channels, 3, 2), np.float32(0.37)
    affine, comparison = vectors(random, 6)
    y = every_engine("Int8Conv2d", x, (weight, np.asarray(scale), *affine), geometry)
    signs = every_engine(
        "Int8Conv2dThreshold", x, (weight, np.asarray(scale), *comparison), geometry
    )
    dots = dialect_int8.convolution_integers(x, weight, scale, **geometry)
    product = (affine[0][:, None, None] * dots.astype(np.float32)).astype(np.float32)
    np.testing.assert_array_equal(y, product + affine[1][:, None, None])
    above = dots >= comparison[0][:, None, None]
    np.testing.assert_array_equal(signs, np.where(above, 1, -1) * comparison[1][:, None, None])
    assert {-1.0, 1.0} == set(np.unique(signs))


@pytest.mark.parametrize("leading", [(4,), (2, 5)])
@pytest.mark.parametrize("channels", [1, 33, 70])
def test_linear_layers(channels, leading, images):
    random = np.random.default_rng(4)
    x = images(*leading, channels) * np.float32(2)
    weight, scale = weights(random, 5, channels), np.asarray(np.float32(0.021))
    affine, comparison = vectors(random, 5)
    y = every_engine("Int8Linear", x, (weight, scale, *affine))
    every_engine("Int8LinearThreshold", x, (weight, scale, *comparison))
    dots = dialect_int8.quantize(x, scale).astype(np.int64) @ weight.T.astype(np.int64)
    product = (affine[0] * dots.astype(np.float32)).astype(np.float32)
    np.testing.assert_array_equal(y, product + affine[1])


def test_the_integers_of_a_corner_by_hand(images):
    """One output of a padded, strided, dilated window, a second look at the numpy meaning."""
    x, weight = images(1, 2, 5, 5), weights(np.random.default_rng(5), 3, 2, 2, 2)
    geometry = {"group": 1, "strides": [3, 2], "pads": [1, 1, 0, 0], "dilations": [2, 3]}
    scale = np.float32(0.1)
    found = dialect_int8.convolution_integers(x, weight, scale, **geometry)
    q = np.clip(np.rint(x[0] / scale), -128, 127)
    expected = [
        sum(
            weight[f, c, ky, kx] * q[c, 2 * ky - 1, 3 * kx - 1]
            for c in range(2)
            for ky in range(2)
            for kx in range(2)
            if 2 * ky - 1 >= 0 and 3 * kx - 1 >= 0
        )
        for f in range(3)
    ]
    assert found[0, :, 0, 0].tolist() == expected


def test_inputs_are_rounded_to_even_and_saturate():
    x = np.float32([[-np.inf, -129, -128.5, -1.5, -0.5, 0.5, 1.5, 126.5, 127.5, np.inf, np.nan]]).T
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    y = every_engine("Int8Linear", x, (np.int8([[1]]), np.asarray(np.float32(1)), one, zero))
    assert y.ravel().tolist() == [-128, -128, -128, -2, 0, 0, 2, 126, 127, 127, -128]


def largest(channels):
    """A dense layer that sums `channels` products of the largest size, and its input."""
    x = np.full((2, channels), -1000, np.float32)
    weight = np.full((4, channels), -127, np.int8)
    one, zero = np.ones(4, np.float32), np.zeros(4, np.float32)
    return x, (weight, np.asarray(np.float32(1)), one, zero)


def test_sums_beyond_what_float32_counts_are_exact_integers():
    """The sum is the nearest float32 of an exact integer, not a sum of floats."""
    x, constants = largest(5001)
    y = every_engine("Int8Linear", x, constants)
    assert (y == np.float32(5001 * 127 * 128)).all()
    weight, scale, _, _ = constants
    exact = np.full(4, 5001 * 127 * 128, np.int32)
    up = np.ones(4, np.int8)
    reached = every_engine("Int8LinearThreshold", x, (weight, scale, exact, up))
    missed = every_engine("Int8LinearThreshold", x, (weight, scale, exact + np.int32(1), up))
    assert (reached == 1).all() and (missed == -1).all()


@pytest.mark.skipif(
    shutil.which("qemu-x86_64") is None or platform.machine() != "x86_64",
    reason="qemu-x86_64 is not installed, or this machine is no x86-64",
)
def test_a_cpu_without_vnni_saturates_nothing(tmp_path):
    """There onnxruntime adds pairs of products of uint8 and int8 in 16 bits."""
    x, constants = largest(300)
    path = tmp_path / "model.onnx"
    path.write_bytes(ir.to_proto(one_node("Int8Linear", -x, constants)).SerializeToString())
    script = (
        "import sys, numpy, onnxruntime\n"
        f"y, = onnxruntime.InferenceSession({str(path)!r}).run(None, "
        "{'x': numpy.full((2, 300), 1000, numpy.float32)})\n"
        "print(*set(y.ravel().tolist()))"
    )
    emulated = ["qemu-x86_64", "-cpu", "Haswell", os.path.realpath(sys.executable), "-c", script]
    found = subprocess.run(
        emulated,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(found.stdout) == -300 * 127 * 127


BREAKAGES = {
    "weights that are float": ("int8_weight", lambda a: a.astype("f4"), "type FLOAT: give INT8"),
    "weights of rank three": ("int8_weight", lambda a: a[0], "`int8_weight` of shape .* KW"),
    "an input scale of zero": ("input_scale", lambda a: a * np.float32(0), "`input_scale` 0.0: g"),
    "an infinite input scale": ("input_scale", lambda a: a / np.float32(0), "`input_scale` inf"),
    "an input scale a channel": ("input_scale", lambda a: a.reshape(1), r"`input_scale` \["),
    "a NaN bias": ("bias", lambda a: a * np.float32(np.nan), "`bias` that is not finite"),
    "a short scale": ("scale", lambda a: a[1:], r"`scale` of shape \[3\]: give \[4\]"),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_verify_names_the_node_and_what_is_wrong(breakage, images):
    broken, change, message = BREAKAGES[breakage]
    random = np.random.default_rng(6)
    (scale, bias), _ = vectors(random, 4)
    constants = {
        "int8_weight": weights(random, 4, 2, 3, 3),
        "input_scale": np.asarray(np.float32(0.5)),
        "scale": scale,
        "bias": bias,
    }
    with np.errstate(divide="ignore"):
        constants[broken] = np.asarray(change(constants[broken]))
    model = one_node("Int8Conv2d", images(1, 2, 5, 5), constants.values(), WINDOWS["plain"])
    with pytest.raises(BindeployError, match=f"node `layer` .*{message}") as caught:
        dialect.verify(model)
    assert "\n" not in str(caught.value)


def test_verify_refuses_sums_beyond_32_bits_and_windows_that_do_not_fit(images):
    x, constants = largest(132105)
    with pytest.raises(BindeployError, match="sums beyond 32-bit integers: split the layer"):
        dialect.verify(one_node("Int8Linear", x, constants))
    x, constants = largest(132104)
    dialect.verify(one_node("Int8Linear", x, constants))
    random = np.random.default_rng(7)
    (scale, bias), _ = vectors(random, 4)
    weight, step = weights(random, 4, 3, 3, 3), np.asarray(np.float32(0.5))
    with pytest.raises(BindeployError, match=r"reads x of shape \[None, 2, 5, 5\]: it takes"):
        dialect.verify(
            one_node(
                "Int8Conv2d", images(1, 2, 5, 5), (weight, step, scale, bias), WINDOWS["plain"]
            )
        )
