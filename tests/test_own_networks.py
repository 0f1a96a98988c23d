"""Networks as people bring them: torch, its conversion, and every engine give the same integers.

None is trained: weights and statistics are drawn at random, BatchNorm slopes of 0 and below
included. What the runtime does not run it refuses in a line that names the node, and the other
engines still agree on the file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from bindeploy import Session, binarize, target
from bindeploy.convert import convert
from bindeploy.convert.engines import run_numpy, run_onnxruntime
from bindeploy.convert.golden import MARGIN, select
from bindeploy.convert.integers import PREFIX, with_integers
from bindeploy.errors import BindeployError
from bindeploy.train.layers import BinaryConv2d, BinarySign
from bindeploy.train.states import harden
from bindeploy.train.to_onnx import evaluate, export

CANDIDATES, IMAGES = 48, 5


class Residual(nn.Module):
    """join(shortcut(x), body(x)), the sum by default."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None, join=torch.add) -> None:
        super().__init__()
        self.body, self.shortcut, self.join = body, shortcut or nn.Identity(), join

    def forward(self, x: Tensor) -> Tensor:
        return self.join(self.shortcut(x), self.body(x))


class Call(nn.Module):
    """A function of tensors as a module, as one writes it in `forward`."""

    def __init__(self, function: Callable[..., Tensor], *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        self.learned = nn.ParameterList(torch.zeros(shape) for shape in shapes)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.learned)


