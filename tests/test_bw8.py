"""Mode bw8, 1-bit weights with 8-bit inputs: every engine rounds every input to the same integer.

Compared bit for bit are the floats that the integers stand for; logits to 1e-4, since their sums
are taken in different orders. Every image is one that stays clear of the half steps.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import numpy_helper, parser
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from bindeploy import Session, binarize
from bindeploy.bundle import from_source, verify
from bindeploy.convert import convert, dialect, pipeline
from bindeploy.convert.engines import onnxruntime_run, run_numpy, run_onnxruntime
from bindeploy.convert.float_twin import float_twin, layers
from bindeploy.convert.golden import MARGIN, margins, select
from bindeploy.convert.inspect import inspect
from bindeploy.emit.plan import lower
from bindeploy.errors import BindeployError
from bindeploy.train import operators
from bindeploy.train.states import harden
from bindeploy.train.to_onnx import evaluate, export

CANDIDATES, IMAGES = 64, 4


class Quantized(nn.Module):
    """The input of a bw8 layer, with its largest |x| so far as 127 steps."""

    def __init__(self, scale: float | None = None) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(1.0 if scale is None else scale))
        self.calibrating = scale is None

    def forward(self, x: Tensor) -> Tensor:
        if self.calibrating:
            self.scale.copy_(x.detach().abs().max() / 127)
        return operators.quantize_int8(x, self.scale)


class Layer(nn.Module):
    """What a hardened layer of mode bw8 calls: Quantized, then the product with the signs."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        filters = shape[0]
        self.quantized = Quantized()
        self.weight = nn.Parameter(torch.randn(shape))
        self.register_buffer("scale", torch.rand(filters) / math.sqrt(math.prod(shape[1:])))
        self.register_buffer("bias", torch.randn(filters) / 8)


