"""The zoo: one architecture a file, and the table of their names, without torch.

A model is an ordinary float network `Model(in_channels, classes, image_size, nonlinearity)`;
`build` makes it binary. Parameter names are those of the reference implementations, so that a
published full-precision checkpoint fits.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from bindeploy.errors import unknown
from bindeploy.train import modes

if TYPE_CHECKING:
    from torch import nn

    from bindeploy.train.quantizers import Quantizer

CIFAR, IMAGENET = (3, 32, 10), (3, 224, 1000)
"""Channels, pixels along an edge and classes for which a network was published."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A row of the zoo: `constructor` is `file:callable` below this folder, imported when built.

    `shape` is (channels, pixels along an edge, classes) of the images it was published for; any
    others that it can take work as well.
    """

    name: str
    constructor: str
    source: str
    shape: tuple[int, int, int]


_ROWS = (
    Model(name="tiny", constructor="tiny:Tiny", source="bindeploy", shape=(1, 8, 10)),
    Model(
        name="vgg-binaryconnect",
        constructor="vgg_binaryconnect:VGGBinaryConnect",
        source="BinaryConnect (2015)",
        shape=CIFAR,
    ),
    Model(
        name="vgg-small",
        constructor="vgg_small:VGGSmall",
        source="IR-Net (2020)",
        shape=CIFAR,
    ),
    Model(
        name="resnet20", constructor="resnet_cifar:resnet20", source="ResNet (2015)", shape=CIFAR
    ),
    Model(
        name="resnet56", constructor="resnet_cifar:resnet56", source="ResNet (2015)", shape=CIFAR
    ),
    Model(
        name="wrn56-2",
        constructor="resnet_cifar:wrn56_2",
        source="Wide Residual Networks (2016)",
        shape=CIFAR,
    ),
    Model(
        name="alexnet",
        constructor="alexnet:AlexNet",
        source="XNOR-Net (2016)",
        shape=IMAGENET,
    ),
    Model(name="resnet18", constructor="resnet:resnet18", source="ResNet (2015)", shape=IMAGENET),
    Model(name="resnet50", constructor="resnet:resnet50", source="ResNet (2015)", shape=IMAGENET),
    Model(
        name="bi-real-18",
        constructor="bi_real:BiReal18",
        source="Bi-Real Net (2018)",
        shape=IMAGENET,
    ),
    Model(
        name="quicknet-small",
        constructor="quicknet:quicknet_small",
        source="Larq Compute Engine (2021)",
        shape=IMAGENET,
    ),
    Model(
        name="quicknet",
        constructor="quicknet:quicknet",
        source="Larq Compute Engine (2021)",
        shape=IMAGENET,
    ),
    Model(
        name="quicknet-large",
        constructor="quicknet:quicknet_large",
        source="Larq Compute Engine (2021)",
        shape=IMAGENET,
    ),
    Model(
        name="reactnet-a",
        constructor="reactnet:ReActNetA",
        source="ReActNet (2020)",
        shape=IMAGENET,
    ),
    Model(name="deit-tiny", constructor="vit:deit_tiny", source="DeiT (2021)", shape=IMAGENET),
    Model(name="deit-small", constructor="vit:deit_small", source="DeiT (2021)", shape=IMAGENET),
    Model(name="deit-base", constructor="vit:deit_base", source="DeiT (2021)", shape=IMAGENET),
    Model(name="vit-base", constructor="vit:vit_base", source="ViT (2021)", shape=IMAGENET),
)

MODELS: dict[str, Model] = {row.name: row for row in _ROWS}
"""Every model by its name."""


def check(name: str) -> Model:
    """The row of the zoo called `name`; BindeployError where there is none."""
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    return MODELS[name]


def build(
    name: str,
    in_channels: int,
    classes: int,
    image_size: int,
    method: str | Quantizer | None = "bnn++",
    mode: str = "bwa",
    nonlinearity: str | None = None,
    **binarization: Any,
) -> nn.Module:
    """The model `name` for images [N, in_channels, image_size, image_size] -> logits [N, classes].

    With `method=None` no layer is binary: the full-precision twin. `nonlinearity` names a row of
    `nonlinearity.NONLINEARITIES` (None: the mode's own). Other arguments (`skip`, `scale`,
    `learned_shift`) go to `binarization.binarize`; what the model itself wants in float (its
    attribute `float_layers`, patterns of names) stays so. Unknown names raise BindeployError.
    """
    module, attribute = check(name).constructor.split(":")
    constructor = getattr(import_module(f"{__name__}.{module}"), attribute)
    chosen = nonlinearity or modes.get(mode).nonlinearity
    model = constructor(in_channels, classes, image_size, chosen)
    if method is None:
        return model
    from bindeploy.train.binarization import binarize

    return binarize(model, method, mode, **binarization)
