"""BatchNorm statistics measured again on the hard network."""

from __future__ import annotations

import copy
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from torch import nn

from bindeploy.errors import BindeployError
from bindeploy.train.binarization import binarize
from bindeploy.train.recalibration import recalibrated
from bindeploy.train.states import harden, soften

SIZES = (8, 8, 5)
"""Batches of different sizes: pooling weights them by their images."""


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def batches() -> list[torch.Tensor]:
    return [2 * torch.randn(size, 3, 6, 6) + 1 for size in SIZES]


@pytest.fixture
def network() -> nn.Module:
    """Three convolutions, the middle one binary, two BatchNorm layers, a dropout."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 1, bias=False),
        nn.BatchNorm2d(4, momentum=None),
        nn.Dropout(0.5),
        nn.Conv2d(4, 2, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    binarize(model, "bc", "bwa")
    for layer in (model[1], model[3]):
        nn.init.uniform_(layer.weight, 0.5, 2.0)
        nn.init.normal_(layer.bias)
    model(torch.randn(16, 3, 6, 6))  # statistics of other images
    return harden(model)


def state(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def assert_same(network: nn.Module, before: dict[str, torch.Tensor]) -> None:
    after = network.state_dict()
    assert after.keys() == before.keys()
    for name in before:
        assert torch.equal(after[name], before[name]), name


def population(values: list[torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and unbiased variance of each channel over all batches, by numpy."""
    together = np.concatenate([v.detach().numpy().astype(np.float64) for v in values])
    return together.mean((0, 2, 3)), together.var((0, 2, 3), ddof=1)


def test_the_statistics_are_those_of_all_that_a_layer_gets(network, batches):
    first = [network[0](images) for images in batches]
    normalized = [
        functional.batch_norm(x, None, None, network[1].weight, network[1].bias, training=True)
        for x in first
    ]
    second = [network[2](x) for x in normalized]
    with recalibrated(network, batches, len(batches)):
        for layer, values in ((network[1], first), (network[3], second)):
            mean, variance = population(values)
            np.testing.assert_allclose(layer.running_mean, mean, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(layer.running_var, variance, rtol=1e-5)


def test_the_hard_network_is_normalized_by_its_own_sums(network, batches):
    """Within the block a channel has the bias as its mean and the weight as its deviation."""
    network.eval()
    with recalibrated(network, batches, len(batches)), torch.no_grad():
        mean, variance = population([network[:2](images) for images in batches])
    np.testing.assert_allclose(mean, network[1].bias.detach(), atol=1e-5)
    np.testing.assert_allclose(np.sqrt(variance), network[1].weight.detach(), rtol=1e-4)


def test_hard_and_soft_sums_differ(network, batches):
    """What is measured is the state that the network is in."""
    with recalibrated(network, batches, 3):
        hard = network[3].running_var.clone()
    for _, layer in network.named_children():
        if hasattr(layer, "configure"):
            layer.configure("pc", "bwa")
    soften(network)
    with recalibrated(network, batches, 3):
        assert not torch.allclose(network[3].running_var, hard, rtol=0.05)


def test_the_order_of_batches_does_not_matter(network, batches):
    found = []
    for order in (batches, batches[::-1]):
        with recalibrated(network, order, len(batches)):
            found.append(state(network))
    for name in ("1.running_mean", "1.running_var", "3.running_mean", "3.running_var"):
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-6, atol=1e-7)


def test_afterwards_everything_is_what_it_was(network, batches):
    network.train()
    network[4].eval()
    before = state(network)
    modes = [module.training for module in network.modules()]
    with recalibrated(network, batches, 2):
        assert not torch.equal(network[1].running_mean, before["1.running_mean"])
        assert [module.training for module in network.modules()] == modes
    assert_same(network, before)
    assert [module.training for module in network.modules()] == modes
    assert (network[1].momentum, network[3].momentum) == (0.1, None)
    assert not network[1]._forward_pre_hooks


