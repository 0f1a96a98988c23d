"""Where a bundle runs: one transport a file, all of them in `TRANSPORTS`."""

from __future__ import annotations

from bindeploy.errors import unknown
from bindeploy.on.emulator import Emulator
from bindeploy.on.local import Local
from bindeploy.on.transport import Transport
from bindeploy.on.webassembly import WebAssembly

TRANSPORTS: dict[str, Transport] = {
    transport.name: transport for transport in (Local(), Emulator(), WebAssembly())
}


def transport(where: str) -> Transport:
    """The transport that `--on WHERE` names; `BindeployError` with the choices if none is."""
    if where not in TRANSPORTS:
        raise unknown("place to run", where, TRANSPORTS)
    return TRANSPORTS[where]
