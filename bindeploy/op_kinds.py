"""What the time of a network goes to: layers of bits, layers of floats, and the glue between them.

Glue is packing, layout changes, copies, quantization, and maps and sums of single values: folded
into the layer before it, it would cost little.
"""

from __future__ import annotations

from collections.abc import Iterable

BINARY, FLOAT, GLUE = "binary layers", "float layers", "glue"

KINDS: dict[str, tuple[str, ...]] = {
    BINARY: (
        "binary_conv",
        "binary_conv_threshold",
        "binary_weight_conv",
        "binary_weight_int8_conv",
        "binary_max_pool",
        "saturating_conv",
        "saturating_conv_threshold",
    ),
    FLOAT: (
        "conv",
        "int8_conv",
        "int8_conv_threshold",
        "max_pool",
        "average_pool",
        "matmul",
        "layer_norm",
        "softmax",
        "gelu",
        "gelu_tanh",
        "silu",
        "hard_swish",
        "sigmoid",
        "tanh",
        "erf",
    ),
    GLUE: (
        "to_nhwc",
        "to_nchw",
        "binarize",
        "binarize_planes",
        "unpack",
        "add",
        "affine",
        "clip",
        "prelu",
        "crop_pad",
        "quantize_int8",
        "concat",
        "depth_to_space",
        "space_to_depth",
        "rearrange",
    ),
}
"""Every op of `runtime/src/ops.inc` stands in one kind. An int8 layer is no layer of bits."""

KIND_OF = {op: kind for kind, ops in KINDS.items() for op in ops}


def split(times: Iterable[tuple[str, float]]) -> dict[str, float]:
    """The sum of each kind over pairs (op, time), every kind named.

    >>> split([("conv", 3), ("add", 1), ("conv", 2)])
    {'binary layers': 0, 'float layers': 5, 'glue': 1}
    """
    sums: dict[str, float] = dict.fromkeys(KINDS, 0)
    for op, time in times:
        sums[KIND_OF[op]] += time
    return sums
