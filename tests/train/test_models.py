"""The convolutional networks of the zoo: sizes, names, shapes, gradients, the road to a plan."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bindeploy import Session
from bindeploy.convert import convert
from bindeploy.convert.engines import run_onnxruntime
from bindeploy.errors import BindeployError
from bindeploy.train.layers import BinaryConv2d, BinaryLayer, BinaryLinear, binary_layers
from bindeploy.train.models import MODELS, build
from bindeploy.train.models.nonlinearity import NONLINEARITIES
from bindeploy.train.modes import MODES
from bindeploy.train.states import harden
from bindeploy.train.to_onnx import evaluate, export

SIZES = {
    "tiny": (901_120, 19_072, 44_032, 1_322),
    "vgg-binaryconnect": (613_416_960, 3_549_184, 14_008_320, 21_386),
    "vgg-small": (603_979_776, 3_620_864, 4_571_136, 88_970),
    "resnet20": (40_108_032, 443_008, 267_264, 2_458),
    "resnet56": (125_042_688, 443_008, 847_872, 5_146),
    "wrn56-2": (4 * 125_042_688, 886_016, 4 * 847_872, 10_282),
    "alexnet": (1_025_744_896, 109_511_200, 58_236_928, 4_160_744),
    "resnet18": (1_676_279_808, 137_793_536, 10_985_472, 704_040),
    "resnet50": (3_609_460_736, 479_723_520, 20_676_608, 4_880_424),
    "bi-real-18": (1_676_279_808, 137_793_536, 10_985_472, 704_040),
}
"""Multiply-accumulates, binary and float, and parameters, binary and float, as published."""

DISTINCT = [name for name in SIZES if name not in ("resnet56", "wrn56-2")]
"""Without the deeper and the wider resnet20."""

SMALLEST = {"tiny": 4, "vgg-binaryconnect": 8, "vgg-small": 8, "alexnet": 63}
"""Pixels along an edge of the smallest image; 1 for the others."""


def on_meta(name: str, channels: int, size: int, classes: int, **options) -> nn.Module:
    """A model without weights, for shapes and names alone."""
    with torch.device("meta"):
        return build(name, channels, classes, size, **options).eval()


def sizes(model: nn.Module, image: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """As in `SIZES`, from a run over one image; nothing but convolutions and dense layers counts
    as work."""
    work = {True: 0, False: 0}

    def count(layer: nn.Conv2d | nn.Linear, inputs: object, output: torch.Tensor) -> None:
        places = output[0, 0].numel() if isinstance(layer, nn.Conv2d) else 1
        work[isinstance(layer, BinaryLayer)] += places * layer.weight.numel()

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    model(torch.zeros(1, *image, device="meta"))
    binary = sum(layer.weight.numel() for _, layer in binary_layers(model))
    everything = sum(parameter.numel() for parameter in model.parameters())
    return work[True], work[False], binary, everything - binary


@pytest.mark.parametrize("name", SIZES)
def test_a_model_has_the_published_size(name):
    channels, size, classes = MODELS[name].shape
    assert sizes(on_meta(name, channels, size, classes), (channels, size, size)) == SIZES[name]


def test_tiny_has_every_kind_of_binary_layer():
    kinds = [type(layer) for _, layer in binary_layers(build("tiny", 1, 10, 8))]
    assert kinds == [BinaryConv2d, BinaryConv2d, BinaryLinear]


def normalization(name: str) -> set[str]:
    entries = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return {f"{name}.{entry}" for entry in entries}


def layer(name: str) -> set[str]:
    return {f"{name}.weight", f"{name}.bias"}


def torchvision(depths: tuple[int, ...], convolutions: int) -> set[str]:
    """The keys of torchvision's checkpoints: blocks by stage, convolutions a block."""
    keys = {"conv1.weight"} | normalization("bn1") | layer("fc")
    for stage, depth in enumerate(depths, 1):
        for block in (f"layer{stage}.{index}" for index in range(depth)):
            for index in range(1, convolutions + 1):
                keys |= {f"{block}.conv{index}.weight"} | normalization(f"{block}.bn{index}")
        if stage > 1 or convolutions == 3:
            shortcut = f"layer{stage}.0.downsample"
            keys |= {f"{shortcut}.0.weight"} | normalization(f"{shortcut}.1")
    return keys


