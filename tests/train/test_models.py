"""The zoo: shapes, names, parameters and multiply-accumulates."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bindeploy.errors import BindeployError
from bindeploy.train.layers import BinaryConv2d, BinaryLayer, BinaryLinear, binary_layers
from bindeploy.train.models import MODELS, build
from bindeploy.train.models.nonlinearity import NONLINEARITIES
from bindeploy.train.modes import MODES


def counts(model: nn.Module, shape: tuple[int, int, int]) -> dict[str, dict[str, int]]:
    """Multiply-accumulates and parameters, binary and float apart."""
    macs = {"binary": 0, "float": 0}

    def count(layer: nn.Conv2d | nn.Linear, inputs: object, output: torch.Tensor) -> None:
        places = output[0, 0].numel() if isinstance(layer, nn.Conv2d) else 1
        kind = "binary" if isinstance(layer, BinaryLayer) else "float"
        macs[kind] += places * layer.weight.numel()

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    model.eval()(torch.zeros(1, *shape))
    binary = sum(layer.weight.numel() for _, layer in binary_layers(model))
    everything = sum(parameter.numel() for parameter in model.parameters())
    return {"macs": macs, "parameters": {"binary": binary, "float": everything - binary}}


def test_vgg_small_has_the_published_size():
    size = counts(build("vgg-small", 3, 10, 32), (3, 32, 32))
    assert size["macs"] == {"binary": 603_979_776, "float": 3_620_864}
    assert size["parameters"] == {"binary": 4_571_136, "float": 88_970}


def test_resnet20_has_the_published_size():
    size = counts(build("resnet20", 3, 10, 32), (3, 32, 32))
    assert size["macs"] == {"binary": 40_108_032, "float": 443_008}
    assert size["parameters"] == {"binary": 267_264, "float": 2_458}


def test_tiny_is_tiny_and_has_every_kind_of_binary_layer():
    model = build("tiny", 1, 10, 8)
    assert sum(parameter.numel() for parameter in model.parameters()) == 45_354
    kinds = [type(layer) for _, layer in binary_layers(model)]
    assert kinds == [BinaryConv2d, BinaryConv2d, BinaryLinear]


def test_parameters_have_the_names_of_the_reference_implementations():
    vgg = build("vgg-small", 3, 10, 32).state_dict()
    assert [name for name in vgg if name.endswith("weight") and "bn" not in name] == [
        *(f"conv{index}.weight" for index in range(6)),
        "fc.weight",
    ]
    resnet = build("resnet20", 3, 10, 32).state_dict()
    blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in (0, 1, 2)]
    expected = {f"{block}.conv{index}.weight" for block in blocks for index in (1, 2)}
    convolutions = {name for name in resnet if ".conv" in name}
    assert convolutions == expected
    assert {"conv1.weight", "bn1.weight", "linear.weight", "linear.bias"} <= resnet.keys()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("channels, size", [(1, 28), (3, 32)])
def test_every_model_runs_at_the_sizes_of_the_datasets(name, mode, channels, size):
    model = build(name, channels, 7, size, "bnn++", mode).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, channels, size, size)).shape == (1, 7)


def test_the_float_twin_has_the_same_parameters_and_no_binary_layer():
    twin, binary = build("resnet20", 3, 10, 32, None), build("resnet20", 3, 10, 32)
    assert twin.state_dict().keys() == binary.state_dict().keys()
    assert not list(binary_layers(twin))


def test_the_shortcut_of_a_widening_block_is_every_second_pixel_between_zeros():
    block = build("resnet20", 3, 10, 32).layer2[0]
    x = torch.randn(1, 16, 6, 6)
    shortcut = block.shortcut(x)
    assert torch.equal(shortcut[:, 8:24], x[:, :, ::2, ::2])
    assert shortcut.shape == (1, 32, 3, 3)
    assert float(shortcut[:, :8].abs().sum() + shortcut[:, 24:].abs().sum()) == 0


def test_every_mode_has_a_known_nonlinearity():
    assert {mode.nonlinearity for mode in MODES.values()} == NONLINEARITIES.keys()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("vgg", 3, 10, 32), "unknown model `vgg`: choose from tiny, vgg-small, resnet20"),
        (("vgg-small", 1, 10, 7), "image size `7` is too small for vgg-small"),
        (("tiny", 1, 10, 3), "image size `3` is too small for tiny"),
        (("tiny", 1, 10, 8, "bc", "bwaa"), "unknown mode `bwaa`"),
    ],
)
def test_what_is_not_there_is_refused(arguments, message):
    with pytest.raises(BindeployError, match=message):
        build(*arguments)
