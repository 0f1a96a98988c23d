"""Processes that train together: what Lightning is told of them, how they meet and how they end.

Lightning starts them, or torchrun or a cluster's scheduler does. The first of them, the main one,
writes and prints; the others only compute. When one of them ends, the rest end within seconds.
"""

from __future__ import annotations

import atexit
import inspect
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from subprocess import Popen
from typing import Any, NoReturn, TypeVar

import lightning.pytorch as lightning
import torch.distributed as distributed
from lightning.fabric.plugins.environments import ClusterEnvironment, LightningEnvironment
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.nn.parallel import DistributedDataParallel

from bindeploy.errors import BindeployError, unknown

Value = TypeVar("Value")
Number = TypeVar("Number", int, float)

REPLICATING = {
    name: row["init_params"]
    for name, row in StrategyRegistry.items()
    if row["strategy"] is DDPStrategy and row["init_params"]["start_method"] == "popen"
}
"""Lightning's strategies whose processes are programs of their own and each keep the whole network,
so that the main one can evaluate and write it; with the arguments of each."""

STRATEGIES = ("auto", *REPLICATING)
ACCELERATORS = ("auto", "gpu", *AcceleratorRegistry)
GPUS = ("cuda", "mps")

MEETING = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")
"""What tells a process where the others are, where nobody else does."""

PARENT = "BINDEPLOY_PARENT"
"""Variable that names the process that started this one to train together with it."""

GLANCE = 0.5
"""Seconds between two looks at whether the parent is alive."""

BUFFERS = "forward_sync_buffers"
if BUFFERS not in inspect.signature(DistributedDataParallel.__init__).parameters:
    BUFFERS = "broadcast_buffers"  # before torch 2.13

_started: list[list[Popen]] = []
"""The processes that this one has started, as Lightning's launcher holds them."""


def rank() -> int:
    """The number of this process among those that train together, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def ranks() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_main() -> bool:
    """This process writes and prints."""
    return rank() == 0


def check(devices: int, num_nodes: int, strategy: str, accelerator: str) -> None:
    """BindeployError unless this machine can run `devices` of `num_nodes * devices` processes."""
    for name, number in (("devices", devices), ("num nodes", num_nodes)):
        if number < 1:
            raise BindeployError(f"{name} `{number}`: give 1 or more")
    if strategy not in STRATEGIES and strategy in StrategyRegistry:
        raise BindeployError(
            f"strategy `{strategy}` does not keep the whole network in every process:"
            f" choose from {', '.join(STRATEGIES)}"
        )
    if strategy not in STRATEGIES:
        raise unknown("strategy", strategy, STRATEGIES)
    _check_accelerator(accelerator, devices, num_nodes)
    _check_processes(devices, num_nodes)


def _check_accelerator(accelerator: str, devices: int, num_nodes: int) -> None:
    if accelerator not in ACCELERATORS:
        raise unknown("accelerator", accelerator, ACCELERATORS)
    name = _present(accelerator)
    if name is None:
        there = ", ".join(["auto", *filter(_is_available, AcceleratorRegistry)])
        raise BindeployError(f"accelerator `{accelerator}` is not there: choose from {there}")
    if name == "mps" and devices * num_nodes > 1:
        raise BindeployError("accelerator `mps` trains in one process: give --accelerator cpu")
    if name != "cpu":
        count = AcceleratorRegistry[name]["accelerator"].auto_device_count()
        if devices > count:
            raise BindeployError(f"devices `{devices}`: there are {count} of {name}, give as many")


def _present(accelerator: str) -> str | None:
    """The accelerator that a name means on this machine, None where it is absent."""
    if accelerator == "auto":
        return _present("gpu") or "cpu"
    names = GPUS if accelerator == "gpu" else (accelerator,)
    return next(filter(_is_available, names), None)


def _is_available(accelerator: str) -> bool:
    return AcceleratorRegistry[accelerator]["accelerator"].is_available()


def _check_processes(devices: int, num_nodes: int) -> None:
    """Whoever started several processes, or will, must mean as many as the options say."""
    asked = devices * num_nodes
    started = int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else asked
    started = ranks() if distributed.is_initialized() else started
    if started != asked:
        machine = int(os.environ.get("LOCAL_WORLD_SIZE", started))
        raise BindeployError(
            f"devices `{devices}` on {num_nodes} machines are not the {started} processes that were"
            f" started: give --devices {machine} --num-nodes {started // machine}"
        )


def trainer_arguments(
    devices: int, num_nodes: int, strategy: str, accelerator: str, precision: str = "32-true"
) -> dict[str, Any]:
    """What lightning.Trainer has to know to train in `num_nodes * devices` processes.

    `precision` is Lightning's word. A strategy serves one Trainer, so that every one needs
    arguments of its own. Gradients are averaged over processes; buffers are not sent around at
    every step, since every process computes the same (see `synchronized`).
    """
    several = devices * num_nodes > 1
    chosen: DDPStrategy | str = "auto"
    if several:
        known = REPLICATING["ddp" if strategy == "auto" else strategy]
        chosen = DDPStrategy(**{**known, BUFFERS: False})
    return {
        "accelerator": _present(accelerator),
        "devices": devices,
        "num_nodes": num_nodes,
        "strategy": chosen,
        "precision": precision,
        "use_distributed_sampler": False,
        "callbacks": [_Signals()],
    }


def _trainer(devices: int, num_nodes: int, strategy: str, accelerator: str) -> lightning.Trainer:
    """One that trains nothing, but knows where it is and who starts the processes."""
    arguments = trainer_arguments(devices, num_nodes, strategy, accelerator)
    try:
        return lightning.Trainer(logger=False, enable_checkpointing=False, **arguments)
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise BindeployError(f"devices `{devices}`: {error}") from None


@contextmanager
def quiet() -> Iterator[None]:
    """Without the notes and advice that Lightning prints around every training."""
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def together(devices: int, num_nodes: int, strategy: str, accelerator: str) -> Iterator[None]:
    """Within, `num_nodes * devices` processes run this program and meet in collectives.

    Where nobody else has started them, Lightning does, each by the command of this one; they arrive
    here by running it. Once met, the same processes meet here again. An interruption (SIGINT or
    SIGTERM) raises KeyboardInterrupt in the main process and ends the others; where a process is
    lost, those that wait for it raise BindeployError.
    """
    try:
        if devices * num_nodes > 1 and not distributed.is_initialized():
            with quiet():
                _meet(_trainer(devices, num_nodes, strategy, accelerator))
        with _restored_signals():
            _set_signals()
            yield
            if ranks() > 1:
                distributed.barrier()
    except BaseException as error:
        lost = _is_loss(error)
        _end_started()
        if not lost:
            raise
        raise BindeployError(
            f"process {rank()} of {ranks()} has lost another one: what is written is whole,"
            " --resume goes on from there"
        ) from error


def _meet(trainer: lightning.Trainer) -> None:
    """Start the processes that nobody else has started, and wait until all are there."""
    assert isinstance(trainer.strategy, DDPStrategy)
    launcher, environment = trainer.strategy.launcher, trainer.strategy.cluster_environment
    assert isinstance(launcher, _SubprocessScriptLauncher) and environment is not None
    _check_meeting(environment, trainer)
    _end_with(_parent())
    os.environ[PARENT] = str(os.getpid())

    def arrive() -> None:
        _started.append(launcher.procs)
        _set_signal(signal.SIGINT, signal.SIG_DFL)  # nothing is written yet: end at once
        trainer.strategy.setup_environment()
        atexit.register(_part)

    with _restored_signals():
        # A process that is started inherits this: of Ctrl-C its parent knows what to make.
        _set_signal(signal.SIGINT, signal.SIG_IGN)
        launcher.launch(arrive)


def _check_meeting(environment: ClusterEnvironment, trainer: lightning.Trainer) -> None:
    """BindeployError where the processes would wait for each other in vain."""
    devices, nodes = trainer.num_devices, trainer.num_nodes
    missing = [name for name in MEETING if name not in os.environ]
    if nodes > 1 and missing and isinstance(environment, LightningEnvironment):
        raise BindeployError(
            f"num nodes `{nodes}`, but `{missing[0]}` is not set: start every machine by torchrun"
            f" or a scheduler, or set {', '.join(MEETING)}"
        )
    again = sys.modules["__main__"].__spec__ is not None or os.path.isfile(sys.argv[0])
    if not environment.creates_processes_externally and not again:
        raise BindeployError(
            f"devices `{devices}`: `{sys.argv[0]}` is no program that can be started again:"
            " train from a script, or by torchrun"
        )
    try:
        environment.validate_settings(num_devices=devices, num_nodes=nodes)
    except ValueError as error:
        raise BindeployError(f"devices `{devices}` on {nodes} machines: {error}") from None


def _part() -> None:
    """End the threads of the process group while Python, which they call, is still there."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _end_started() -> None:
    """End the processes that this one has started."""
    for processes in _started:
        ending = list(processes)
        processes.clear()  # else Lightning, seeing them end, would end this one too
        for process in ending:
            process.kill()
            process.wait()
    _started.clear()


