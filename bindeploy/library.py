"""The runtime's shared library: `runtime/include/bindeploy.h` through ctypes."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

from bindeploy import __version__
from bindeploy.errors import BindeployError
from bindeploy.files import installed

LIBRARY = "libbindeploy.dylib" if sys.platform == "darwin" else "libbindeploy.so"
LIBRARY_VARIABLE = "BINDEPLOY_LIBRARY"
ERROR_BYTES = 256


class Description(ctypes.Structure):
    _fields_ = [
        ("input_shape", ctypes.c_uint32 * 4),
        ("output_shape", ctypes.c_uint32 * 4),
        ("input_name", ctypes.c_char_p),
        ("output_name", ctypes.c_char_p),
        ("node_count", ctypes.c_size_t),
        ("plan_bytes", ctypes.c_size_t),
        ("arena_bytes", ctypes.c_size_t),
        ("weights_bytes", ctypes.c_size_t),
        ("scratch_bytes", ctypes.c_size_t),
    ]


class Options(ctypes.Structure):
    _fields_ = [("isa", ctypes.c_char_p), ("threads", ctypes.c_int)]


class NodeRow(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("op", ctypes.c_char_p),
        ("kernel", ctypes.c_char_p),
        ("macs", ctypes.c_uint64),
        ("output_shape", ctypes.c_uint32 * 4),
        ("nanoseconds", ctypes.c_uint64),
    ]


Observer = ctypes.CFUNCTYPE(
    None,
    ctypes.c_void_p,
    *[ctypes.c_size_t] * 5,
    ctypes.POINTER(ctypes.c_int32),
    ctypes.c_size_t,
)

FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "bd_version": (ctypes.c_char_p, []),
    "bd_isa": (ctypes.c_char_p, []),
    "bd_peak": (ctypes.c_double, [ctypes.c_char_p]),
    "bd_load": (
        ctypes.c_int,
        [
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.POINTER(Options),
            ctypes.POINTER(ctypes.c_void_p),
            ctypes.c_char_p,
        ],
    ),
    "bd_close": (None, [ctypes.c_void_p]),
    "bd_run": (None, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]),
    "bd_describe": (None, [ctypes.c_void_p, ctypes.POINTER(Description)]),
    "bd_node_at": (None, [ctypes.c_void_p, ctypes.c_size_t, ctypes.POINTER(NodeRow)]),
    "bd_profile": (None, [ctypes.c_void_p, ctypes.c_int]),
    "bd_observe": (None, [ctypes.c_void_p, Observer, ctypes.c_void_p]),
}
"""Result and argument types of what is called in `runtime/include/bindeploy.h`."""


def peak(isa: str) -> float:
    """GMAC/s of binary multiply-accumulates of one thread whose words stay in registers.

    What `isa` counts where nothing is loaded and nothing stored: the roof over every kernel.
    """
    rate: float = load_library(library_path()).bd_peak(isa.encode())
    return rate / 1e9


def library_path() -> Path:
    """The runtime's shared library: BINDEPLOY_LIBRARY, else in the package, else as installed."""
    named = os.environ.get(LIBRARY_VARIABLE)
    if named:
        if not Path(named).is_file():
            raise BindeployError(f"{LIBRARY_VARIABLE} names `{named}`, which is no file")
        return Path(named)
    found = installed(f"lib/{LIBRARY}")
    if found:
        return found
    raise BindeployError(
        f"`{LIBRARY}` is not built: run `pip install .`, or let {LIBRARY_VARIABLE} name one"
    )


@cache
def load_library(path: Path) -> ctypes.CDLL:
    """The library at `path`, its functions declared, once it is known to be of this version."""
    try:
        library = ctypes.CDLL(str(path))
        for name, (result, arguments) in FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise BindeployError(f"`{path}` is no runtime library: {error}") from error
    version = library.bd_version().decode()
    if version != __version__:
        raise BindeployError(
            f"`{path}` is version {version}, this is bindeploy {__version__}: run `pip install .`"
        )
    return library
