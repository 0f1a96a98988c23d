"""The dialect in numpy: every dot product by xor and popcount on packed rows.

This is the second opinion on the function bodies: nothing here convolves floats, except the ops
whose input stays float. Arrays come as the ONNX nodes hand them, NCHW and float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bindeploy import bits as packed

Array = NDArray

LOWEST, HIGHEST = -128, 127
"""Where a sum of 8 bits saturates, after every word of 32 channels of a tap."""


def _output_size(size: int, kernel: int, stride: int, dilation: int) -> int:
    return (size - dilation * (kernel - 1) - 1) // stride + 1


def _taps(
    size: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> Iterator[tuple[int, int, tuple[slice, slice]]]:
    """Every tap (row, column) of a window, with the pixels it reads in a padded image of `size`."""
    rows = _output_size(size[0], kernel[0], strides[0], dilations[0])
    columns = _output_size(size[1], kernel[1], strides[1], dilations[1])
    for row in range(kernel[0]):
        for column in range(kernel[1]):
            top, left = row * dilations[0], column * dilations[1]
            vertical = slice(top, top + (rows - 1) * strides[0] + 1, strides[0])
            horizontal = slice(left, left + (columns - 1) * strides[1] + 1, strides[1])
            yield row, column, (vertical, horizontal)


def _pad(pixels: Array, pads: Sequence[int], value: float) -> Array:
    """Pad the two axes before the last of `pixels` [..., H, W, C]."""
    top, left, bottom, right = pads
    widths = [(0, 0)] * (pixels.ndim - 3) + [(top, bottom), (left, right), (0, 0)]
    return np.pad(pixels, widths, constant_values=value)


def _words(rows: Array) -> Array:
    """Packed rows u8 [..., 4n] as u32 [..., n]: a quarter of the popcounts."""
    return np.ascontiguousarray(rows).view(np.uint32)


def _parts(channels: int, saturates: bool) -> list[tuple[slice, int]]:
    """The words of a row that are added at once, and their channels: all, or one after the other
    where sums saturate after each.
    """
    if not saturates:
        return [(slice(None), channels)]
    firsts = range(0, channels, packed.WORD)
    return [
        (slice(first // packed.WORD, first // packed.WORD + 1), min(channels - first, packed.WORD))
        for first in firsts
    ]


def _image_integers(
    image: Array,
    bits: Array,
    channels: int,
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    pad_value: float,
    saturates: bool,
) -> Array:
    """int32 dots [H', W', F] of one image [H, W, channels]; a tap in a 0 pad adds nothing."""
    padded = _pad(image, pads, 1.0)
    inside = _pad(np.ones((*image.shape[:2], 1), bool), pads, pad_value == 1.0)[..., 0]
    rows, filters = _words(packed.pack(padded)), _words(bits)
    kernel = bits.shape[1:3]
    total: Array = np.zeros((), np.int32)
    for row, column, pixels in _taps(padded.shape[:2], kernel, strides, dilations):
        for words, count in _parts(channels, saturates):
            seen, own = rows[pixels][:, :, None, words], filters[:, row, column, words]
            total = total + packed.dot(seen, own, count) * inside[pixels][..., None]
            total = np.clip(total, LOWEST, HIGHEST) if saturates else total
    return total.astype(np.int32)


def convolution_integers(
    x: Array,
    bits: Array,
    *,
    channels: int,
    group: int,
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    pad_value: float,
    saturates: bool = False,
) -> NDArray[np.int32]:
    """int32 [N, F, H', W']: the dot of sign(x) [N, C, H, W] with the packed filters, exact or in
    sums of 8 bits.
    """
    geometry = (channels, strides, pads, dilations, pad_value, saturates)
    pixels = np.moveaxis(x, 1, -1).reshape(x.shape[0], *x.shape[2:], group, channels)
    filters = bits.reshape(group, -1, *bits.shape[1:])
    images = [
        np.concatenate(
            [_image_integers(image[:, :, g], filters[g], *geometry) for g in range(group)], axis=-1
        )
        for image in pixels
    ]
    return np.moveaxis(np.stack(images), -1, 1).astype(np.int32)


def linear_integers(
    x: Array, bits: Array, *, channels: int, saturates: bool = False
) -> NDArray[np.int32]:
    """int32 [..., F]: the dot of sign(x) [..., channels] with the packed rows, as above."""
    rows, filters = _words(packed.pack(x)), _words(bits)
    total: Array = np.zeros((*x.shape[:-1], len(bits)), np.int32)
    for words, count in _parts(channels, saturates):
        dots = [packed.dot(rows[..., words], filter_[words], count) for filter_ in filters]
        total = total + np.stack(dots, axis=-1)
        total = np.clip(total, LOWEST, HIGHEST) if saturates else total
    return total.astype(np.int32)


def affine(dot: Array, scale: Array, bias: Array) -> NDArray[np.float32]:
    """scale * dot + bias in float32: one rounding for the product, one for the sum."""
    product = np.multiply(scale, dot.astype(np.float32), dtype=np.float32)
    return np.add(product, bias, dtype=np.float32)


def compare(dot: Array, threshold: Array, direction: Array) -> NDArray[np.float32]:
    """+1 iff (dot >= threshold), negated where direction is -1."""
    return np.where((dot >= threshold) == (direction > 0), np.float32(1), np.float32(-1))


def _per_channel(vector: Array) -> Array:
    return vector[:, None, None]


def binary_conv2d(x: Array, bits: Array, scale: Array, bias: Array, **geometry: Any) -> Array:
    dot = convolution_integers(x, bits, **geometry)
    return affine(dot, _per_channel(scale), _per_channel(bias))


def binary_conv2d_threshold(
    x: Array, bits: Array, threshold: Array, direction: Array, **geometry: Any
) -> Array:
    dot = convolution_integers(x, bits, **geometry)
    return compare(dot, _per_channel(threshold), _per_channel(direction))


def binary_linear(x: Array, bits: Array, scale: Array, bias: Array, channels: int) -> Array:
    return affine(linear_integers(x, bits, channels=channels), scale, bias)


def binary_linear_threshold(
    x: Array, bits: Array, threshold: Array, direction: Array, channels: int
) -> Array:
    return compare(linear_integers(x, bits, channels=channels), threshold, direction)


def binary_weight_conv2d(
    x: Array,
    bits: Array,
    scale: Array,
    bias: Array,
    channels: int,
    group: int,
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    pad_value: float,
) -> Array:
    """The sum of +-x over the window is taken in float64 and rounded once."""
    pixels = np.moveaxis(x, 1, -1).reshape(x.shape[0], *x.shape[2:], group, channels)
    padded = np.moveaxis(_pad(np.moveaxis(pixels, 3, 1), pads, pad_value), 1, 3)
    weight = packed.unpack(bits, channels).astype(np.float64)
    weight = weight.reshape(group, -1, *weight.shape[1:])
    dot: Array = np.zeros(())
    for row, column, window in _taps(padded.shape[1:3], bits.shape[1:3], strides, dilations):
        taps = padded[:, *window].astype(np.float64)
        dot = dot + np.einsum("nhwgc,gfc->ngfhw", taps, weight[:, :, row, column])
    dot = dot.reshape(dot.shape[0], -1, *dot.shape[3:])
    return affine(dot, _per_channel(scale), _per_channel(bias))


def binary_weight_linear(x: Array, bits: Array, scale: Array, bias: Array, channels: int) -> Array:
    """The sum of +-x is taken in float64 and rounded once."""
    weight = packed.unpack(bits, channels).astype(np.float64)
    return affine(x.astype(np.float64) @ weight.T, scale, bias)


def binary_max_pool2d(
    x: Array,
    direction: Array,
    kernel_shape: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
) -> Array:
    """The pool of signs is an OR: of the +1 where direction is 1, of the -1 where it is -1."""
    wanted = np.moveaxis((x >= 0) == _per_channel(direction > 0), 1, -1)
    padded = _pad(wanted, pads, False)
    windows = _taps(padded.shape[1:3], kernel_shape, strides, (1, 1))
    found = np.any([padded[:, *pixels] for _, _, pixels in windows], axis=0)
    return np.moveaxis(np.where(found, direction, -direction), -1, 1).astype(np.float32)


def pack_filters(weight: Array) -> NDArray[np.uint8]:
    """bits u8 [F, KH, KW, bytes] of a latent weight [F, C, KH, KW], or [F, bytes] of [F, C]."""
    return packed.pack(np.moveaxis(weight, 1, -1))


def latent_binary_conv2d(
    x: Array, weight: Array, scale: Array, bias: Array, **geometry: Any
) -> Array:
    bits = pack_filters(weight)
    return binary_conv2d(x, bits, scale, bias, channels=weight.shape[1], **geometry)


def latent_binary_weight_conv2d(
    x: Array, weight: Array, scale: Array, bias: Array, **geometry: Any
) -> Array:
    bits = pack_filters(weight)
    return binary_weight_conv2d(x, bits, scale, bias, channels=weight.shape[1], **geometry)


def latent_binary_linear(x: Array, weight: Array, scale: Array, bias: Array) -> Array:
    return binary_linear(x, pack_filters(weight), scale, bias, channels=weight.shape[1])


def latent_binary_weight_linear(x: Array, weight: Array, scale: Array, bias: Array) -> Array:
    return binary_weight_linear(x, pack_filters(weight), scale, bias, channels=weight.shape[1])


def binary_sign(x: Array) -> Array:
    return packed.sign(x)