class Conv(Layer):
    def __init__(self, filters: int, channels: int, size: int = 3, stride: int = 1, **other: int):
        super().__init__(filters, channels, size, size)
        pad, dilation = other.get("pad", size // 2), other.get("dilation", 1)
        self.window = ([stride] * 2, [pad] * 4, [dilation] * 2, 1, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.quantized(x)
        return operators.binary_weight_conv2d(x, self.weight, self.scale, self.bias, *self.window)


class Linear(Layer):
    def forward(self, x: Tensor) -> Tensor:
        x = self.quantized(x)
        return operators.binary_weight_linear(x, self.weight, self.scale, self.bias)


class Residual(nn.Module):
    """x as floats, as integers of one scale, and as integers of another."""

    def __init__(self, left: nn.Module, right: nn.Module) -> None:
        super().__init__()
        self.left, self.right = left, right

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.left(x)) + self.right(x)


class Case(NamedTuple):
    network: nn.Sequential
    image: tuple[int, ...]


def cases() -> dict[str, Case]:
    torch.manual_seed(0)
    pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return {
        "odd channels, strides, dilation": Case(
            nn.Sequential(
                *(Conv(33, 3), nn.BatchNorm2d(33), nn.ReLU()),
                *(Conv(17, 33, 5, 2), nn.BatchNorm2d(17), nn.ReLU(), nn.MaxPool2d(2)),
                *(Conv(65, 17, 3, dilation=2, pad=2), nn.Hardtanh(), Conv(5, 65, 1)),
            ),
            (3, 9, 13),
        ),
        "dense layers": Case(
            nn.Sequential(
                *(Linear(31, 21), nn.BatchNorm1d(31), nn.ReLU(), Linear(17, 31), nn.ReLU()),
                Linear(3, 17),
            ),
            (21,),
        ),
        "flattened and pooled": Case(
            nn.Sequential(
                *(nn.Conv2d(1, 9, 3), nn.ReLU(), Conv(7, 9), nn.ReLU()),
                *(*pooled, Linear(19, 7), nn.ReLU(), Linear(4, 19)),
            ),
            (1, 5, 7),
        ),
        "residual": Case(
            nn.Sequential(
                *(nn.Conv2d(3, 9, 3), nn.BatchNorm2d(9)),
                Residual(Conv(9, 9), nn.Sequential(Conv(9, 9, 1), nn.BatchNorm2d(9))),
                *pooled,
                nn.Linear(9, 4),
            ),
            (3, 6, 8),
        ),
    }


CASES = cases()


class Road:
    """A case on its way: the torch network, its graphs, its images, and what torch computes."""

    def __init__(self, case: Case) -> None:
        network, image = case
        torch.manual_seed(1)
        network.eval()(torch.randn(CANDIDATES, *image))
        quantizers = [module for module in network.modules() if isinstance(module, Quantized)]
        for index, module in enumerate(quantizers):
            module.calibrating = False
            module.scale *= 1 + index / 8  # layers that read one tensor differ, too
        candidates = 1.2 * torch.randn(CANDIDATES, *image)  # some lie beyond the calibrated range
        self.latent = export(network, candidates[:2])
        chosen = select(self.latent, candidates.numpy(), IMAGES)
        assert len(chosen.indices) == IMAGES and chosen.margin >= MARGIN
        self.images = candidates.numpy()[chosen.indices]
        self.activations: list[np.ndarray] = []
        for module in quantizers:
            module.register_forward_hook(lambda m, i, y: self.activations.append(y.numpy()))
        with torch.no_grad():
            self.logits = network(torch.from_numpy(self.images)).numpy()
        self.packed = convert(self.latent)


@pytest.fixture(scope="module", params=CASES)
def road(request) -> Road:
    return Road(CASES[request.param])


def dequantized(model: ir.Model) -> list[ir.Value]:
    return [node.outputs[0] for node in model.graph if node.op_type == "DequantizeLinear"]


def ending_in(model: ir.Model, index: int) -> ir.Model:
    """The model with the floats of integer activation `index` as its one output."""
    shorter = model.clone()
    shorter.graph.outputs[:] = [dequantized(shorter)[index]]
    return shorter


def same_bits(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal as floats and in every bit: -0 is not 0."""
    assert found.dtype == expected.dtype == np.float32 and found.shape == expected.shape
    np.testing.assert_array_equal(found.view(np.int32), expected.view(np.int32))


def test_every_engine_rounds_to_the_integers_of_torch(road):
    for model in (road.latent, road.packed):
        assert len(dequantized(model)) == len(road.activations)
        for index, expected in enumerate(road.activations):
            proto = ir.to_proto(ending_in(model, index))
            same_bits(onnxruntime_run(proto)(road.images)[0], expected)
            numpy_runner = ReferenceEvaluator(proto, new_ops=dialect.REFERENCE_OPS)
            same_bits(numpy_runner.run(None, {"input": road.images})[0], expected)
    for index, expected in enumerate(road.activations):
        for isa in (None, "scalar"):
            with Session(ending_in(road.packed, index), isa=isa) as session:
                same_bits(session.run(None, {"input": road.images})[0], expected)


def test_every_engine_gives_the_logits_of_torch(road):
    for run, model in (
        (run_onnxruntime, road.latent),
        (run_onnxruntime, road.packed),
        (run_numpy, road.packed),
    ):
        logits, integers = run(model, road.images)
        np.testing.assert_allclose(logits, road.logits, rtol=0, atol=1e-4)
        assert not integers
    with Session(road.packed) as session:
        logits = session.run(None, {"input": road.images})[0]
    assert logits.shape == road.logits.shape
    np.testing.assert_allclose(logits, road.logits, rtol=0, atol=1e-4)
    assert np.ptp(road.logits) > 0.1


def test_the_integers_use_their_range(road):
    scales = [node.inputs[1].const_value.numpy() for node in road.latent.graph
              if node.op_type == "QuantizeLinear"]  # fmt: skip
    for activation, scale in zip(road.activations, scales, strict=True):
        q = activation / scale
        np.testing.assert_allclose(q, np.rint(q), atol=1e-4)
        assert np.unique(np.rint(q)).size > 5 and np.abs(q).max() <= 128.0001


def pair(body: str, x: str = "[N,3,5,7]", output: str = "float y", **constants) -> ir.Model:
    """A model in ONNX's textual syntax; `s` and `z` are a good scale and zero point."""
    head = '<ir_version: 10, opset_import: ["" : 20]>'
    proto = parser.parse_model(f"{head} g (float{x} x) => ({output}) {{ {body} }}")
    known = {"s": np.float32(0.5), "z": np.int8(0)} | constants
    for name, value in known.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return ir.from_proto(proto)


ROUND_TRIP = "[q] i = QuantizeLinear(x, s, z) [d] y = DequantizeLinear(i, s, z)"


def edges(scale: np.float32) -> np.ndarray:
    """Half steps from -140 to 140 and their neighbours, -0, values far beyond the range."""
    half = np.arange(-280, 281, dtype=np.float32) / np.float32(2) * scale
    largest = np.float32(np.inf)
    far = np.array([1e6, -1e6, 2**22, -(2**22), 2**24 + 2], np.float32) * scale
    tiny = np.array([-0.0, 0.0, -1e-45, 1e-38], np.float32)
    values = [half, np.nextafter(half, largest), np.nextafter(half, -largest), far, tiny]
    padded = np.zeros(-(-(3 * 561 + 9) // 105) * 105, np.float32)
    padded[: 3 * 561 + 9] = np.concatenate(values)
    return padded.reshape(-1, 3, 5, 7)


@pytest.mark.parametrize("scale", [1.0, 0.1, 1 / 127, 0.0314159, 3e-5, 7.3e4])
def test_half_steps_go_to_the_even_integer_in_every_engine(scale):
    step = np.float32(scale)
    x = edges(step)
    integers = np.clip(np.rint(x / step), -128, 127).astype(np.int8)
    assert {-128, -2, 0, 2, 127} <= set(integers.ravel().tolist())
    expected = integers.astype(np.float32) * step
    model = pair(ROUND_TRIP, s=step)
    same_bits(operators.quantize_int8(torch.from_numpy(x), torch.tensor(step)).numpy(), expected)
    same_bits(run_onnxruntime(model, x)[0], expected)
    same_bits(run_numpy(model, x)[0], expected)
    for isa in (None, "scalar"):
        with Session(model, isa=isa) as session:
            same_bits(session.run(None, {"x": x})[0], expected)


def test_the_exported_pair_is_standard_and_named_after_its_layer(road):
    for model in (road.latent, road.packed):
        nodes = {node.name: node for node in model.graph}
        binary = [node for node, _ in dialect.layers(model)]
        assert len(binary) == len(road.activations)
        for node in binary:
            assert node.op_type.startswith("BinaryWeight")
            after, before = nodes[f"{node.name}/dequantize"], nodes[f"{node.name}/quantize"]
            assert (before.domain, before.op_type) == ("", "QuantizeLinear")
            assert (after.domain, after.op_type) == ("", "DequantizeLinear")
            assert node.inputs[0] is after.outputs[0] and after.inputs[0] is before.outputs[0]
            zero = before.inputs[2].const_value.numpy()
            assert (zero.dtype, zero.shape, zero.item()) == (np.int8, (), 0)
            assert before.inputs[1].const_value.shape == ()
        onnx.checker.check_model(ir.to_proto(model))


def test_the_plan_has_one_op_for_the_pair_and_its_layer(road):
    ops = [node.op for node in lower(road.packed).nodes]
    assert not {"quantize_int8", "binary_weight_conv"} & set(ops)
    assert ops.count("binary_weight_int8_conv") == len(road.activations)


@pytest.mark.parametrize("isa", [None, "scalar"])
def test_rounded_floats_that_something_else_reads_are_made_and_rounded_again(isa):
    """And again gives the same integers."""
    torch.manual_seed(0)
    layer = Conv(3, 3)
    layer.quantized = Quantized(0.03)
    x = torch.randn(2, 3, 4, 5)
    packed = convert(export(layer, x))
    (rounded,) = dequantized(packed)
    (y,) = packed.graph.outputs
    total = ir.node("Add", [rounded, y])
    total.outputs[0].shape, total.outputs[0].dtype = y.shape, y.dtype
    total.outputs[0].name = "total"
    packed.graph.append(total)
    packed.graph.outputs[:] = total.outputs
    ops = [node.op for node in lower(packed).nodes]
    assert ops.count("quantize_int8") == ops.count("binary_weight_int8_conv") == 1
    with Session(packed, isa=isa) as session, torch.no_grad():
        found = session.run(None, {"input": x.numpy()})[0]
        expected = layer.quantized(x) + layer(x)
        np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-4)


def test_layers_that_round_one_tensor_alike_each_round_it():
    network = Residual(Conv(3, 3), Conv(3, 3, 1))
    network.left.quantized = network.right.quantized = Quantized(0.03)
    x = torch.randn(2, 3, 4, 5)
    packed = convert(export(network, x))
    ops = [node.op for node in lower(packed).nodes]
    assert ops.count("quantize_int8") == 0 and ops.count("binary_weight_int8_conv") == 2
    with Session(packed) as session, torch.no_grad():
        found = session.run(None, {"input": x.numpy()})[0]
        np.testing.assert_allclose(found, network(x).numpy(), rtol=0, atol=1e-4)


def test_explain_and_inspect_speak_of_the_input(road):
    explained = [layer for layer in pipeline.run(road.latent).layers if layer.binarized]
    assert len(explained) == len(road.activations)
    assert all(layer.rule.startswith(f"latent {layer.op}, 8-bit input") for layer in explained)
    again = [layer.rule for layer in pipeline.run(road.packed).layers if layer.binarized]
    assert again == [f"already a {layer.op}, 8-bit input" for layer in explained]
    rows = {row["name"]: row for row in inspect(road.packed)["layers"]}
    for layer in explained:
        row = rows[f"{layer.name}/quantize"]
        assert (row["op"], row["float_parameters"], row["bytes"]) == ("QuantizeLinear", 1, 4)
        assert row["output_shape"] == rows[layer.name]["input_shape"]
        assert rows[layer.name]["float_macs"] == layer.macs > 0


def test_the_float_twin_has_no_integers(road):
    twin = float_twin(ir.to_proto(road.packed))
    assert not {"QuantizeLinear", "DequantizeLinear"} & {node.op_type for node in twin.graph.node}
    session = onnxruntime.InferenceSession(twin.SerializeToString())
    assert session.run(None, {"input": road.images})[0].shape == road.logits.shape
    assert {node.name for node, _ in dialect.layers(road.packed)} <= set(layers(twin))


def test_a_bundle_is_verified(road, tmp_path):
    bundle = from_source(road.latent, "host", tmp_path / "bundle", format="onnx")
    assert verify(bundle)["ok"]


def test_a_network_of_the_trainers_layers_goes_the_whole_road():
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(3, 9, 3), nn.BatchNorm2d(9), nn.ReLU()),
        *(nn.Conv2d(9, 17, 3, padding=1, stride=2), nn.BatchNorm2d(17), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(17 * 2 * 3, 11), nn.ReLU(), nn.Linear(11, 4)),
    )
    binarize(network, mode="bw8").train()
    candidates = torch.randn(CANDIDATES, 3, 6, 7)
    for _ in range(3):
        network(candidates)
    latent = export(network.eval(), candidates[:2])
    chosen = select(latent, candidates.numpy(), IMAGES)
    assert chosen.margin >= MARGIN
    images = candidates.numpy()[chosen.indices]
    logits, integers = evaluate(harden(network), images)
    assert not integers and np.ptp(logits) > 0
    packed = convert(latent)
    assert len(dequantized(packed)) == 2
    for found in (run_onnxruntime(packed, images)[0], run_numpy(packed, images)[0]):
        np.testing.assert_allclose(found, logits, rtol=0, atol=1e-4)
    with Session(packed) as session:
        found = session.run(None, {"input": images})[0]
    np.testing.assert_allclose(found, logits, rtol=0, atol=1e-4)


def test_the_margin_is_the_distance_from_the_nearest_half_step():
    model = pair(f"r = Relu(x) {ROUND_TRIP.replace('(x', '(r')}", "[N,1,1,1]")
    x = np.array([0.0, 0.24, 0.26, 0.5, 63.3, 70, -4, 0.25], np.float32).reshape(-1, 1, 1, 1)
    expected = [0.25, 0.01, 0.01, 0.25, 0.05, 6.75, 0.25, 0]
    np.testing.assert_allclose(margins(model, x), expected, rtol=0, atol=2e-6)
    assert select(model, x, 8).indices.tolist() == list(range(7))


def test_integers_of_the_input_itself_need_no_margin():
    x = np.full((2, 1, 1, 1), 0.25, np.float32)
    assert margins(pair(ROUND_TRIP, "[N,1,1,1]"), x).tolist() == [np.inf, np.inf]


REFUSED = {
    "lone quantize": (
        {"body": "[q] y = QuantizeLinear(x, s, z)", "output": "int8 y"},
        "QuantizeLinear `q`: the runtime runs it where DequantizeLinear alone reads",
    ),
    "integers read by another op": (
        {"body": f"{ROUND_TRIP} w = Flatten(i)", "output": "float y, int8 w"},
        "a plan has one",
    ),
    "a move between": (
        {"body": "[q] i = QuantizeLinear(x, s, z) f = Flatten(i) y = DequantizeLinear(f, s, z)"},
        "QuantizeLinear `q`: the runtime runs it where DequantizeLinear alone reads",
    ),
    "lone dequantize": (
        {"body": "[d] w = DequantizeLinear(k, s, z) y = Add(x, w)", "k": np.int8([[[[3]]]])},
        "DequantizeLinear `d`: it reads `k`, a constant",
    ),
    "dequantize of floats": (
        {"body": "r = Relu(x) [d] y = DequantizeLinear(r, s, z)"},
        "DequantizeLinear `d`: the runtime runs it after QuantizeLinear alone",
    ),
    "one scale a channel": (
        {"body": ROUND_TRIP, "s": np.float32([1, 2, 3])},
        "its scale is float32 [3]; the runtime has one float32 for the whole tensor",
    ),
    "zero point": ({"body": ROUND_TRIP, "z": np.int8(3)}, "its zero point is int8 3"),
    "uint8": ({"body": ROUND_TRIP, "z": np.uint8(0)}, "its zero point is uint8 0"),
    "no zero point": (
        {"body": "[q] i = QuantizeLinear(x, s) [d] y = DequantizeLinear(i, s)"},
        "QuantizeLinear `q`: its zero point is uint8 0; the runtime has int8 0",
    ),
    "two scales": (
        {"body": ROUND_TRIP.replace("(i, s,", "(i, t,"), "t": np.float32(0.25)},
        "DequantizeLinear `d`: its scale is 0.25, that of `q` 0.5; use one",
    ),
    "a computed scale": (
        {"body": "m = GlobalAveragePool(x) " + ROUND_TRIP.replace("s,", "m,")},
        "`q`: input 1 must be a constant",
    ),
} | {
    f"scale {scale}": ({"body": ROUND_TRIP, "s": np.float32(scale)}, f"its scale is {scale}; it")
    for scale in (0.0, -0.5, math.nan, math.inf)
}  # fmt: skip


@pytest.mark.parametrize(("model", "message"), REFUSED.values(), ids=REFUSED)
def test_what_the_runtime_does_not_quantize_is_refused_in_one_line(model, message):
    with pytest.raises(BindeployError) as caught:
        lower(pair(**model))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_pair_in_other_spellings():
    x = edges(np.float32(0.5))
    expected = run_onnxruntime(pair(ROUND_TRIP), x)[0]
    spellings = [
        {"body": ROUND_TRIP, "s": np.float32([0.5]), "z": np.int8([0])},
        {"body": ROUND_TRIP.replace("(i, s, z)", "(i, s)")},
        {"body": f"{ROUND_TRIP.replace(' y =', ' w =')} y = DequantizeLinear(i, s, z)"},
    ]
    for spelling in spellings:
        with Session(pair(**spelling)) as session:
            same_bits(session.run(None, {"x": x})[0], expected)
