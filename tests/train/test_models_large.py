"""QuickNet, ReActNet and the vision transformers: published sizes, names, formulas, export."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as functional
from torch import nn

from bindeploy.convert import convert
from bindeploy.convert.engines import run_onnxruntime
from bindeploy.errors import BindeployError
from bindeploy.train.binarization import binarize
from bindeploy.train.layers import BinaryLayer, binary_layers
from bindeploy.train.models import build
from bindeploy.train.models.quicknet import QuickNet
from bindeploy.train.models.reactnet import Block, FirstConvolution
from bindeploy.train.models.vit import Attention, VisionTransformer
from bindeploy.train.states import harden
from bindeploy.train.to_onnx import evaluate, export

QUICKNETS = ("quicknet-small", "quicknet", "quicknet-large")
TRANSFORMERS = ("deit-tiny", "deit-small", "deit-base", "vit-base")
NAMES = (*QUICKNETS, "reactnet-a", *TRANSFORMERS)


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def on_meta(name: str, channels: int = 3, classes: int = 1000, size: int = 224, method="bnn++"):
    with torch.device("meta"):
        return build(name, channels, classes, size, method)


def layer_counts(name: str) -> tuple[int, int, int, int]:
    """Multiply-accumulates and weights of convolutions and dense layers: binary, float, each."""
    model = on_meta(name)
    macs, weights = {True: 0, False: 0}, {True: 0, False: 0}

    def count(layer: nn.Conv2d | nn.Linear, inputs: object, output: torch.Tensor) -> None:
        one = layer.weight[0].numel()
        macs[isinstance(layer, BinaryLayer)] += output.numel() * one
        weights[isinstance(layer, BinaryLayer)] += layer.weight.numel()

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    model.eval()(torch.empty(1, 3, 224, 224, device="meta"))
    return macs[True], macs[False], weights[True], weights[False]


def quicknet_counts(filters: list[int], blocks: list[int]) -> tuple[int, int, int, int]:
    """The same from the table of the paper: filters and blocks of four sections."""
    edges, stem = [56, 28, 14, 7], filters[0] // 4
    weights = [9 * c * c * count for c, count in zip(filters, blocks, strict=True)]
    floats = [(27 * stem, 112), (9 * stem, 56), (stem * filters[0], 56)]
    for before, after, edge in zip(filters, filters[1:], edges[1:], strict=False):
        floats += [(9 * before, edge), (before * after, edge)]  # blur, pointwise
    floats.append((1000 * filters[-1], 1))
    return (
        sum(w * edge**2 for w, edge in zip(weights, edges, strict=True)),
        sum(w * edge**2 for w, edge in floats),
        sum(weights),
        sum(w for w, _ in floats),
    )


@pytest.mark.parametrize(
    "name, expected",
    [
        ("quicknet-small", quicknet_counts([32, 64, 256, 512], [4, 4, 4, 4])),
        ("quicknet", quicknet_counts([64, 128, 256, 512], [4, 4, 4, 4])),
        ("quicknet-large", quicknet_counts([64, 128, 256, 512], [6, 8, 12, 6])),
        ("reactnet-a", (4_816_896_000, 11_862_016, 28_253_184, 864 + 1_024_000)),
        ("deit-tiny", (1_045_757_952, 29_093_376, 5_308_416, 147_456 + 192_000)),
        ("deit-small", (4_183_031_808, 58_186_752, 21_233_664, 294_912 + 384_000)),
        ("deit-base", (16_732_127_232, 116_373_504, 84_934_656, 589_824 + 768_000)),
        ("vit-base", (16_732_127_232, 116_373_504, 84_934_656, 589_824 + 768_000)),
    ],
)
def test_layers_have_the_published_sizes(name, expected):
    assert layer_counts(name) == expected


@pytest.mark.parametrize(
    "name, published",
    [("deit-tiny", 5_717_416), ("deit-small", 22_050_664), ("deit-base", 86_567_656)],
)
def test_transformers_have_as_many_parameters_as_the_published_checkpoints(name, published):
    assert sum(parameter.numel() for parameter in on_meta(name).parameters()) == published


def timm_names(depth: int) -> set[str]:
    layers = ["norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"]
    modules = [f"blocks.{block}.{layer}" for block in range(depth) for layer in layers]
    modules += ["patch_embed.proj", "norm", "head"]
    return {"cls_token", "pos_embed"} | {f"{m}.{p}" for m in modules for p in ("weight", "bias")}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_have_the_parameter_names_of_timm(name):
    state = on_meta(name).state_dict()
    assert state.keys() == timm_names(12)
    width = state["norm.weight"].shape[0]
    assert state["pos_embed"].shape == (1, 197, width)
    assert state["patch_embed.proj.weight"].shape == (width, 3, 16, 16)
    assert state["blocks.11.attn.qkv.weight"].shape == (3 * width, width)
    assert state["blocks.0.mlp.fc1.weight"].shape == (4 * width, width)


def reactnet_shapes() -> dict[str, tuple[int, ...]]:
    """Every parameter of the authors' network with float weights, `mobilenet/1_step1`."""
    channels = [32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024]
    shapes = {
        "feature.0.conv1.weight": (32, 3, 3, 3),
        "fc.weight": (1000, 1024),
        "fc.bias": (1000,),
    }
    shapes |= {"feature.0.bn1.weight": (32,), "feature.0.bn1.bias": (32,)}
    for index in range(1, 14):
        c, out = channels[index - 1], channels[index]
        block = {f"move{move}.bias": (1, c, 1, 1) for move in (11, 12, 13, 21)}
        block |= {f"move{move}.bias": (1, out, 1, 1) for move in (22, 23)}
        block |= {"binary_3x3.weight": (c, c, 3, 3), "prelu1.weight": (c,)}
        norms = ["bn1"]
        if c == out:
            block["binary_pw.weight"] = (c, c, 1, 1)
            norms.append("bn2")
        else:
            block |= {f"binary_pw_down{half}.weight": (c, c, 1, 1) for half in (1, 2)}
            norms += ["bn2_1", "bn2_2"]
        block |= {f"{norm}.{kind}": (c,) for norm in norms for kind in ("weight", "bias")}
        block["prelu2.weight"] = (out,)
        shapes |= {f"feature.{index}.{name}": shape for name, shape in block.items()}
    return shapes


