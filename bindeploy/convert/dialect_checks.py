"""What a dialect node must keep: each check raises BindeployError naming the node.

Constants are judged where they are constant (packed ops demand it); activations where their type
and shape are known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bindeploy import bits as packed
from bindeploy.errors import BindeployError

LARGEST_SUM = 2**24
"""Beyond it float32 no longer counts: the function bodies would lose the integer."""

LARGEST_INTEGER = 2**31 - 1
"""Of a stride, pad or dilation: what the runtime's fields hold."""


class Layer:
    """A dialect node with its inputs by name."""

    def __init__(
        self, node: ir.Node, names: Sequence[str], types: Mapping[str, ir.DataType]
    ) -> None:
        self.node = node
        self.names = names
        self.types = types

    def fail(self, what: str, remedy: str) -> NoReturn:
        raise BindeployError(
            f"node `{self.node.name}` ({self.node.domain}::{self.node.op_type}) {what}: {remedy}"
        )

    def input(self, name: str) -> ir.Value:
        value = self.node.inputs[self.names.index(name)]
        assert value is not None, "signature() has checked that every input is given"
        return value

    def constant(self, name: str) -> NDArray | None:
        """The value of an input that is constant; None when it is computed."""
        tensor = ir.convenience.get_const_tensor(self.input(name))
        return None if tensor is None else tensor.numpy()

    def required_constant(self, name: str) -> NDArray:
        array = self.constant(name)
        if array is None:
            self.fail(f"computes `{name}`", "make it an initializer")
        return array

    def shape(self, name: str) -> list[int | None] | None:
        """The known dimensions of an input, None for each unknown one; None for an unknown rank."""
        shape = self.input(name).shape
        if shape is None:
            return None
        return [dim if isinstance(dim, int) else None for dim in shape]

    def integer(self, name: str) -> int:
        return self.node.attributes[name].as_int()

    def integers(self, name: str, count: int, least: int) -> Sequence[int]:
        values = self.node.attributes[name].as_ints()
        if len(values) != count or min(values) < least or max(values) > LARGEST_INTEGER:
            self.fail(
                f"has {name} {list(values)}",
                f"give {count} integers of at least {least}, none over {LARGEST_INTEGER}",
            )
        return values


def signature(layer: Layer, attributes: Mapping[str, ir.AttributeType]) -> None:
    """Every input and attribute of the op, of its type, and no other."""
    node = layer.node
    if len(node.inputs) != len(layer.names) or None in node.inputs:
        layer.fail(f"has {len(node.inputs)} inputs", f"give {', '.join(layer.names)}")
    if len(node.outputs) != 1:
        layer.fail(f"has {len(node.outputs)} outputs", "give one")
    for name, kind in attributes.items():
        given = node.attributes.get(name)
        if given is None or given.type != kind:
            layer.fail(
                f"has no attribute `{name}` of type {kind.name}", "every attribute is written"
            )
    for name in node.attributes:
        if name not in attributes:
            known = ", ".join(attributes) or "none"
            layer.fail(f"has attribute `{name}`", f"its attributes are {known}")
    for name in layer.names:
        dtype = layer.input(name).dtype
        if dtype is not None and dtype != layer.types[name]:
            layer.fail(f"has `{name}` of type {dtype.name}", f"give {layer.types[name].name}")


def _vector(layer: Layer, name: str, filters: int) -> NDArray | None:
    """Input `name`, [filters] where it is constant."""
    array = layer.constant(name)
    if array is not None and array.shape != (filters,):
        layer.fail(f"has `{name}` of shape {list(array.shape)}", f"give [{filters}]")
    return array


def _affine(layer: Layer, filters: int) -> None:
    for name in ("scale", "bias"):
        array = _vector(layer, name, filters)
        if array is not None and not np.isfinite(array).all():
            layer.fail(f"has a `{name}` that is not finite", "retrain or repair the weights")


def _direction(layer: Layer, filters: int) -> None:
    array = _vector(layer, "direction", filters)
    if array is not None and not np.isin(array, (-1, 1)).all():
        layer.fail("has a `direction` other than 1 and -1", "give 1 or -1 for each channel")


def output(layer: Layer, filters: int) -> None:
    """scale and bias, or threshold and direction."""
    if "scale" in layer.names:
        _affine(layer, filters)
    else:
        _vector(layer, "threshold", filters)
        _direction(layer, filters)