def cifar(depth: int) -> set[str]:
    """The keys of akamaster/pytorch_resnet_cifar10, `depth` blocks a stage."""
    keys = {"conv1.weight"} | normalization("bn1") | layer("linear")
    for block in (f"layer{stage}.{index}" for stage in (1, 2, 3) for index in range(depth)):
        keys |= {f"{block}.conv1.weight", f"{block}.conv2.weight"}
        keys |= normalization(f"{block}.bn1") | normalization(f"{block}.bn2")
    return keys


def bi_real() -> set[str]:
    """The keys of liuzechun/Bi-Real-net, `weights` being our `weight`."""
    keys = {"conv1.weight"} | normalization("bn1") | layer("fc")
    for block in (f"layer{stage}.{index}" for stage in (1, 2, 3, 4) for index in range(4)):
        keys |= {f"{block}.binary_conv.weight"} | normalization(f"{block}.bn1")
    for shortcut in (f"layer{stage}.0.downsample" for stage in (2, 3, 4)):
        keys |= {f"{shortcut}.1.weight"} | normalization(f"{shortcut}.2")
    return keys


def vgg_small() -> set[str]:
    """The keys of IR-Net's network."""
    keys = {f"conv{index}.weight" for index in range(6)} | layer("fc")
    return keys.union(*(normalization(f"bn{index}") for index in range(6)))


def vgg_binaryconnect() -> set[str]:
    """The keys of itayhubara/BinaryNet.pytorch, without the superfluous biases."""
    weights = {f"features.{index}.weight" for index in (0, 3, 7, 10, 14, 17)}
    weights |= {"classifier.0.weight", "classifier.3.weight"} | layer("classifier.6")
    names = [f"features.{index}" for index in (1, 5, 8, 12, 15, 19)]
    names += ["classifier.1", "classifier.4"]
    return weights.union(*map(normalization, names))


def alexnet() -> set[str]:
    """The keys of jiecaoyu/XNOR-Net-PyTorch."""
    layers = {f"features.{index}.conv" for index in (4, 6, 7, 8)}
    layers |= {"features.0", "classifier.0.linear", "classifier.1.linear", "classifier.4"}
    names = {f"features.{index}.bn" for index in (4, 6, 7, 8)}
    names |= {"features.1", "classifier.0.bn", "classifier.1.bn", "classifier.2"}
    return set().union(*map(layer, layers), *map(normalization, names))


REFERENCES = {
    "vgg-binaryconnect": vgg_binaryconnect(),
    "vgg-small": vgg_small(),
    "resnet20": cifar(3),
    "resnet56": cifar(9),
    "wrn56-2": cifar(9),
    "alexnet": alexnet(),
    "resnet18": torchvision((2, 2, 2, 2), 2),
    "resnet50": torchvision((3, 4, 6, 3), 3),
    "bi-real-18": bi_real(),
}


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("method", [None, "bnn++"])
def test_the_state_has_the_names_of_the_reference_implementation(name, method):
    channels, size, classes = MODELS[name].shape
    model = on_meta(name, channels, size, classes, method=method)
    assert model.state_dict().keys() == REFERENCES[name]


def test_the_float_twin_has_no_binary_layer():
    assert not list(binary_layers(on_meta("resnet20", 3, 32, 10, method=None)))


@pytest.mark.parametrize(
    "name, float_shortcuts", [("resnet18", 3), ("resnet50", 4), ("bi-real-18", 3)]
)
def test_the_convolutions_of_the_shortcuts_stay_float(name, float_shortcuts):
    model = on_meta(name, 3, 32, 10)
    kept = [
        module
        for _, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and not isinstance(module, BinaryLayer)
    ]
    assert [module.kernel_size for module in kept] == [(7, 7)] + float_shortcuts * [(1, 1)]


@pytest.mark.parametrize("name", DISTINCT)
@pytest.mark.parametrize("channels, size", [(1, 1), (1, 28), (3, 45)])
def test_any_image_that_is_large_enough_will_do(name, channels, size):
    size = max(size, SMALLEST.get(name, 1))
    model = on_meta(name, channels, size, 7)
    assert model(torch.zeros(2, channels, size, size, device="meta")).shape == (2, 7)


@pytest.mark.parametrize("name", SMALLEST)
def test_a_smaller_image_is_refused_in_one_line(name):
    size = SMALLEST[name] - 1
    message = f"image size `{size}` is too small for {name}: give {size + 1} or more"
    with pytest.raises(BindeployError, match=message):
        on_meta(name, 3, size, 10)


