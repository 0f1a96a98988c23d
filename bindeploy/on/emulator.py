"""`qemu`: the bundle's own program in an emulator of its target.

An emulator proves that the program computes the right numbers; how long it takes says nothing.
"""

from __future__ import annotations

import shlex
import shutil
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from bindeploy.errors import BindeployError
from bindeploy.on import program
from bindeploy.on.transport import Deployed, Results


class Emulator:
    """Runs `bin/bd_bench` by the command that the target's `run` key names."""

    name = "qemu"
    engine = "qemu"

    def concerns(self, bundle: Deployed) -> bool:
        return bundle.built_for.family == "linux" and bundle.built_for.run != ""

    def obstacle(self, bundle: Deployed) -> str | None:
        target = bundle.built_for
        if not self.concerns(bundle):
            return f"target `{target.name}` names no emulator"
        emulator = shlex.split(target.run)[0]
        if not bundle.program.is_file():
            return f"the bundle has no bin/{bundle.program.name}: export it with --format runtime"
        if shutil.which(emulator) is None:
            package = "apt install qemu-user" if emulator.startswith("qemu-") else "put it on PATH"
            return f"{emulator} is not installed: {package}"
        return None

    def run_model(self, bundle: Deployed, images: NDArray[np.float32]) -> Results:
        command = [*shlex.split(bundle.built_for.run), str(bundle.program)]
        return program.run_model(command, bundle, images)

    def measure(self, bundle: Deployed, runs: int, warmup: int) -> NoReturn:
        raise BindeployError(
            f"an emulator gives no times: measure `{bundle.path}` on a machine of its target"
        )