def _bits(layer: Layer, rank: int) -> NDArray:
    """The packed weight: its rank, its row bytes and its pad bits are right."""
    bits, channels = layer.required_constant("bits"), layer.integer("channels")
    if channels < 1:
        layer.fail(f"has {channels} channels", "give at least 1")
    row = packed.row_bytes(channels)
    if bits.ndim != rank or 0 in bits.shape or bits.shape[-1] != row:
        layer.fail(
            f"has `bits` of shape {list(bits.shape)}", f"rows of {channels} bits take {row} bytes"
        )
    if bits.size // bits.shape[0] * 8 >= LARGEST_SUM:
        layer.fail("sums 2^24 products or more", "split the layer")
    if np.unpackbits(bits, axis=-1, bitorder="little")[..., channels:].any():
        layer.fail("has pad bits that are not 0", "pad every row of `bits` with 0 bits")
    for name in layer.names[2:]:
        layer.required_constant(name)
    return bits


def window(layer: Layer, filters: int, channels: int, kernel: Sequence[int]) -> None:
    """The geometry of a convolution over x [N, channels * group, H, W]."""
    group = layer.integer("group")
    if group < 1 or filters % group:
        layer.fail(f"has {filters} filters in {group} groups", "give a group that divides them")
    strides, dilations = layer.integers("strides", 2, 1), layer.integers("dilations", 2, 1)
    pads = layer.integers("pads", 4, 0)
    pad_value = layer.node.attributes.get_float("pad_value", 0.0)
    if pad_value not in (0.0, 1.0):
        layer.fail(f"has pad_value {pad_value}", "give 0 or 1")
    reach = [dilation * (size - 1) + 1 for dilation, size in zip(dilations, kernel, strict=True)]
    _image(layer, channels * group, reach, strides, pads)


def _image(
    layer: Layer, channels: int, reach: Sequence[int], strides: Sequence[int], pads: Sequence[int]
) -> None:
    """x is [N, channels, H, W] with room for one window, where its shape is known."""
    shape = layer.shape("x")
    if shape is None:
        return
    if len(shape) != 4 or shape[1] not in (None, channels):
        layer.fail(f"reads x of shape {shape}", f"it takes [N, {channels}, H, W]")
    for axis in (0, 1):
        size = shape[2 + axis]
        if size is not None and size + pads[axis] + pads[axis + 2] < reach[axis]:
            layer.fail(f"reads x of shape {shape}", f"its window is {list(reach)}")


def packed_convolution(layer: Layer) -> None:
    bits = _bits(layer, rank=4)
    output(layer, bits.shape[0])
    window(layer, bits.shape[0], layer.integer("channels"), bits.shape[1:3])


def latent_convolution(layer: Layer) -> None:
    weight = layer.shape("weight")
    if weight is None or None in weight:
        return
    if len(weight) != 4 or 0 in weight:
        layer.fail(f"has `weight` of shape {weight}", "give [F, C/group, KH, KW]")
    filters, channels, *kernel = (int(size or 0) for size in weight)
    _affine(layer, filters)
    window(layer, filters, channels, kernel)


def features(layer: Layer, channels: int) -> None:
    shape = layer.shape("x")
    if shape is not None and (not shape or shape[-1] not in (None, channels)):
        layer.fail(f"reads x of shape {shape}", f"it takes [..., {channels}]")


def packed_linear(layer: Layer) -> None:
    bits = _bits(layer, rank=2)
    output(layer, bits.shape[0])
    features(layer, layer.integer("channels"))


def latent_linear(layer: Layer) -> None:
    weight = layer.shape("weight")
    if weight is None or None in weight:
        return
    if len(weight) != 2 or 0 in weight:
        layer.fail(f"has `weight` of shape {weight}", "give [F, C]")
    filters, channels = (int(size or 0) for size in weight)
    _affine(layer, filters)
    features(layer, channels)


def pool(layer: Layer) -> None:
    kernel, strides = layer.integers("kernel_shape", 2, 1), layer.integers("strides", 2, 1)
    pads = layer.integers("pads", 4, 0)
    if any(pads[axis] >= kernel[axis % 2] for axis in range(4)):
        layer.fail(f"has pads {list(pads)} as wide as its kernel", "a window must meet a pixel")
    direction = layer.required_constant("direction")
    _direction(layer, direction.size)
    _image(layer, direction.size, kernel, strides, pads)


def sign(layer: Layer) -> None:
    """Any float tensor has a sign."""
