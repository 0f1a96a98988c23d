"""Run a compiled module: all it needs of TVM is the runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm.runtime.vm import VirtualMachine


class Machine:
    """A module of `compiler.write_module`, loaded on this machine's CPU."""

    def __init__(self, path: Path) -> None:
        self._main = VirtualMachine(tvm.runtime.load_module(str(path)), tvm.cpu())["main"]

    def run(self, image: NDArray[np.float32]) -> list[NDArray]:
        """Every output for one image [1, ...]."""
        given = self._main(tvm.runtime.tensor(np.ascontiguousarray(image)))
        outputs = [given] if hasattr(given, "numpy") else list(given)
        return [output.numpy() for output in outputs]
