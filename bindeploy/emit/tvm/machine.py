"""Run a compiled module: all it needs of TVM is the runtime."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm.runtime.vm import VirtualMachine

from bindeploy.errors import BindeployError

BUILTIN = "vm.builtin."
"""How the steps are named that are no kernels: the virtual machine's own."""

_pool = threading.local()
"""How many threads TVM's pool uses: it has one pool for each thread that calls it."""


class Machine:
    """A module of `compiler.write_module`, loaded on this machine's CPU, or on another `device`.

    A module is a shared library: loading it runs its code. `threads` of TVM's pool work on it; the
    pool has as many as there are processors, or as the variable TVM_NUM_THREADS says.
    """

    def __init__(self, path: Path, threads: int = 1, device: str = "cpu") -> None:
        _prepare_pool()
        self.threads = threads
        self._device = tvm.device(device)
        if reason := absent(device):
            raise BindeployError(f"`{path}` does not run here: {reason}")
        self._input: Any = None
        try:
            self._machine = VirtualMachine(tvm.runtime.load_module(str(path)), self._device)
            self._main = self._machine["main"]
        except Exception as error:  # of the loader, of TVM, of Python
            line = " ".join(str(error).split())[:300]
            raise BindeployError(
                f"`{path}` does not load here ({line}): is it for another machine?"
            ) from error

    def run(self, image: NDArray[np.float32]) -> list[NDArray]:
        """Every output for one image [1, ...]."""
        _use(self.threads)
        if self._input is None or self._input.shape != image.shape:
            self._input = tvm.runtime.empty(image.shape, "float32", self._device)
        self._input.copyfrom(image)
        return arrays(self._main(self._input))

    def profile(self, image: NDArray[np.float32]) -> list[tuple[str, int]]:
        """Name and nanoseconds of every kernel that runs for one image, in their order.

        The calls in between, and what watching them costs, are left out.
        """
        calls: list[tuple[str, int]] = []
        started = 0

        def watch(_function: Any, name: str, before: bool, *_results_and_arguments: Any) -> int:
            nonlocal started
            now = time.perf_counter_ns()
            if not before and not name.startswith(BUILTIN):
                calls.append((name, now - started))
            started = time.perf_counter_ns()
            return 0

        self._machine.set_instrument(watch)
        try:
            self.run(image)
        finally:
            self._machine.set_instrument(None)
        return calls


def absent(device: str) -> str | None:
    """Why TVM's runtime has no such device here, in words; None where it has."""
    if tvm.device(device).exist:
        return None
    return f"no {device} device is here, or TVM's runtime was built without {device}"


def arrays(outputs: Any) -> list[NDArray]:
    """What `main` gave, a tensor or several."""
    tensors = [outputs] if hasattr(outputs, "numpy") else list(outputs)
    return [tensor.numpy() for tensor in tensors]


def _prepare_pool() -> None:
    """Before the pool is made, unless the variables are set already.

    By itself TVM binds the calling thread to a processor, and leaves it there, and on x86 it uses
    half of the processors.
    """
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    os.environ.setdefault("TVM_NUM_THREADS", str(os.cpu_count() or 1))


def _use(threads: int) -> None:
    """Telling the pool takes longer than a small network, so it is told when that changes."""
    if getattr(_pool, "threads", None) != threads:
        tvm.get_global_func("runtime.config_threadpool")(1, threads)
        _pool.threads = threads
