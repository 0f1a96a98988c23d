"""Run a compiled module on another machine, where `python -m tvm.exec.rpc_server` waits for it."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import rpc
from tvm.rpc import base
from tvm.runtime.vm import VirtualMachine

from bindeploy.emit.tvm.machine import arrays
from bindeploy.errors import BindeployError

PATIENCE_S = 5.0
"""How long a server may take to answer."""

LONGEST_S = 600
"""After this long the server ends a session by itself."""


class Remote:
    """A session with the server at `host`:`port`: one of `connect`."""

    def __init__(self, session: Any, address: str) -> None:
        self._session, self._address = session, address
        session.get_function("runtime.config_threadpool")(1, 1)

    def load(self, path: Path) -> RemoteMachine:
        """Upload a module of `compiler.write_module`, and load it there."""
        with _in_words(self._address):
            self._session.upload(str(path))
            module = self._session.load_module(path.name)
            return RemoteMachine(module, self._session.cpu(), self._address)


class RemoteMachine:
    """A `Machine` of another machine, in one thread of it."""

    def __init__(self, module: Any, device: Any, address: str) -> None:
        self._device, self._address = device, address
        self._machine = VirtualMachine(module, device)

    def run(self, image: NDArray[np.float32]) -> list[NDArray]:
        """Every output for one image [1, ...]."""
        with _in_words(self._address):
            self._give(image)
            self._machine.invoke_stateful("main")
            return arrays(self._machine.get_outputs("main"))

    def nanoseconds(self, image: NDArray[np.float32], runs: int) -> list[float]:
        """How long each of `runs` runs took, by the clock of that machine."""
        with _in_words(self._address):
            self._give(image)
            timer = self._machine.time_evaluator(
                "invoke_stateful", self._device, number=1, repeat=runs
            )
            return [seconds * 1e9 for seconds in timer("main").results]

    def _give(self, image: NDArray[np.float32]) -> None:
        given = tvm.runtime.tensor(np.ascontiguousarray(image), self._device)
        self._machine.set_input("main", given)


@contextmanager
def connect(host: str, port: int) -> Iterator[Remote]:
    """A session, closed at the end; BindeployError within seconds where no server answers."""
    address = f"{host}:{port}"
    ask(host, port)
    with _in_words(address):
        session = rpc.connect(host, port, session_timeout=LONGEST_S)
    try:
        yield Remote(session, address)
    finally:
        session.get_function("CloseRPCConnection")()


def ask(host: str, port: int) -> None:
    """BindeployError unless a server answers: TVM itself would wait for that forever.

    It is asked for a session of a name that it does not have, which it refuses.
    """
    address = f"{host}:{port}"
    key = b"client:is-anybody-there"
    try:
        with socket.create_connection((host, port), PATIENCE_S) as asking:
            asking.settimeout(PATIENCE_S)
            asking.sendall(struct.pack("<ii", base.RPC_MAGIC, len(key)) + key)
            answer = asking.recv(4)
    except TimeoutError as error:
        raise BindeployError(
            f"`{address}` does not answer: is a tvm.rpc server there, and free?"
        ) from error
    except OSError as error:
        raise BindeployError(
            f"`{address}` is not reached ({error.strerror or error}): start a server there, "
            "python -m tvm.exec.rpc_server --host 0.0.0.0"
        ) from error
    if answer != struct.pack("<i", base.RPC_CODE_MISMATCH):
        raise BindeployError(f"`{address}` answers, but it is no tvm.rpc server")


@contextmanager
def _in_words(address: str) -> Iterator[None]:
    """What TVM raises on either side, in one line."""
    try:
        yield
    except Exception as error:
        line = " ".join(str(error).split())[-300:]
        raise BindeployError(f"`{address}` does not run the module: {line}") from error
