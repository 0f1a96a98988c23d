"""From latent weights to packed sign bits: the dialect, and the passes that lead into it.

`from bindeploy.convert import convert` gives the function that packs an `onnx_ir.Model`; it is
imported when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bindeploy.convert.pipeline import convert

__all__ = ["convert"]


def __getattr__(name: str) -> object:
    if name != "convert":
        raise AttributeError(f"module 'bindeploy.convert' has no attribute '{name}'")
    from bindeploy.convert import pipeline

    return pipeline.convert
