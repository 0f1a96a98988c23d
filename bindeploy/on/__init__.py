"""Where a bundle runs: one transport a file, in `TRANSPORTS` by name or in `FAMILIES` by scheme."""

from __future__ import annotations

from collections.abc import Callable

from bindeploy.errors import unknown
from bindeploy.on import rpc
from bindeploy.on.compiled import Compiled
from bindeploy.on.emulator import Emulator
from bindeploy.on.local import Local
from bindeploy.on.transport import Transport
from bindeploy.on.webassembly import WebAssembly

TRANSPORTS: dict[str, Transport] = {
    transport.name: transport for transport in (Local(), Emulator(), WebAssembly(), Compiled())
}

FAMILIES: dict[str, Callable[[str], Transport]] = {"rpc": rpc.Rpc}
"""Places that are named by an address, by its scheme."""

PLACES = (*TRANSPORTS, rpc.SPELLING)
"""What `--on` takes, as it is spelled."""


def transport(where: str) -> Transport:
    """The transport that `--on WHERE` names; `BindeployError` with the choices if none is."""
    scheme, separator, _ = where.partition("://")
    if separator and scheme in FAMILIES:
        return FAMILIES[scheme](where)
    if where not in TRANSPORTS:
        raise unknown("place to run", where, PLACES)
    return TRANSPORTS[where]
