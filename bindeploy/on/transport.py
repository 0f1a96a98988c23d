"""What a transport can do, and what it is told about the bundle that it runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bindeploy.target import Target

Results = tuple[NDArray[np.float32], dict[str, NDArray[np.int32]]]
"""Logits [N, ...] and the integers of every binary layer, int32 NCHW or [N, F], by its name."""


class Deployed(Protocol):
    """A bundle, as far as running it goes. Shapes are those of one image."""

    @property
    def path(self) -> Path: ...

    @property
    def format(self) -> str: ...

    @property
    def built_for(self) -> Target: ...

    @property
    def model(self) -> Path: ...

    @property
    def plan(self) -> Path: ...

    @property
    def program(self) -> Path: ...

    @property
    def output_shape(self) -> tuple[int, ...]: ...

    @property
    def layers(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of the integers, [F, H, W], [F] or of a dense layer's rows [T, F], of every binary
        layer in the order they run."""


class Transport(Protocol):
    """A place where bundles run."""

    name: str
    """What `--on` calls it."""

    engine: str
    """What a verification calls it."""

    def concerns(self, bundle: Deployed) -> bool:
        """Whether the bundle's target is meant to run there at all."""

    def obstacle(self, bundle: Deployed) -> str | None:
        """Why `bundle` cannot run there, in words with what would help; None where it can."""

    def run_model(self, bundle: Deployed, images: NDArray[np.float32]) -> Results:
        """Run float32 images [N, C, H, W] one by one."""

    def measure(self, bundle: Deployed, runs: int, warmup: int) -> dict[str, Any]:
        """Time one image: the JSON of `bd_bench --json`, or the `nanoseconds` of each run instead
        of `total`, and `machine`, what is to be said of it. Raises where times would mean nothing.
        """
