"""`wasmtime`: the bundle's own program in wasmtime, the WebAssembly engine of a Python package.

The engine compiles to machine code and emulates no processor, so its times are times.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bindeploy.on import program
from bindeploy.on.transport import Deployed, Results


class WebAssembly:
    """Runs `bin/bd_bench` of a bundle for WebAssembly."""

    name = "wasmtime"
    engine = "wasmtime"

    def concerns(self, bundle: Deployed) -> bool:
        return bundle.built_for.family == "wasm"

    def obstacle(self, bundle: Deployed) -> str | None:
        if not self.concerns(bundle):
            return f"target `{bundle.built_for.name}` is not WebAssembly"
        if not bundle.program.is_file():
            return f"the bundle has no bin/{bundle.program.name}: export it with --format runtime"
        if importlib.util.find_spec("wasmtime") is None:
            return "wasmtime is not installed: pip install wasmtime"
        return None

    def run_model(self, bundle: Deployed, images: NDArray[np.float32]) -> Results:
        return program.run_model(_command(bundle), bundle, images)

    def measure(self, bundle: Deployed, runs: int, warmup: int) -> dict[str, Any]:
        return program.measure(_command(bundle), bundle, runs, warmup)


def _command(bundle: Deployed) -> list[str]:
    return [sys.executable, "-m", "bindeploy.on.wasi", str(bundle.program.resolve())]
