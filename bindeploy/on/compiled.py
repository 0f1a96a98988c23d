"""`tvm`: the bundle's compiled module on this machine, run by TVM's runtime.

A module is machine code: it runs in a process of its own, so that one for another processor ends
that and nothing else. That process has TVM's runtime and no compiler, as a device would.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bindeploy.emit.tvm.module_source import MODULE, other_machine, read
from bindeploy.on import program
from bindeploy.on.transport import Deployed, Results
from bindeploy.session import Session

RUNTIME_ALONE = {"TVM_USE_RUNTIME_LIB": "1"}


class Compiled:
    """Runs `model.so`, and the module that gives its integers."""

    name = "tvm"
    engine = "tvm"

    def concerns(self, bundle: Deployed) -> bool:
        return bundle.format == "tvm"

    def obstacle(self, bundle: Deployed) -> str | None:
        if reason := lacking(bundle):
            return reason
        if machine := other_machine(bundle.path / MODULE):
            return (
                f"{MODULE} is for {machine} (target `{bundle.built_for.name}`): verify it there, "
                "or --on rpc://HOST:PORT"
            )
        return self._lacks_device(bundle)

    def _lacks_device(self, bundle: Deployed) -> str | None:
        device = read(bundle.path).device
        if device == "cpu":
            return None
        from bindeploy.emit.tvm.machine import absent

        return absent(device)

    def run_model(self, bundle: Deployed, images: NDArray[np.float32]) -> Results:
        with tempfile.TemporaryDirectory(prefix="bindeploy-run-") as name:
            given, results = Path(name) / "input.npy", Path(name) / "results.npz"
            np.save(given, images)
            words = ("-m", "bindeploy.on.run_module", bundle.path, given, results)
            program.call((sys.executable, *words), f"{bundle.path / MODULE}", RUNTIME_ALONE)
            with np.load(results, allow_pickle=False) as file:
                logits, *integers = (file[name] for name in file.files)
        return logits, dict(zip(bundle.layers, integers, strict=True))

    def measure(self, bundle: Deployed, runs: int, warmup: int) -> dict[str, Any]:
        times = []
        with Session(bundle.path) as session:
            (given,) = session.get_inputs()
            feed = {given.name: noise(given.shape[1:])}
            for _ in range(warmup + runs):
                start = time.perf_counter_ns()
                session.run(None, feed)
                times.append(time.perf_counter_ns() - start)
            return {"isa": session.isa, "nanoseconds": times[warmup:], "layers": [], "memory": {}}


def noise(shape: Iterable[Any]) -> NDArray[np.float32]:
    """An image [1, ...] to measure with."""
    return np.random.default_rng(0).standard_normal((1, *shape), dtype=np.float32)


def lacking(bundle: Deployed) -> str | None:
    """What a bundle lacks to be run by TVM, or this installation."""
    if not (bundle.path / MODULE).is_file():
        return f"the bundle has no {MODULE}: export it with --format tvm"
    if importlib.util.find_spec("tvm") is None:
        return "tvm is not installed: pip install 'bindeploy[tvm]'"
    return None
