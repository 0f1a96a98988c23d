"""`local`: this machine, through the library that came with the package.

A bundle without a plan runs too: its portable file is lowered to one in memory.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bindeploy.emit import plan_source
from bindeploy.errors import BindeployError
from bindeploy.library import library_path
from bindeploy.on import program
from bindeploy.on.transport import Deployed, Results
from bindeploy.session import Session


class Local:
    """Runs the plan in this process, whatever target the bundle's own program is for."""

    name = "local"
    engine = "runtime"

    def concerns(self, bundle: Deployed) -> bool:
        return True

    def obstacle(self, bundle: Deployed) -> str | None:
        try:
            library_path()
            if not bundle.plan.is_file():
                plan_source.read(bundle.model)
        except BindeployError as error:
            return str(error)
        return None

    def run_model(self, bundle: Deployed, images: NDArray[np.float32]) -> Results:
        with Session(bundle.plan if bundle.plan.is_file() else bundle.model) as session:
            (logits,) = session.run(None, {session.get_inputs()[0].name: images})
            integers = session.integers(images)
        layers = {
            name: _layer(array, bundle.layers.get(name, array.shape[1:]))
            for name, array in integers.items()
        }
        return _shaped(logits, bundle.output_shape), layers

    def measure(self, bundle: Deployed, runs: int, warmup: int) -> dict[str, Any]:
        """Time the bundle's own program, which says in a line if it is for another machine."""
        if not bundle.program.is_file():
            raise BindeployError(
                f"bundle `{bundle.path}` has no bin/{bundle.program.name}: "
                "export it with --format runtime"
            )
        return program.measure([str(bundle.program)], bundle, runs, warmup)


def _layer(integers: NDArray, shape: tuple[int, ...]) -> NDArray:
    """What a session says of a layer, [N, F, 1, T] where a dense layer has T rows, as `shape`."""
    return _shaped(np.moveaxis(integers, 1, -1) if len(shape) == 2 else integers, shape)


def _shaped(array: NDArray, shape: tuple[int, ...]) -> NDArray:
    """[N, *shape] where the numbers are as many: a plan does not tell [N, F] from [N, F, 1, 1]."""
    wanted = (len(array), *shape)
    return array.reshape(wanted) if math.prod(wanted) == array.size else array
