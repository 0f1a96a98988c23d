"""Mode bwaa, sums of 8 bits that saturate: every engine gives the integers of torch, bit for bit.

Weights and signs lean to one side, so that sums do saturate: what comes out is not what exact sums
would give.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from bindeploy import Session
from bindeploy.bench import bench_bundle
from bindeploy.bundle import from_source, verify
from bindeploy.convert import dialect, pipeline
from bindeploy.convert.engines import run_numpy, run_onnxruntime
from bindeploy.convert.golden import MARGIN, select
from bindeploy.convert.inspect import inspect
from bindeploy.convert.plain import plain
from bindeploy.emit.plan import lower
from bindeploy.train.layers import BinaryConv2d, BinaryLinear, binary_layers
from bindeploy.train.loop import train
from bindeploy.train.quantizers import sign
from bindeploy.train.states import harden
from bindeploy.train.to_onnx import evaluate, export

CANDIDATES, IMAGES = 48, 4


class Sum(nn.Module):
    """x + body(x)."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Tokens(nn.Module):
    """[N, C, H, W] -> [N, H W, C]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2)


def conv(channels: int, filters: int, size: int = 3, **options) -> nn.Module:
    padding = options.pop("padding", size // 2)
    return BinaryConv2d(channels, filters, size, padding=padding, mode="bwaa", **options)


def dense(features: int, filters: int) -> nn.Module:
    return BinaryLinear(features, filters, mode="bwaa")


class Case(NamedTuple):
    network: Callable[[], nn.Sequential]
    image: tuple[int, ...]


CASES = {
    "odd channels": Case(
        lambda: nn.Sequential(
            *(nn.Conv2d(2, 31, 3, padding=1), nn.BatchNorm2d(31)),
            *(conv(31, 33, 3), nn.BatchNorm2d(33), conv(33, 64, 5), nn.BatchNorm2d(64)),
            *(conv(64, 100, 1), nn.BatchNorm2d(100), conv(100, 32), nn.BatchNorm2d(32)),
            *(conv(32, 3, 5), nn.Flatten(), nn.Linear(3 * 5 * 6, 4)),
        ),
        (2, 5, 6),
    ),
    "strides, dilation, pads that add nothing": Case(
        lambda: nn.Sequential(
            nn.Conv2d(2, 64, 3, padding=1),
            *(conv(64, 100, 3, stride=(2, 1), pad_value=0), nn.BatchNorm2d(100)),
            *(conv(100, 33, 3, dilation=2, padding=2, pad_value=0), nn.BatchNorm2d(33)),
            *(conv(33, 64, 5, stride=(1, 2), padding=(4, 1)), nn.BatchNorm2d(64)),
            *(conv(64, 5, 3, bias=False), nn.Flatten(), nn.Linear(5 * 9 * 3, 4)),
        ),
        (2, 9, 7),
    ),
    "groups": Case(
        lambda: nn.Sequential(
            *(nn.Conv2d(2, 66, 3, padding=1), nn.BatchNorm2d(66)),
            *(conv(66, 64, 3, groups=2, pad_value=0), nn.BatchNorm2d(64)),
            *(conv(64, 64, 5, groups=2), nn.BatchNorm2d(64), conv(64, 64, 3, groups=64)),
            *(nn.BatchNorm2d(64), conv(64, 15, 3, groups=1), nn.Flatten()),
            nn.Linear(15 * 5 * 6, 4),
        ),
        (2, 5, 6),
    ),
    "pools and residuals": Case(
        lambda: nn.Sequential(
            *(nn.Conv2d(2, 64, 3, padding=1), nn.BatchNorm2d(64)),
            *(conv(64, 64), nn.MaxPool2d(2), nn.BatchNorm2d(64), nn.Hardtanh()),
            Sum(conv(64, 64), nn.BatchNorm2d(64)),
            Sum(conv(64, 64), nn.BatchNorm2d(64), nn.PReLU(64)),
            *(conv(64, 40), nn.BatchNorm2d(40), nn.MaxPool2d(3, 2, 1)),
            *(conv(40, 7), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 4)),
        ),
        (2, 8, 10),
    ),
    "dense after a map": Case(
        lambda: nn.Sequential(
            *(nn.Conv2d(2, 33, 3, padding=1), nn.BatchNorm2d(33)),
            *(conv(33, 20), nn.BatchNorm2d(20), nn.Flatten(), dense(20 * 5 * 6, 70)),
            *(nn.BatchNorm1d(70), dense(70, 200), nn.BatchNorm1d(200), dense(200, 33)),
            nn.Linear(33, 4),
        ),
        (2, 5, 6),
    ),
    "tokens": Case(
        lambda: nn.Sequential(
            *(nn.Conv2d(2, 200, 3), nn.BatchNorm2d(200), Tokens(), dense(200, 150), dense(150, 9)),
            *(nn.Flatten(), nn.Linear(9 * 6, 4)),
        ),
        (2, 4, 5),
    ),
}


def leaning(network: nn.Module) -> nn.Module:
    """Random numbers; every weight of a layer leans to one side, or after half of its channels or
    columns to the other, and activations to the positive one.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(2, 20)
            nn.init.uniform_(module.weight, -0.3, 1)
            nn.init.normal_(module.bias, 1.0, 0.5)
    for _, layer in binary_layers(network):
        with torch.no_grad():
            sides = torch.ones_like(layer.weight)
            sides[::2] = -1
            sides[::3, ..., sides.shape[-1] // 2 :] *= -1
            deviation = layer.weight.std()
            layer.weight.add_(sides * deviation * (0.7 if sides.dim() == 4 else 2))
    return network


class Road:
    """A network, its graphs, what torch computes, and what exact sums would be."""

    def __init__(self, case: Case) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.network = leaning(case.network()).eval()
            candidates = torch.randn(CANDIDATES, *case.image)
        self.latent = export(self.network, candidates[:2])
        chosen = select(self.latent, candidates.numpy(), IMAGES)
        assert chosen.margin >= MARGIN
        self.images = candidates.numpy()[chosen.indices]
        self.logits, self.integers = evaluate(harden(self.network), self.images)
        self.conversion = pipeline.run(self.latent)
        self.packed = self.conversion.model

    def agrees(self, logits: np.ndarray, integers: dict[str, np.ndarray]) -> None:
        assert integers.keys() == self.integers.keys()
        for name, expected in self.integers.items():
            found = integers[name]
            if expected.ndim == 3 and found.shape[1] == expected.shape[2]:
                found = np.moveaxis(found, 1, -1)  # rows of a dense layer, pixels in the runtime
            np.testing.assert_array_equal(found.reshape(expected.shape), expected, err_msg=name)
        np.testing.assert_allclose(logits, self.logits, rtol=0, atol=1e-4)


@cache
def road_of(name: str) -> Road:
    return Road(CASES[name])


@pytest.fixture(params=CASES)
def road(request) -> Road:
    return road_of(request.param)


def test_every_engine_gives_the_integers_of_torch(road):
    road.agrees(*run_onnxruntime(road.latent, road.images))
    road.agrees(*run_onnxruntime(road.packed, road.images))
    road.agrees(*run_numpy(road.packed, road.images))
    for threads in (1, 2):
        with Session(road.packed, threads=threads) as session:
            (logits,) = session.run(None, {"input": road.images})
            road.agrees(logits, session.integers(road.images))
    onnxruntime_of_plain = ir.to_proto(plain(road.packed)).SerializeToString()
    found = onnxruntime.InferenceSession(onnxruntime_of_plain).run(None, {"input": road.images})[0]
    np.testing.assert_allclose(found, road.logits, rtol=0, atol=1e-4)


def test_sums_saturate_in_these_networks(road):
    """Some layer of an even number of products has an odd sum, as only saturation gives."""
    shapes = {name: layer.weight[0].numel() for name, layer in binary_layers(road.network)}
    ends = [sums.max() for name, sums in road.integers.items()]
    odd = [
        name
        for name, sums in road.integers.items()
        if shapes[name] % 2 == 0 and (sums % 2 == 1).any() and sums.max() == 127
    ]
    assert odd and max(ends) == 127
    assert min(sums.min() for sums in road.integers.values()) < -100


def test_no_layer_of_exact_sums_is_left(road):
    """In the file; in the plan, where sums are too short to saturate, they are exact ones."""
    names = {op.name for _, op in dialect.layers(road.packed) if "bits" in op.inputs}
    assert names and all(name.startswith("SaturatingBinary") for name in names)
    plan = {node.name: node.op for node in lower(road.packed).nodes}
    for node, op in dialect.layers(road.packed):
        if "bits" in op.inputs:
            bits = node.inputs[1].const_value.numpy()
            products = node.attributes["channels"].as_int() * int(np.prod(bits.shape[1:-1]))
            assert plan[node.name].startswith("saturating" if products > 127 else "binary")


def test_a_layer_between_others_compares_integers_and_says_so(road):
    rules = [layer.rule for layer in road.conversion.layers if layer.binarized]
    assert all("latent SaturatingBinary" in rule for rule in rules)
    rows = inspect(road.packed)["layers"]
    assert all(row["binary_macs"] > 0 for row in rows if row["op"].startswith("Saturating"))


def test_thresholds_take_every_integer_that_occurs():
    """Of scales and biases at random, with a pool and a BatchNorm of both directions between."""
    road = road_of("pools and residuals")
    ops = [op.name for _, op in dialect.layers(road.packed)]
    assert "SaturatingBinaryConv2dThreshold" in ops and "BinaryMaxPool2d" in ops


def test_onnxruntime_with_our_kernels_gives_the_same(road, onnxruntime_operators):
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(onnxruntime_operators)
    model = ir.to_proto(road.packed).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    found = session.run(None, {"input": road.images})[0]
    np.testing.assert_allclose(found, road.logits, rtol=0, atol=1e-4)


def test_a_layer_of_exact_sums_gives_something_else():
    """The saturation is no accident of the test: the same signs, summed exactly, differ."""
    road = road_of("odd channels")
    layer = dict(binary_layers(road.network))["4"]
    with torch.no_grad():
        x = road.network[:4](torch.from_numpy(road.images))
        padded = functional.pad(sign(x), [2] * 4, value=1.0)
        exact = functional.conv2d(padded, sign(layer.weight))
    saturated = road.integers["4"]
    clamped = exact.clamp(-128, 127).numpy()
    assert (saturated != clamped).mean() > 0.1


def test_a_run_is_exported_verified_and_measured(tmp_path):
    run = tmp_path / "run"
    settings = {"mode": "bwaa", "limit": 192, "epochs": 1, "float_twin": False, "progress": False}
    train("digits", "tiny", out=run, **settings)
    bundle = from_source(run, "host", tmp_path / "bundle")
    assert verify(bundle)["ok"]
    times = bench_bundle(bundle, runs=2)
    assert {"saturating_conv", "saturating_conv_threshold"} & {row["op"] for row in times["layers"]}


def test_a_bundle_of_a_graph_is_verified(tmp_path):
    road = road_of("groups")
    assert verify(from_source(road.latent, "host", tmp_path / "bundle", format="onnx"))["ok"]
