"""What methods do to the latents beside the optimizer's step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bindeploy.train import updates
from bindeploy.train.layers import BinaryLinear
from bindeploy.train.quantizers import QUANTIZERS, Quantizer, one, sign


def layer(method: str | Quantizer, values: list[float]) -> BinaryLinear:
    made = BinaryLinear(len(values), 1, method=method, mode="bw", bias=False)
    made.weight.data = torch.tensor([values])
    return made


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def test_latents_are_clipped_where_the_method_says_so():
    for name, largest in (("bnn", 1.0), ("bc", 3.0)):
        made = layer(name, [3.0, -3.0, 0.5])
        updates.after_step(made)
        assert made.weight.tolist() == [[largest, -largest, 0.5]]


def test_rounding_starts_on_the_grid_and_returns_to_it():
    for name in ("r", "sr", "bc-stochastic"):
        made = layer(name, [0.2, -0.3, 0.0])
        updates.start(made)
        assert made.weight.tolist() == [[1, -1, 1]]
    made = layer("r", [0.9, -0.1, 1.2])
    updates.after_step(made)
    assert made.weight.tolist() == [[1, -1, 1]]


def test_stochastic_rounding_keeps_the_mean_and_the_nearest_one_does_not():
    made = layer("sr", [0.8] * 20_000)
    updates.after_step(made)
    assert set(made.weight.unique().tolist()) == {-1, 1}
    assert float(made.weight.detach().mean()) == pytest.approx(0.8, abs=0.02)


def test_a_step_from_w_replaces_the_latent_by_the_used_weight_and_one_from_u_does_not():
    squash = Quantizer("squash", lambda u, mu: u / 2, one, step_from="w")
    plain = Quantizer("plain", lambda u, mu: u / 2, one)
    moved, still = layer(squash, [4.0]), layer(plain, [4.0])
    for each in (moved, still):
        updates.before_step(each)
    assert (moved.weight.item(), still.weight.item()) == (2.0, 4.0)


def test_layers_in_float_are_left_alone():
    model = nn.Sequential(nn.Linear(1, 1), layer("r", [0.5]))
    before = model[0].weight.clone()
    updates.start(model)
    updates.after_step(model)
    assert torch.equal(model[0].weight, before)
    assert model[1].weight.item() == 1


@pytest.mark.parametrize("name", [n for n, row in QUANTIZERS.items() if row.rounding])
def test_what_is_on_the_grid_has_scale_one_and_ships_as_it_trained(name):
    made = layer(name, [0.4, -2.0])
    updates.start(made)
    assert torch.equal(made.soft_weight(), made.filter_scale() * sign(made.weight))