def test_training_goes_on_as_if_nothing_had_happened(network, batches):
    def trained(model: nn.Module, measured: bool) -> dict[str, torch.Tensor]:
        torch.manual_seed(1)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(3):
            for images in batches:
                soften(model).train()
                optimizer.zero_grad()
                model(images).square().mean().backward()
                optimizer.step()
            if measured:
                with recalibrated(harden(model), batches, 2):
                    pass
        return state(model)

    plain = trained(copy.deepcopy(network), measured=False)
    measured = trained(copy.deepcopy(network), measured=True)
    assert plain.keys() == measured.keys()
    for name in plain:
        assert torch.equal(plain[name], measured[name]), name


def test_dropout_is_off_and_no_random_number_is_drawn(network, batches):
    network.train()
    generator = torch.get_rng_state()
    with recalibrated(network, batches, 3):
        first = state(network)
    assert torch.equal(torch.get_rng_state(), generator)
    torch.manual_seed(99)
    with recalibrated(network, batches, 3):
        assert_same(network, first)


def test_count_batches_are_taken_and_no_more(network, batches):
    taken = []

    def stream():
        for images in batches * 3:
            taken.append(len(images))
            yield images, torch.zeros(len(images))

    with recalibrated(network, stream(), 2):
        labelled = state(network)
    assert taken == [8, 8]
    with recalibrated(network, batches[:2], 100):  # ends early; without labels
        assert_same(network, labelled)


def test_an_error_within_the_block_leaves_everything_as_it_was(network, batches):
    before = state(network)
    with pytest.raises(ZeroDivisionError), recalibrated(network, batches, 2):
        raise ZeroDivisionError
    assert_same(network, before)


def test_numbers_that_are_not_finite_are_refused_by_the_name_of_the_layer(network, batches):
    before, training = state(network), network.training
    batches[1][0, 0, 0, 0] = torch.nan
    with (
        pytest.raises(BindeployError, match="BatchNorm `1` gets"),
        recalibrated(network, batches, 3),
    ):
        raise AssertionError("the block must not run")
    assert_same(network, before)
    assert network.training == training


@pytest.mark.parametrize(("given", "count"), [([], 3), ([torch.zeros(2, 3, 6, 6)], 0)])
def test_nothing_to_measure_on_is_refused(network, given, count):
    before = state(network)
    with (
        pytest.raises(BindeployError, match="to measure BatchNorm on: give"),
        recalibrated(network, given, count),
    ):
        raise AssertionError("the block must not run")
    assert_same(network, before)


def test_dense_batchnorm_and_one_without_statistics(batches):
    vectors = [images.flatten(1)[:, :5] for images in batches]
    model = nn.Sequential(nn.BatchNorm1d(5, track_running_stats=False), nn.BatchNorm1d(5))
    with recalibrated(model, vectors, 3):
        assert model[0].running_mean is None
        np.testing.assert_allclose(model[1].running_mean, np.zeros(5), atol=1e-6)


def test_processes_that_train_together_share_what_they_saw(network, batches, monkeypatch):
    """Two processes, played by two threads, measure as one that has the batches of both."""
    meeting, table, found = threading.Barrier(2, timeout=60), {}, {}

    def all_gather(rows, own):
        table[threading.current_thread().name] = own
        meeting.wait()
        for row, name in zip(rows, ("a", "b"), strict=True):
            row.copy_(table[name])
        meeting.wait()

    def process(model: nn.Module, own: list[torch.Tensor]) -> None:
        with recalibrated(model, own, 3):
            found[threading.current_thread().name] = state(model)

    with recalibrated(network, batches, 3):
        alone = state(network)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_gather", all_gather)
    threads = [
        threading.Thread(target=process, args=(copy.deepcopy(network), own), name=name)
        for name, own in (("a", batches[:1]), ("b", batches[1:]))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in ("1.running_mean", "1.running_var", "3.running_mean", "3.running_var"):
        assert torch.equal(found["a"][name], found["b"][name])
        torch.testing.assert_close(found["a"][name], alone[name], rtol=1e-6, atol=1e-7)