def sequence(*modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(*modules)


def concatenated(left: Tensor, right: Tensor) -> Tensor:
    return torch.cat([left, right], 1)


def nothing(name: str, module: nn.Module) -> bool:
    """A `skip` that makes every layer binary."""
    return False


def first(name: str, module: nn.Module) -> bool:
    """A `skip` for networks that end in a binary layer."""
    return name == "0"


def randomize(network: nn.Module) -> nn.Module:
    """Random parameters and statistics; the first slopes of a BatchNorm are 0, 0, and negative."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        fan_in = parameter[0].numel() if parameter.dim() else 1
        parameter.data.normal_(0, fan_in**-0.5, generator=generator)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.3, 3, generator=generator)
            module.weight.data[:3] = torch.tensor([0.0, 0.0, -0.7])[: len(module.weight)]
            module.bias.data[0] = 0
    return network


class Case(NamedTuple):
    network: Callable[[], nn.Module]
    image: tuple[int, ...]
    """The shape of one input."""

    options: dict = {}
    """Of `binarize`; its `skip` is first_and_last unless given."""


CONVOLUTIONS = {
    "channels 1 to 130": Case(
        lambda: sequence(
            *(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3)),
            *(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5)),
            *(nn.Conv2d(5, 33, (1, 3), padding=(0, 1)), nn.BatchNorm2d(33)),
            *(nn.Conv2d(33, 65, 3, padding=1), nn.BatchNorm2d(65)),
            *(nn.Conv2d(65, 130, 5, stride=2, padding=2), nn.BatchNorm2d(130)),
            *(nn.Conv2d(130, 4, 1), nn.BatchNorm2d(4)),
            *(nn.Flatten(), nn.Linear(4 * 3 * 4, 6)),
        ),
        (1, 5, 8),
    ),
    "stride, dilation, uneven padding": Case(
        lambda: sequence(
            nn.Conv2d(3, 33, 3, padding=1),
            nn.Conv2d(33, 20, 3, stride=(2, 1), padding=(2, 1), dilation=(2, 1), bias=False),
            nn.Conv2d(20, 33, 5, stride=2, padding=(0, 3)),
            nn.Conv2d(33, 7, (2, 4), padding="same"),
            *(nn.Flatten(), nn.Linear(7 * 2 * 6, 4)),
        ),
        (3, 13, 10),
    ),
    "pads that add nothing": Case(
        lambda: sequence(
            nn.Conv2d(3, 33, 3, padding=1),
            BinaryConv2d(33, 65, 3, padding=1, pad_value=0),
            nn.BatchNorm2d(65),
            BinaryConv2d(65, 9, 5, stride=2, padding=(4, 2), dilation=(2, 1), pad_value=0),
            BinaryConv2d(9, 33, (1, 3), padding=(0, 2), pad_value=1, bias=False),
            nn.Conv2d(33, 5, 1),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)),
        ),
        (3, 9, 6),
    ),
    "binary from the pixels to the classes": Case(
        lambda: sequence(
            *(nn.Conv2d(3, 40, 3, padding=1), nn.BatchNorm2d(40)),
            *(nn.Conv2d(40, 20, 3), nn.BatchNorm2d(20)),
            *(nn.Flatten(), nn.Linear(20 * 3 * 5, 4)),
        ),
        (3, 5, 7),
        {"skip": nothing},
    ),
    "float activations": Case(
        lambda: sequence(
            *(nn.Conv2d(3, 33, 3, padding=1), nn.BatchNorm2d(33), nn.ReLU()),
            *(nn.Conv2d(33, 65, 3, stride=2, padding=1), nn.BatchNorm2d(65), nn.ReLU()),
            *(nn.MaxPool2d(2), nn.Conv2d(65, 5, 3, padding=2, dilation=2, bias=False)),
            *(nn.Flatten(), nn.Linear(5 * 2 * 3, 20), nn.BatchNorm1d(20), nn.Linear(20, 4)),
        ),
        (3, 8, 11),
        {"mode": "bw"},
    ),
    "some layers left float": Case(
        lambda: sequence(
            *(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)),
            *(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 24, 3, padding=1), nn.BatchNorm2d(24)),
            *(nn.Conv2d(24, 16, 1), nn.BatchNorm2d(16)),
            *(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16 * 2 * 3, 12), nn.Linear(12, 4)),
        ),
        (3, 4, 6),
        {"skip": lambda name, module: name not in ("0", "7", "13")},
    ),
}

BETWEEN = {
    "max pool before BatchNorm": Case(
        lambda: sequence(
            nn.Conv2d(1, 33, 3, padding=1),
            *(nn.Conv2d(33, 40, 3, padding=1), nn.MaxPool2d(2), nn.BatchNorm2d(40)),
            *(nn.Conv2d(40, 65, 3), nn.MaxPool2d(3, 2, 1), nn.BatchNorm2d(65), nn.Hardtanh()),
            *(nn.Conv2d(65, 9, 1), nn.MaxPool2d((1, 2)), nn.BatchNorm2d(9)),
            *(nn.Flatten(), nn.Linear(9, 4)),
        ),
        (1, 9, 12),
    ),
    "max pool after BatchNorm": Case(
        lambda: sequence(
            nn.Conv2d(1, 33, 3, padding=1),
            *(nn.Conv2d(33, 40, 3, padding=1), nn.BatchNorm2d(40), nn.MaxPool2d(2)),
            *(nn.Conv2d(40, 65, 3), nn.BatchNorm2d(65), nn.Hardtanh(), nn.MaxPool2d((1, 3), 1)),
            *(nn.Conv2d(65, 9, 1), nn.MaxPool2d(3, 2, 1, ceil_mode=True)),
            *(nn.Conv2d(9, 9, 1), nn.BatchNorm2d(9), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(9, 4)),
        ),
        (1, 9, 12),
    ),
    "average pools": Case(
        lambda: sequence(
            nn.Conv2d(3, 33, 3, padding=1),
            *(nn.Conv2d(33, 40, 3, padding=1), nn.AvgPool2d(2), nn.BatchNorm2d(40)),
            *(nn.Conv2d(40, 20, 1), nn.BatchNorm2d(20), nn.AvgPool2d(3, 2, 1)),
            *(nn.Conv2d(20, 20, 1), nn.AvgPool2d((1, 2), count_include_pad=False)),
            *(nn.Conv2d(20, 7, 1), nn.AdaptiveAvgPool2d(1)),
            *(Call(lambda x: x.squeeze(-1).squeeze(-1)), nn.Linear(7, 4)),
        ),
        (3, 8, 12),
    ),
    "activations and their absence": Case(
        lambda: sequence(
            *(nn.Conv2d(3, 33, 3, padding=1), nn.BatchNorm2d(33), nn.ReLU(inplace=True)),
            *(nn.Conv2d(33, 20, 3), nn.BatchNorm2d(20), nn.Hardtanh(), nn.Dropout(0.5)),
            *(nn.Conv2d(20, 33, 1), nn.Hardtanh(-0.5, 2.0), nn.Identity(), nn.Dropout2d()),
            *(nn.Conv2d(33, 20, 1), nn.BatchNorm2d(20), nn.ReLU()),
            *(nn.Conv2d(20, 33, 3, padding=1), nn.BatchNorm2d(33), nn.ReLU6(), BinarySign()),
            *(nn.Conv2d(33, 9, 1), nn.Hardtanh(0.0, 1.0)),
            *(nn.Conv2d(9, 9, 1), nn.BatchNorm2d(9), nn.ReLU()),
            *(nn.Flatten(), nn.Dropout(), nn.Linear(9 * 2 * 4, 4)),
        ),
        (3, 4, 6),
    ),
    "normalized twice, and before the first layer": Case(
        lambda: sequence(
            *(nn.BatchNorm2d(3), nn.Conv2d(3, 33, 3, padding=1), nn.BatchNorm2d(33)),
            *(nn.BatchNorm2d(33), nn.Conv2d(33, 20, 3), nn.BatchNorm2d(20), nn.BatchNorm2d(20)),
            *(nn.Conv2d(20, 9, (2, 4)), nn.BatchNorm2d(9, eps=0.1), nn.Flatten()),
            *(nn.BatchNorm1d(9), nn.Linear(9, 4), nn.BatchNorm1d(4)),
        ),
        (3, 4, 6),
    ),
    "learned shifts and scales": Case(
        lambda: sequence(
            *(nn.Conv2d(3, 33, 3, padding=1), Call(torch.add, (1, 33, 1, 1))),
            *(nn.Conv2d(33, 20, 3), Call(torch.mul, (20, 1, 1)), Call(torch.sub, (1, 20, 1, 1))),
            *(nn.Conv2d(20, 9, 1), Call(lambda x: 2 * x - 0.5), nn.BatchNorm2d(9)),
            *(nn.Conv2d(9, 9, 1), Call(lambda x: functional.relu(x / 3))),
            *(Call(lambda x: x.mean((2, 3))), nn.Linear(9, 4)),
        ),
        (3, 4, 6),
    ),
}

SHAPES = {
    "dense layers alone": Case(
        lambda: sequence(
            *(nn.Linear(21, 65), nn.BatchNorm1d(65)),
            *(nn.Linear(65, 130), nn.BatchNorm1d(130), nn.Hardtanh()),
            nn.Linear(130, 33),
            *(nn.Linear(33, 5, bias=False), nn.BatchNorm1d(5)),
            nn.Linear(5, 3),
        ),
        (21,),
    ),
    "flattened from a map that is not square": Case(
        lambda: sequence(
            *(nn.Conv2d(1, 33, 3, padding=1), nn.Conv2d(33, 5, 3), nn.BatchNorm2d(5)),
            *(nn.Flatten(), nn.Linear(5 * 3 * 6, 65), nn.BatchNorm1d(65), nn.Linear(65, 4)),
        ),
        (1, 5, 8),
    ),
    "reshaped by hand, from floats": Case(
        lambda: sequence(
            *(nn.Conv2d(1, 33, 3, padding=1), nn.MaxPool2d(2)),
            *(Call(lambda x: x.view(x.size(0), -1)), nn.Linear(33 * 2 * 4, 20), nn.ReLU()),
            *(Call(lambda x: x.reshape(-1, 20)), nn.Linear(20, 4)),
        ),
        (1, 5, 8),
    ),
    "ends in a binary map": Case(
        lambda: sequence(
            *(nn.Conv2d(3, 33, 3), nn.Conv2d(33, 20, 3), nn.BatchNorm2d(20), nn.Conv2d(20, 4, 1)),
        ),
        (3, 6, 7),
        {"skip": first},
    ),
    "ends in one normalized pixel": Case(
        lambda: sequence(
            *(nn.Conv2d(3, 33, 3), nn.Conv2d(33, 20, (2, 3)), nn.BatchNorm2d(20), nn.ReLU()),
        ),
        (3, 4, 5),
        {"skip": first},
    ),
    "ends in signs": Case(
        lambda: sequence(
            *(nn.Conv2d(3, 33, 3), nn.Conv2d(33, 9, 3), nn.BatchNorm2d(9), BinarySign()),
        ),
        (3, 6, 7),
        {"skip": first},
    ),
}


def block(channels: int, filters: int, stride: int = 1) -> nn.Sequential:
    return sequence(nn.Conv2d(channels, filters, 3, stride, 1, bias=False), nn.BatchNorm2d(filters))


def shared_modules() -> nn.Module:
    """Modules without binary weights may stand in several places."""
    normalize, activate, float_layer = nn.BatchNorm2d(9), nn.Hardtanh(), nn.Conv2d(9, 9, 1)
    left, right = nn.Conv2d(9, 9, 3, padding=1), nn.Conv2d(9, 9, 1)
    return sequence(
        *(nn.Conv2d(3, 9, 3), normalize, activate, left, normalize, activate, float_layer),
        *(right, normalize, activate, float_layer, nn.Flatten(), nn.Linear(9 * 2 * 4, 4)),
    )


BRANCHES = {
    "residuals read as floats and as signs": Case(
        lambda: sequence(
            *(nn.Conv2d(3, 33, 3, padding=1), nn.BatchNorm2d(33)),
            Residual(sequence(block(33, 33), nn.Hardtanh(), block(33, 33))),
            Residual(
                block(33, 65, 2),
                sequence(nn.AvgPool2d(2), nn.Conv2d(33, 65, 1), nn.BatchNorm2d(65)),
            ),
            nn.ReLU(),
            Residual(block(65, 65)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(65, 4)),
        ),
        (3, 6, 8),
    ),
    "activation before the layer": Case(
        lambda: sequence(
            nn.Conv2d(3, 33, 3, padding=1),
            Residual(sequence(nn.BatchNorm2d(33), nn.Conv2d(33, 33, 3, padding=1))),
            Residual(sequence(nn.BatchNorm2d(33), nn.ReLU(), nn.Conv2d(33, 33, 1))),
            *(nn.BatchNorm2d(33), nn.Flatten(), nn.Linear(33 * 3 * 5, 4)),
        ),
        (3, 3, 5),
    ),
    "signs read by two layers": Case(
        lambda: sequence(
            *(nn.Conv2d(3, 33, 3, padding=1), nn.Conv2d(33, 20, 3), nn.BatchNorm2d(20)),
            Residual(nn.Conv2d(20, 9, 3, padding=1), nn.Conv2d(20, 9, 1)),
            Residual(nn.MaxPool2d(3, 1, 1), BinarySign()),
            *(nn.Flatten(), nn.Linear(9 * 2 * 4, 4)),
        ),
        (3, 4, 6),
    ),
    "shared float modules": Case(
        shared_modules, (3, 4, 6), {"skip": lambda name, module: name in ("0", "6", "12")}
    ),
    "shortcut by slice and zero channels": Case(
        lambda: sequence(
            *(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)),
            Residual(
                block(16, 32, 2),
                Call(lambda x: functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8))),
            ),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4)),
        ),
        (3, 5, 8),
    ),
    "concatenation": Case(
        lambda: sequence(
            nn.Conv2d(3, 9, 3, padding=1),
            Residual(block(9, 9), join=concatenated),
            *(nn.Conv2d(18, 9, 1), nn.BatchNorm2d(9), nn.Conv2d(9, 4, 1)),
        ),
        (3, 4, 5),
    ),
    "groups": Case(
        lambda: sequence(
            *(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8)),
            *(nn.Conv2d(8, 12, 1, groups=2), nn.Flatten(), nn.Linear(12 * 2 * 3, 4)),
        ),
        (3, 4, 5),
    ),
    "slopes and shifts": Case(
        lambda: sequence(
            *(nn.Conv2d(3, 9, 3), nn.PReLU(9), nn.Conv2d(9, 9, 1), nn.BatchNorm2d(9)),
            *(nn.LeakyReLU(0.1), nn.Conv2d(9, 9, 1), nn.PReLU(9), nn.Hardsigmoid()),
            *(nn.Flatten(), nn.BatchNorm1d(9 * 6), nn.Linear(9 * 6, 4)),
        ),
        (3, 4, 5),
    ),
}


class Refused(NamedTuple):
    case: Case
    message: str
    """What the runtime says, a pattern."""


WIDE = {
    "tokens": Case(
        lambda: sequence(
            *(nn.Conv2d(3, 9, 3), Call(lambda x: x.flatten(2).transpose(1, 2))),
            *(nn.Linear(9, 33), nn.Linear(33, 9), nn.Flatten(), nn.Linear(9 * 6, 4)),
        ),
        (3, 4, 5),
    ),
    "other activations": Case(
        lambda: sequence(
            *(nn.Conv2d(3, 9, 3), nn.PReLU(9), nn.Conv2d(9, 9, 1), nn.BatchNorm2d(9)),
            *(nn.GELU(), nn.Flatten(), nn.Linear(9 * 6, 4), nn.LogSoftmax(1)),
        ),
        (3, 4, 5),
    ),
}

REFUSED = {
    "other sizes": Refused(
        Case(
            lambda: sequence(
                *(nn.Conv2d(3, 9, 3), nn.Conv2d(9, 9, 1), nn.Upsample(scale_factor=2)),
                *(nn.Flatten(), nn.Linear(9 * 24, 4)),
            ),
            (3, 4, 5),
        ),
        "the runtime has no `Resize` .node `.+`.; it runs ",
    ),
}

RUN = CONVOLUTIONS | BETWEEN | SHAPES | BRANCHES | WIDE


class Road:
    """A case on its way: the torch network, its ONNX graphs, and what torch computes."""

    def __init__(self, case: Case) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.network = randomize(binarize(case.network(), **case.options)).eval()
            candidates = torch.randn(CANDIDATES, *case.image)
        self.latent = export(self.network, candidates[:2])
        chosen = select(self.latent, candidates.numpy(), IMAGES)
        assert len(chosen.indices) == IMAGES and chosen.margin >= MARGIN
        self.images = candidates.numpy()[chosen.indices]
        self.logits, self.integers = evaluate(harden(self.network), self.images)
        self.packed = convert(self.latent)

    def agrees(self, logits: np.ndarray, integers: dict[str, np.ndarray], count: int) -> None:
        """Integers equal, logits to 1e-4, classes equal, for the first `count` images."""
        assert integers.keys() == self.integers.keys()
        for name, expected in self.integers.items():
            found = integers[name]
            if expected.ndim == 3 and found.shape[1] == expected.shape[2]:
                found = np.moveaxis(found, 1, -1)  # rows of a dense layer, pixels in the runtime
            found = found.reshape(expected[:count].shape)
            np.testing.assert_array_equal(found, expected[:count], err_msg=name)
        np.testing.assert_allclose(
            logits, self.logits[:count].reshape(logits.shape), rtol=0, atol=1e-4
        )
        assert np.array_equal(classes(logits), classes(self.logits[:count]))


def classes(logits: np.ndarray) -> np.ndarray:
    return logits.reshape(len(logits), -1).argmax(1)


@pytest.mark.parametrize("name", RUN)
def test_every_engine_gives_the_integers_of_torch(name):
    road = Road(RUN[name])
    for count in (IMAGES, 1):
        images = road.images[:count]
        road.agrees(*run_onnxruntime(road.latent, images), count)
        road.agrees(*run_onnxruntime(road.packed, images), count)
        road.agrees(*run_numpy(road.packed, images), count)
        with Session(road.packed) as session:
            (logits,) = session.run(None, {"input": images})
            assert logits.shape == road.logits[:count].shape
            road.agrees(logits, session.integers(images), count)
    assert all(np.ptp(array) > 0 for array in road.integers.values())


@pytest.mark.parametrize("name", [*RUN, *REFUSED])
def test_tvm_gives_the_integers_of_torch(name, tmp_path):
    pytest.importorskip("tvm", reason="tvm is not installed: pip install 'bindeploy[tvm]'")
    from bindeploy.emit.tvm.compiler import write_module
    from bindeploy.emit.tvm.machine import Machine

    road = Road(RUN[name] if name in RUN else REFUSED[name].case)
    proto, names = with_integers(road.packed)
    write_module(ir.from_proto(proto), target.load("host"), tmp_path / "module.so")
    logits, *found = Machine(tmp_path / "module.so").run(road.images[:1])
    integers = {name.removeprefix(PREFIX): array for name, array in zip(names, found, strict=True)}
    road.agrees(logits, integers, 1)


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_runtime_refuses_in_a_line_other_engines_run(name):
    case, message = REFUSED[name]
    road = Road(case)
    road.agrees(*run_onnxruntime(road.packed, road.images), IMAGES)
    road.agrees(*run_numpy(road.packed, road.images), IMAGES)
    with pytest.raises(BindeployError, match=message) as error:
        Session(road.packed)
    assert "\n" not in str(error.value)