def test_reactnet_has_the_parameter_names_of_its_authors():
    parameters = dict(on_meta("reactnet-a").named_parameters())
    assert {name: tuple(p.shape) for name, p in parameters.items()} == reactnet_shapes()


def test_only_convolutions_in_the_sections_of_quicknet_are_binary():
    names = [name for name, _ in binary_layers(on_meta("quicknet"))]
    sections = [(0, 0), (1, 1), (2, 1), (3, 1)]
    assert names == [
        f"sections.{section}.{first + index}.conv"
        for section, first in sections
        for index in range(4)
    ]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels, classes, size", [(1, 7, 64), (4, 3, 96), (3, 10, 32)])
def test_other_images_and_classes_fit(name, channels, classes, size):
    model = on_meta(name, channels, classes, size).eval()
    images = torch.empty(2, channels, size, size, device="meta")
    assert model(images).shape == (2, classes)


@pytest.mark.parametrize("size", [29, 50, 75])
def test_quicknet_takes_images_of_any_size_above_its_smallest(size):
    model = on_meta("quicknet-small", size=size).eval()
    assert model(torch.empty(1, 3, size, size, device="meta")).shape == (1, 1000)


@pytest.mark.parametrize(
    "name, size, message",
    [
        ("quicknet", 28, "image size `28` is too small for quicknet: give 29 or more"),
        ("quicknet-large", 0, "image size `0` is too small for quicknet: give 29 or more"),
        ("reactnet-a", 48, "image size `48` does not fit reactnet-a: give a multiple of 32"),
        ("reactnet-a", 0, "image size `0` does not fit reactnet-a: give a multiple of 32"),
        (
            "deit-tiny",
            28,
            "image size `28` does not fit a vision transformer: give a multiple of 1",
        ),
        ("vit-base", 0, "image size `0` does not fit a vision transformer: give a multiple of 16"),
    ],
)
def test_images_that_do_not_fit_are_refused_in_one_line(name, size, message):
    with pytest.raises(BindeployError, match=message) as caught:
        on_meta(name, size=size)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["quicknet-small", "reactnet-a", "deit-tiny"])