def _is_loss(error: BaseException) -> bool:
    """Another process is gone: so say NCCL by a type of its own and Gloo in words."""
    return isinstance(error, distributed.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error)
    )


def _parent() -> int | None:
    """The process that started this one to train with others; without it there is no training."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return os.getppid()
    if os.environ.get("LOCAL_RANK", "0") != "0" and PARENT in os.environ:
        return int(os.environ[PARENT])
    return None


def _end_with(parent: int | None) -> None:
    """End this process when `parent` has ended, even while it waits in a collective."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(GLANCE)
        os._exit(1)

    if parent is not None:
        threading.Thread(target=watch, daemon=True, name="watch-parent").start()


class _Signals(lightning.Callback):
    """Takes SIGTERM back from Lightning, which would answer it with a collective.

    Called at any moment, such a one meets another collective in the other processes.
    """

    def on_train_start(self, trainer: object, module: object) -> None:
        _set_signals()


def _set_signals() -> None:
    """SIGTERM is an interruption of the main process; the others, who write nothing, just end."""
    if is_main():
        _set_signal(signal.SIGTERM, _interrupt)
        return
    _set_signal(signal.SIGTERM, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        _set_signal(signal.SIGINT, signal.SIG_DFL)


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _set_signal(number: signal.Signals, handler: Any) -> None:
    if threading.current_thread() is threading.main_thread():  # no other may
        signal.signal(number, handler)


@contextmanager
def _restored_signals() -> Iterator[None]:
    before = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        yield
    finally:
        for number, handler in before:
            _set_signal(number, handler)


def from_main(make: Callable[[], Value]) -> Value:
    """What `make()` gives in the main process, in all; a BindeployError there is one in all."""
    if ranks() == 1:
        return make()
    result: list[Any] = [None, None]
    if is_main():
        try:
            result[0] = make()
        except BindeployError as error:
            result[1] = str(error)
    distributed.broadcast_object_list(result, src=0)
    if result[1] is not None:
        raise BindeployError(result[1])
    return result[0]


def total(number: Number) -> Number:
    """The sum of `number` over all processes, in each."""
    if ranks() == 1:
        return number
    numbers: list[Any] = [None] * ranks()
    distributed.all_gather_object(numbers, number)
    return sum(numbers)
