"""Every optimizer, the groups of parameters they get, and Bop's flips."""

from __future__ import annotations

import copy
import subprocess
import sys

import lightning.pytorch as lightning
import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from bindeploy.errors import BindeployError
from bindeploy.train.binarization import binarize
from bindeploy.train.bop import Bop
from bindeploy.train.layers import BinaryLinear, binary_layers
from bindeploy.train.optimizers import OPTIMIZERS, build, groups
from bindeploy.train.quantizers import sign

IMAGES = torch.randn(12, 2, 5, 5, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(12) % 3

SHRUNK = {"first.weight", "middle.weight", "last.weight"}
"""What weight decay is for."""


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


class Network(nn.Module):
    """Float and binary layers, BatchNorm, PReLU, a shift, and a position that is no weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.slope = nn.PReLU(4)
        self.middle = nn.Conv2d(4, 4, 3)
        self.position = nn.Parameter(torch.ones(1, 4))
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(self.slope(self.norm(self.first(x))))
        return self.last(x.flatten(1) + self.position)


def network() -> nn.Module:
    torch.manual_seed(0)
    return binarize(Network(), "bc", "bwa", learned_shift=True)


def loss_of(model: nn.Module) -> Tensor:
    return functional.cross_entropy(model(IMAGES), LABELS)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss_of(model).backward()
    optimizer.step()


def assert_same(first: nn.Module, second: nn.Module) -> None:
    for (name, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_the_table_is_readable_without_torch():
    script = (
        "import sys; from bindeploy.train.optimizers import OPTIMIZERS; print(*OPTIMIZERS);"
        "assert 'torch' not in sys.modules"
    )
    output = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert output.stdout.decode().split() == list(OPTIMIZERS)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_lowers_the_loss(name):
    model = network()
    optimizer = build(name, model, 0.02, weight_decay=1e-4)
    before = float(loss_of(model).detach())
    for _ in range(40):
        step(model, optimizer)
    assert float(loss_of(model).detach()) < 0.7 * before


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_is_tensors_alone(name):
    model = network()
    optimizer = build(name, model, 0.02)
    step(model, optimizer)
    rows = optimizer.state_dict()["state"].values()
    assert len(rows) == len(list(model.parameters()))
    assert all(isinstance(value, Tensor) for row in rows for value in row.values())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_restored_optimizer_goes_on_as_an_uninterrupted_one(name):
    def paused(model: nn.Module, steps: int) -> nn.Module:
        optimizer = build(name, model, 0.02, 1e-3)
        for _ in range(steps):
            step(model, optimizer)
        again = network()
        optimizer_again = build(name, again, 0.02, 1e-3)
        again.load_state_dict(model.state_dict())
        optimizer_again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        for _ in range(8 - steps):
            step(again, optimizer_again)
        return again

    assert_same(paused(network(), 8), paused(network(), 3))


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_weight_decay_is_for_weights_alone(name):
    model = network()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = build(name, model, 0.5, weight_decay=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        expected = before[name] * (1 - 0.5 * 0.1) if name in SHRUNK else before[name]
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-6, atol=0)


def test_groups_are_three_in_the_order_of_the_network():
    model = network()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer = build("adam", model, 0.5, weight_decay=0.1)
    found = [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]
    assert sorted(sum(found, [])) == sorted(names.values())
    assert found == [
        ["middle.weight"],
        ["first.weight", "last.weight"],
        [name for name in names.values() if name not in SHRUNK],
    ]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.1, 0.0]
    assert [group["latent"] for group in optimizer.param_groups] == [True, False, False]


def test_a_network_without_binary_layers_has_an_optimizer_too():
    model = nn.Linear(3, 2, bias=False)
    optimizer = build("sgd", model, 0.1)
    model.weight.grad = torch.ones(2, 3)
    before = model.weight.detach().clone()
    optimizer.step()
    assert torch.equal(model.weight.detach(), before - 0.1)


def test_sgd_has_momentum_0_9_without_nesterov():
    weight = nn.Linear(3, 2, bias=False)
    optimizer = build("sgd", weight, 0.1)
    u, b = weight.weight.detach().clone(), torch.zeros(2, 3)
    for _ in range(3):
        weight.weight.grad = g = torch.randn(2, 3)
        optimizer.step()
        b = 0.9 * b + g
        u = u.add(b, alpha=-0.1)
    torch.testing.assert_close(weight.weight.detach(), u, rtol=1e-6, atol=1e-7)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(BindeployError, match="optimizer `lion`: choose from adam, adamw, sgd, bop"):
        build("lion", network(), 0.1)


def latent(model: nn.Module) -> nn.Parameter:
    ((_, layer),) = binary_layers(model)
    return layer.weight


def test_bop_starts_from_the_signs_with_scale_one():
    model = network()
    signs = sign(latent(model).detach())
    build("bop", model, 0.01)
    assert torch.equal(latent(model).detach(), signs)
    ((_, layer),) = binary_layers(model)
    assert torch.equal(layer.filter_scale(), torch.ones(4))


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_bop_is_its_algorithm_and_adam_for_the_rest_bit_for_bit(decay):
    model, twin = network(), network()
    bop = Bop(groups(model, decay), lr=0.01, gamma=0.3, threshold=1e-4)
    adam = torch.optim.Adam(groups(twin, decay)[1:], lr=0.01)
    with torch.no_grad():
        w = latent(twin)
        w.copy_(sign(w))
    m, flips = torch.zeros_like(w), 0
    for _ in range(10):
        step(model, bop)
        w.grad = None
        step(twin, adam)
        with torch.no_grad():
            assert w.grad is not None
            m = ((1 - 0.3) * m).add(w.grad, alpha=0.3)  # rounded as Bop does
            for index in range(w.numel()):
                inertia, weight = float(m.view(-1)[index]), float(w.view(-1)[index])
                if abs(inertia) > 1e-4 and (inertia > 0) == (weight > 0):
                    w.view(-1)[index] = -weight
                    flips += 1
        assert torch.equal(bop.state[latent(model)]["exp_avg"], m)
        assert_same(model, twin)
    assert flips > 10
    assert set(latent(model).detach().unique().tolist()) == {-1.0, 1.0}


def test_bop_without_binary_layers_is_adam_bit_for_bit():
    torch.manual_seed(0)
    model = Network()
    twin = copy.deepcopy(model)
    bop, adam = build("bop", model, 0.01, 1e-3), build("adam", twin, 0.01, 1e-3)
    for _ in range(5):
        step(model, bop)
        step(twin, adam)
    assert_same(model, twin)


def flipped_by(m: float, threshold: float) -> list[float]:
    """Weights [-1, 1] after one step whose running mean is `m`."""
    weight = nn.Parameter(torch.tensor([-1.0, 1.0]))
    bop = Bop([{"params": [weight], "latent": True}], lr=1.0, gamma=0.5, threshold=threshold)
    weight.grad = torch.full((2,), 2 * m)
    bop.step()
    return weight.tolist()


def test_a_weight_flips_only_against_a_mean_of_its_sign_beyond_the_threshold():
    assert flipped_by(0.25, 0.125) == [-1, -1]
    assert flipped_by(-0.25, 0.125) == [1, 1]
    assert flipped_by(0.125, 0.125) == flipped_by(0.0, 0.0) == [-1, 1]
    assert flipped_by(torch.nan, 0.125) == [-1, 1]


def test_weight_decay_leaves_bop_weights_alone():
    weight = nn.Parameter(torch.tensor([-1.0, 1.0]))
    bop = Bop([{"params": [weight], "latent": True, "weight_decay": 0.5}])
    weight.grad = torch.zeros(2)
    bop.step()
    assert weight.tolist() == [-1, 1]


def test_gamma_follows_the_learning_rate():
    weight = nn.Parameter(torch.ones(1))
    bop = Bop([{"params": [weight], "latent": True}], lr=0.01, gamma=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(bop, 1, gamma=0.1)
    m, gammas = 0.0, (0.1, 0.01, 0.001)
    for gamma in gammas:
        weight.grad = torch.full((1,), -1.0)
        bop.step()
        schedule.step()
        m = (1 - gamma) * m - gamma
    assert float(bop.state[weight]["exp_avg"]) == pytest.approx(m, rel=1e-6)


def test_bop_finds_the_signs_that_made_the_data():
    truth = sign(torch.randn(3, 16))
    x = torch.randn(256, 16)
    layer = BinaryLinear(16, 3, bias=False, method="bc", mode="bw")
    bop = Bop([{"params": [layer.weight], "latent": True}], lr=0.01, gamma=0.05, threshold=1e-3)
    assert (layer.weight.detach() != truth).sum() > 10
    for _ in range(60):
        bop.zero_grad()
        functional.mse_loss(layer(x), x @ truth.T).backward()
        bop.step()
    assert torch.equal(layer.weight.detach(), truth)


class Module(lightning.LightningModule):
    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.model, self.name = model, name

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        return functional.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self):
        return build(self.name, self.model, 0.02)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.filterwarnings("ignore")
def test_lightning_steps_as_a_loop_of_ones_own(name, tmp_path):
    """Lightning hands the optimizer a closure that computes the gradients."""
    model, twin = network(), network()
    data = torch.utils.data.TensorDataset(IMAGES, LABELS)
    trainer = lightning.Trainer(
        max_epochs=5,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(Module(model, name), torch.utils.data.DataLoader(data, batch_size=12))
    optimizer = build(name, twin, 0.02)
    for _ in range(5):
        step(twin, optimizer)
    assert_same(model, twin)
