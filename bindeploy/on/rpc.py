"""`rpc://HOST:PORT`: the bundle's compiled module on the machine where a tvm.rpc server waits.

    python -m tvm.exec.rpc_server --host 0.0.0.0 --port 9090

starts one there, and needs no more than TVM's runtime. It runs what anybody sends to it: let nobody
reach it but you.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from bindeploy.emit.tvm.module_source import INTEGERS, MODULE, read
from bindeploy.errors import BindeployError, not_installed
from bindeploy.on.compiled import lacking, noise
from bindeploy.on.transport import Deployed, Results

SPELLING = "rpc://HOST:PORT"


class Rpc:
    """Runs the modules that it uploads; the times are of that machine's own clock."""

    def __init__(self, where: str) -> None:
        self.name = self.engine = where
        self._host, self._port = _address(where)

    def concerns(self, bundle: Deployed) -> bool:
        return bundle.format == "tvm"

    def obstacle(self, bundle: Deployed) -> str | None:
        if reason := lacking(bundle):
            return reason
        try:
            self._remote().ask(self._host, self._port)
        except BindeployError as error:
            return str(error)
        return None

    def run_model(self, bundle: Deployed, images: NDArray[np.float32]) -> Results:
        source = read(bundle.path)
        singles = [image.reshape(1, *source.input.shape) for image in images]
        with self._connected() as remote:
            model = remote.load(source.intact(MODULE))
            logits = np.concatenate([model.run(image)[0] for image in singles])
            proof = remote.load(source.intact(INTEGERS))
            found = [proof.run(image)[1:] for image in singles]
        layers = map(np.concatenate, zip(*found, strict=True))
        return logits, dict(zip(source.layers, layers, strict=True))

    def measure(self, bundle: Deployed, runs: int, warmup: int) -> dict[str, Any]:
        source = read(bundle.path)
        with self._connected() as remote:
            machine = remote.load(source.intact(MODULE))
            times = machine.nanoseconds(noise(source.input.shape), warmup + runs)
        return {
            "isa": source.processor,
            "nanoseconds": times[warmup:],
            "layers": [],
            "memory": {},
            "machine": {"processor": self.name, "system": bundle.built_for.title},
        }

    def _connected(self) -> Any:
        return self._remote().connect(self._host, self._port)

    def _remote(self) -> Any:
        """The module that imports TVM."""
        try:
            from bindeploy.emit.tvm import remote
        except ModuleNotFoundError as error:
            raise not_installed(error) or error from None
        return remote


def _address(where: str) -> tuple[str, int]:
    try:
        parts = urlsplit(where)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port or parts.path.strip("/"):
        raise BindeployError(f"`{where}` is no place to run: write {SPELLING}")
    return host, port
