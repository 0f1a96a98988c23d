"""What Lightning is told of devices, and what is refused before any process is started."""

from __future__ import annotations

import os
import signal
import sys

import pytest
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator
from lightning.pytorch.strategies import DDPStrategy

from bindeploy.errors import BindeployError
from bindeploy.train import devices

ENVIRONMENT = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", *devices.MEETING)


@pytest.fixture(autouse=True)
def started_by_nobody(monkeypatch):
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)


def with_gpus(monkeypatch, count: int) -> None:
    monkeypatch.setattr(CUDAAccelerator, "is_available", staticmethod(lambda: count > 0))
    monkeypatch.setattr(CUDAAccelerator, "auto_device_count", staticmethod(lambda: count))
    monkeypatch.setattr(MPSAccelerator, "is_available", staticmethod(lambda: False))


@pytest.mark.parametrize(
    "given, message",
    [
        ((0, 1, "auto", "cpu"), "devices `0`: give 1 or more"),
        ((1, 0, "auto", "cpu"), "num nodes `0`: give 1 or more"),
        ((2, 1, "dpp", "cpu"), "unknown strategy `dpp`: choose from auto, ddp"),
        ((2, 1, "fsdp", "cpu"), "strategy `fsdp` does not keep the whole network"),
        ((2, 1, "ddp_spawn", "cpu"), "strategy `ddp_spawn` does not"),
        ((1, 1, "auto", "gpus"), "unknown accelerator `gpus`: choose from auto, gpu, "),
        ((1, 1, "auto", "cuda"), "accelerator `cuda` is not there: choose from auto, cpu"),
        ((1, 1, "auto", "gpu"), "accelerator `gpu` is not there: choose from auto, cpu"),
    ],
)
def test_what_cannot_be_is_one_line(monkeypatch, given, message):
    with_gpus(monkeypatch, 0)
    with pytest.raises(BindeployError, match=message) as caught:
        devices.check(*given)
    assert "\n" not in str(caught.value)


def test_more_gpus_than_there_are_is_one_line(monkeypatch):
    with_gpus(monkeypatch, 2)
    for accelerator in ("auto", "gpu", "cuda"):
        devices.check(2, 1, "ddp", accelerator)
        with pytest.raises(BindeployError, match="devices `3`: there are 2 of cuda"):
            devices.check(3, 1, "ddp", accelerator)
    devices.check(3, 1, "ddp", "cpu")


def test_processes_that_torchrun_started_are_as_many_as_the_options_say(monkeypatch):
    for name, value in {"RANK": 3, "WORLD_SIZE": 8, "LOCAL_WORLD_SIZE": 4}.items():
        monkeypatch.setenv(name, str(value))
    devices.check(4, 2, "ddp", "cpu")
    with pytest.raises(BindeployError, match="give --devices 4 --num-nodes 2"):
        devices.check(1, 1, "auto", "cpu")


def refused(message: str, count: int, nodes: int) -> None:
    before = dict(os.environ)
    with (
        pytest.raises(BindeployError, match=message) as caught,
        devices.together(count, nodes, "ddp", "cpu"),
    ):
        pytest.fail("the processes met")
    assert "\n" not in str(caught.value)
    assert dict(os.environ) == before


def test_machines_that_cannot_find_each_other_do_not_wait(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    refused("num nodes `2`, but `MASTER_PORT` is not set: .* torchrun", 1, 2)


def test_a_program_without_a_file_is_not_started_again(monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.setattr(sys, "argv", ["-c"])
    refused("devices `2`: `-c` is no program that can be started again", 2, 1)


def test_what_a_scheduler_started_is_as_many_as_the_options_say(monkeypatch):
    for name, value in {"NTASKS": "3", "NTASKS_PER_NODE": "3", "JOB_NAME": "job"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    for name in ("PROCID", "LOCALID", "NODEID"):
        monkeypatch.setenv(f"SLURM_{name}", "0")
    refused("devices `2` on 1 machines: .*`--ntasks-per-node=3` does not match", 2, 1)


def test_every_strategy_that_is_offered_makes_arguments_for_a_trainer(monkeypatch):
    with_gpus(monkeypatch, 0)
    assert {"auto", "ddp"} <= set(devices.STRATEGIES)
    for name in devices.STRATEGIES:
        devices.check(2, 1, name, "auto")
        several = devices.trainer_arguments(2, 1, name, "auto")
        assert isinstance(several["strategy"], DDPStrategy)
        assert several["strategy"] is not devices.trainer_arguments(2, 1, name, "auto")["strategy"]
        assert devices.trainer_arguments(1, 1, name, "auto")["strategy"] == "auto"
        assert (several["devices"], several["num_nodes"]) == (2, 1)
        assert several["accelerator"] == "cpu"


def test_alone_this_process_is_all_of_them():
    with devices.together(1, 1, "ddp", "cpu"):
        assert (devices.rank(), devices.ranks(), devices.is_main()) == (0, 1, True)
        assert devices.from_main(lambda: "value") == "value"
        assert devices.total(3) == 3


def test_sigterm_is_an_interruption_within_and_what_it_was_afterwards():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), devices.together(1, 1, "auto", "cpu"):
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


def test_an_error_within_comes_out_as_it_is():
    with (
        pytest.raises(RuntimeError, match="out of memory"),
        devices.together(1, 1, "auto", "cpu"),
    ):
        raise RuntimeError("out of memory")