def backward(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor | None]:
    """The gradients of every parameter, the classes being as many as the images."""
    logits = model.train()(x)
    nn.functional.cross_entropy(logits, torch.arange(len(x), device=x.device)).backward()
    return {key: parameter.grad for key, parameter in model.named_parameters()}


@pytest.mark.parametrize("name", DISTINCT)
def test_gradients_reach_every_parameter(name):
    torch.manual_seed(0)
    size = max(16, SMALLEST.get(name, 1))
    gradients = backward(build(name, 3, 4, size), torch.randn(4, 3, size, size))
    assert {key for key, gradient in gradients.items() if not gradient.any()} == set()
    assert all(gradient.isfinite().all() for gradient in gradients.values())


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("name", DISTINCT)
def test_every_nonlinearity_trains_and_has_one_place(name, nonlinearity):
    """A PReLU is called once: every place has slopes of its own, as many as it has channels."""
    size = max(8, SMALLEST.get(name, 1))
    model = on_meta(name, 3, size, 4, mode="bw", nonlinearity=nonlinearity)
    slopes = [key for key, module in model.named_modules() if isinstance(module, nn.PReLU)]
    calls: list[str] = []
    for key in slopes:
        model.get_submodule(key).register_forward_hook(lambda *_, key=key: calls.append(key))
    gradients = backward(model, torch.zeros(4, 3, size, size, device="meta"))
    assert {key for key, gradient in gradients.items() if gradient is None} == set()
    assert sorted(calls) == sorted(slopes)
    binary = len(list(binary_layers(model)))
    assert len(slopes) >= binary if nonlinearity == "prelu" else not slopes


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["tiny", "resnet20"])
def test_every_mode_trains(name, mode):
    torch.manual_seed(0)
    gradients = backward(build(name, 3, 4, 8, mode=mode), torch.randn(4, 3, 8, 8))
    assert {key for key, gradient in gradients.items() if not gradient.any()} == set()


def test_the_shortcut_of_a_widening_block_is_every_second_pixel_between_zeros():
    block = build("resnet20", 3, 10, 32).layer2[0]
    x = torch.randn(1, 16, 6, 6)
    shortcut = block.shortcut(x)
    assert torch.equal(shortcut[:, 8:24], x[:, :, ::2, ::2])
    assert shortcut.shape == (1, 32, 3, 3)
    assert float(shortcut[:, :8].abs().sum() + shortcut[:, 24:].abs().sum()) == 0


def test_bi_real_net_passes_floats_around_every_convolution():
    """With a BatchNorm that gives 0, a block gives its shortcut, which no nonlinearity clips."""
    model = build("bi-real-18", 3, 10, 32).eval()
    blocks = [*model.layer1, *model.layer2]
    for block in blocks:
        nn.init.zeros_(block.bn1.weight)
    x = 9 * torch.randn(1, 64, 6, 6)
    for block in model.layer1:
        assert torch.equal(block(x), x)
    pooled = nn.functional.avg_pool2d(x, 2)
    expected = nn.Sequential(*model.layer2[0].downsample[1:])(pooled)
    assert torch.equal(model.layer2(x), expected)


def settle(model: nn.Module) -> nn.Module:
    """Statistics and slopes as training leaves them, some slopes below 0."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, -0.5, 2)
            nn.init.normal_(module.bias)
    return model.eval()


@pytest.mark.parametrize("name, size", [("resnet20", 32), ("bi-real-18", 45)])
def test_the_whole_road_gives_the_logits_of_torch(name, size):
    torch.manual_seed(0)
    model = settle(build(name, 3, 10, size))
    x = torch.randn(2, 3, size, size)
    converted = convert(export(model, x))
    logits, _ = evaluate(harden(model), x.numpy())
    stock, _ = run_onnxruntime(converted, x.numpy())
    session = Session(converted)
    ours = np.concatenate([session.run(None, {"input": image})[0] for image in x[:, None].numpy()])
    assert np.abs(stock - logits).max() < 1e-5 * np.abs(logits).max()
    assert np.abs(ours - logits).max() < 1e-5 * np.abs(logits).max()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("vgg", 3, 10, 32), "unknown model `vgg`: choose from tiny, vgg-binaryconnect, vgg-small"),
        (("tiny", 1, 10, 8, "bc", "bwx"), "unknown mode `bwx`"),
        (("tiny", 1, 10, 8, "bc", "bw", "swish"), "unknown nonlinearity `swish`: choose from relu"),
    ],
)
def test_what_is_not_there_is_refused(arguments, message):
    with pytest.raises(BindeployError, match=message):
        build(*arguments)
