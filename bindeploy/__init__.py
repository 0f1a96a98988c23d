"""Train binary neural networks, pack them into bits, run the bits anywhere.

The public names, each imported when first used, so that `import bindeploy` is instant:

- `binarize(model, method="bnn++", mode="bwa")`: binary layers in any torch module
- `export(source, target, out)`: a run or an ONNX file to a `Bundle`
- `Session(path)`: run a model here, with onnxruntime's interface
- `onnxruntime_library()`: the kernels as operators for onnxruntime itself
- `Target`, `Bundle`: what is built for, and what is built
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bindeploy.bundle import Bundle
    from bindeploy.bundle import from_source as export
    from bindeploy.ort import onnxruntime_library
    from bindeploy.session import Session
    from bindeploy.target import Target
    from bindeploy.train.binarization import binarize

__version__ = "0.1.0"
__all__ = [
    "Bundle",
    "Session",
    "Target",
    "__version__",
    "binarize",
    "export",
    "onnxruntime_library",
]

_HOMES = {
    "Bundle": ("bindeploy.bundle", "Bundle"),
    "Session": ("bindeploy.session", "Session"),
    "Target": ("bindeploy.target", "Target"),
    "binarize": ("bindeploy.train.binarization", "binarize"),
    "export": ("bindeploy.bundle", "from_source"),
    "onnxruntime_library": ("bindeploy.ort", "onnxruntime_library"),
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'bindeploy' has no attribute '{name}'")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)