def test_a_gradient_reaches_every_parameter_but_the_fixed_blur(name):
    model = build(name, 3, 5, 32)
    logits = model(torch.randn(4, 3, 32, 32))
    functional.cross_entropy(logits, torch.tensor([0, 1, 2, 3])).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    missed = [name for name, grad in gradients.items() if grad is None or not grad.any()]
    blurs = [f"sections.{section}.0.blur.weight" for section in (1, 2, 3)]
    assert missed == (blurs if name == "quicknet-small" else [])
    assert all(grad.isfinite().all() for grad in gradients.values() if grad is not None)


def test_attention_is_that_of_torch():
    attention, x = Attention(128), torch.randn(2, 5, 128)
    expected, _ = functional.multi_head_attention_forward(
        *3 * (x.transpose(0, 1),),
        128,
        2,
        attention.qkv.weight,
        attention.qkv.bias,
        None,
        None,
        False,
        0.0,
        attention.proj.weight,
        attention.proj.bias,
    )
    assert torch.allclose(attention(x), expected.transpose(0, 1), atol=1e-6)


def test_the_class_token_and_the_patches_have_their_positions():
    model, x = VisionTransformer(3, 5, 32, "relu", width=64, depth=1), torch.randn(2, 3, 32, 32)
    patch = model.patch_embed.proj.weight.flatten(1) @ x[1, :, 16:, :16].flatten()
    tokens = model._tokens(x)
    assert tokens.shape == (2, 5, 64)
    assert torch.equal(tokens[1, 0], model.cls_token[0, 0] + model.pos_embed[0, 0])
    expected = patch + model.patch_embed.proj.bias + model.pos_embed[0, 3]
    assert torch.allclose(tokens[1, 3], expected, atol=1e-5)


def test_without_convolutions_a_reactnet_block_is_its_shortcuts_twice_beside_each_other():
    block, x = Block(4, 8, 2).eval(), torch.randn(2, 4, 6, 6)
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            if name.startswith("binary"):
                parameter.zero_()
            elif name.startswith("move"):
                parameter.normal_()
    move = {name: module.bias for name, module in block.named_children() if name[:4] == "move"}
    y = functional.avg_pool2d(x, 2) + move["move12"]
    y = functional.prelu(y, block.prelu1.weight) + move["move13"]
    z = torch.cat([y, y], 1) + move["move22"]
    z = functional.prelu(z, block.prelu2.weight) + move["move23"]
    assert torch.allclose(block(x), z, atol=1e-6)


def test_the_blur_of_quicknet_is_a_fixed_binomial_mean():
    transition = QuickNet(3, 5, 32, "relu", filters=(8, 16), blocks=(1, 1)).sections[1][0]
    kernel = transition.blur.weight
    assert not kernel.requires_grad
    assert (kernel * 16).flatten(1).tolist() == 8 * [[1, 2, 1, 2, 4, 2, 1, 2, 1]]
    assert transition.blur(torch.ones(1, 8, 7, 7))[:, :, 1:-1, 1:-1].eq(1).all()


SMALL = {
    "quicknet": lambda: QuickNet(3, 5, 32, "relu", filters=(8, 12), blocks=(1, 1)),
    "reactnet": lambda: nn.Sequential(
        FirstConvolution(3, 8),
        Block(8, 16, 2),
        Block(16, 16, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    ),
    "vit": lambda: VisionTransformer(3, 5, 32, "relu", width=64, depth=1),
}
"""Of each family, a network as small as has all its parts."""


@pytest.mark.parametrize("family", SMALL)
def test_a_network_of_each_family_is_exported_and_converted(family):
    network = binarize(SMALL[family](), "bnn++", "bwa").eval()
    x = torch.randn(3, 3, 32, 32)
    packed = convert(export(network, x))
    integers = {node.name for node in packed.graph if node.domain == "bindeploy"}
    assert integers == {name for name, _ in binary_layers(network)}
    logits, expected = evaluate(harden(network), x.numpy())
    stock, found = run_onnxruntime(packed, x.numpy())
    assert expected.keys() == found.keys()
    assert abs(stock - logits).max() < 1e-4
