"""BatchNorm in two processes computes what torch's computes in one, forward and backward."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bindeploy.train.synchronized import synchronized

PROCESSES = 2
FILE = Path(__file__)

CASES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "images": (nn.BatchNorm2d(5), (8, 5, 4, 3)),
    "vectors": (nn.BatchNorm1d(5), (8, 5)),
    "sequences": (nn.BatchNorm1d(5), (8, 5, 7)),
    "one image each": (nn.BatchNorm1d(5), (2, 5)),
    "plain": (nn.BatchNorm2d(5, affine=False), (8, 5, 2, 2)),
    "untracked": (nn.BatchNorm2d(5, track_running_stats=False), (8, 5, 2, 2)),
    "cumulative": (nn.BatchNorm2d(5, momentum=None, eps=1e-3), (8, 5, 2, 2)),
}
"""A layer and the shape of the whole batch."""


def two_steps(name: str, rank: int, ranks: int) -> dict[str, Tensor]:
    """What a layer gives for this rank's slice of two batches, and what it is then."""
    layer, shape = CASES[name]
    layer = copy.deepcopy(layer)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in layer.parameters():
            nn.init.normal_(parameter)
        batches = torch.randn(2, *shape) * 3 + 20
        upstream = torch.randn(2, *shape)
    size = shape[0] // ranks
    part = slice(rank * size, (rank + 1) * size)
    results: dict[str, Tensor] = {}
    for step, (batch, gradient) in enumerate(zip(batches, upstream, strict=True)):
        x = batch[part].clone().requires_grad_()
        y = layer(x)
        y.backward(gradient[part])
        assert x.grad is not None
        results |= {f"y{step}": y.detach(), f"x{step}": x.grad}
    results |= {f"of {name}": p.grad for name, p in layer.named_parameters() if p.grad is not None}
    return results | {name: buffer.clone() for name, buffer in layer.named_buffers()}


def one_process(rank: int, folder: Path) -> None:
    """What each of the processes does, in the end writing all results."""
    torch.distributed.init_process_group(
        "gloo", f"file://{folder / 'meeting'}", rank=rank, world_size=PROCESSES
    )
    results = {}
    for name, (layer, _) in CASES.items():
        with synchronized(layer, "cpu"):
            results[name] = two_steps(name, rank, PROCESSES)
    mixed, alone = nn.BatchNorm2d(3), torch.full((1, 4), float(rank))
    with synchronized(mixed, "cpu"), torch.autocast("cpu", torch.bfloat16):
        x = torch.arange(12.0).view(2, 3, 2, 1).bfloat16() * (rank + 1)
        results["mixed"] = {"y": mixed(x), "running_mean": mixed.running_mean}
    layer = nn.BatchNorm1d(4)
    with synchronized(layer, "cpu"):
        results["evaluated"] = {"y": layer.eval()(alone)}
    torch.save(results, folder / f"{rank}.pt")
    torch.distributed.barrier()


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> list[dict[str, dict[str, Tensor]]]:
    """Of both processes."""
    folder = tmp_path_factory.mktemp("processes")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(FILE), str(folder)]
    started = [
        subprocess.Popen([*command, str(rank)], env=environment) for rank in range(PROCESSES)
    ]
    try:
        assert [process.wait(timeout=100) for process in started] == [0] * PROCESSES
    finally:
        for process in started:
            process.kill()
    return [torch.load(folder / f"{rank}.pt") for rank in range(PROCESSES)]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_compute_what_torch_does_in_one(results, name):
    expected = two_steps(name, 0, 1)
    assert results[0][name].keys() == expected.keys()
    for key, value in expected.items():
        shares = [result[name][key] for result in results]
        if key[0] in "xy":
            found = torch.cat(shares)
        elif key.startswith("of "):
            found = sum(shares)  # each has the gradient of its own images
        else:
            found = shares[0]
            assert torch.equal(shares[0], shares[1])
        torch.testing.assert_close(found, value, rtol=2e-6, atol=2e-5, msg=lambda m, k=key: k + m)


def test_mixed_precision_keeps_its_type_and_float32_statistics(results):
    assert results[0]["mixed"]["y"].dtype == torch.bfloat16
    mean = results[0]["mixed"]["running_mean"]
    assert mean.dtype == torch.float32
    whole = torch.arange(12.0).view(2, 3, 2, 1)
    expected = torch.cat([whole, 2 * whole]).mean((0, 2, 3))
    torch.testing.assert_close(mean, 0.1 * expected)


def test_evaluation_takes_the_running_statistics_and_meets_nobody(results):
    for rank, result in enumerate(results):
        expected = nn.BatchNorm1d(4).eval()(torch.full((1, 4), float(rank)))
        assert torch.equal(result["evaluated"]["y"], expected)


def test_layers_are_swapped_in_place_and_back_whatever_happens():
    class Own(nn.BatchNorm2d):
        pass

    model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm1d(3), Own(3), nn.Conv2d(3, 3, 1))
    names, layers = list(model.state_dict()), list(model)
    for device in ("cpu", "cuda"):
        with pytest.raises(KeyboardInterrupt), synchronized(model, device):
            kinds = [type(layer) for layer in model]
            assert nn.BatchNorm2d not in kinds and nn.BatchNorm1d not in kinds
            assert kinds[2:] == [Own, nn.Conv2d]
            assert list(model) == layers and list(model.state_dict()) == names
            assert (kinds[0] is nn.SyncBatchNorm) == (device == "cuda")
            raise KeyboardInterrupt
        assert [type(layer) for layer in model] == [nn.BatchNorm2d, nn.BatchNorm1d, Own, nn.Conv2d]


@pytest.mark.parametrize("name", CASES)
def test_alone_it_is_torchs_own_bit_for_bit(name):
    expected = two_steps(name, 0, 1)
    with synchronized(CASES[name][0], "cpu"):
        found = two_steps(name, 0, 1)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


if __name__ == "__main__":
    one_process(int(sys.argv[2]), Path(sys.argv[1]))
