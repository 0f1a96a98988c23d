"""The zoo: one architecture a file, and the table of their names, without torch.

A model is an ordinary float network `Model(in_channels, classes, image_size, nonlinearity)`;
`build` makes it binary. Parameter names are those of the reference implementations.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from bindeploy.errors import unknown
from bindeploy.train import modes

if TYPE_CHECKING:
    from torch import nn

    from bindeploy.train.quantizers import Quantizer

MODELS: dict[str, str] = {
    "tiny": "bindeploy.train.models.tiny:Tiny",
    "vgg-small": "bindeploy.train.models.vgg_small:VGGSmall",
    "resnet20": "bindeploy.train.models.resnet20:ResNet20",
}
"""Every model by its name, as `module:class`; the module is imported when the model is built."""


def check(name: str) -> None:
    """Raise BindeployError unless `name` is a model of the zoo."""
    if name not in MODELS:
        raise unknown("model", name, MODELS)


def build(
    name: str,
    in_channels: int,
    classes: int,
    image_size: int,
    method: str | Quantizer | None = "bnn++",
    mode: str = "bwa",
) -> nn.Module:
    """The model `name` for images [N, in_channels, image_size, image_size] -> logits [N, classes].

    All layers but the first and the last are binary; with `method=None` none is: the full-precision
    twin. Unknown names raise BindeployError.
    """
    check(name)
    module, attribute = MODELS[name].split(":")
    constructor = getattr(import_module(module), attribute)
    model = constructor(in_channels, classes, image_size, modes.get(mode).nonlinearity)
    if method is None:
        return model
    from bindeploy.train.layers import binarize

    return binarize(model, method, mode)
