"""Sums of 8 bits: function bodies under stock onnxruntime, numpy meanings, and a loop by hand."""

import numpy as np
import onnx_ir as ir
import pytest
from one_node import WINDOWS, both, draw, one_node, signed_zeros

from bindeploy import bits as packed
from bindeploy.convert import dialect
from bindeploy.convert.dialect_reference import pack_filters
from bindeploy.convert.load import checked
from bindeploy.convert.plain import plain
from bindeploy.errors import BindeployError

CHANNELS = (3, 31, 32, 33, 64, 100)


def by_hand(x, weight, strides, pads, dilations, group, pad_value):
    """int [N, F, H', W'], one output and one word after the other."""
    top, left, bottom, right = pads
    around = [(0, 0), (0, 0), (top, bottom), (left, right)]
    x = np.pad(packed.sign(x), around, constant_values=pad_value)
    filters, channels, rows, columns = weight.shape
    signs = packed.sign(weight)
    height = (x.shape[2] - dilations[0] * (rows - 1) - 1) // strides[0] + 1
    width = (x.shape[3] - dilations[1] * (columns - 1) - 1) // strides[1] + 1
    y = np.zeros((len(x), filters, height, width), int)
    for n, f, i, j in np.ndindex(y.shape):
        first = f // (filters // group) * channels
        for r, c in np.ndindex(rows, columns):
            place = i * strides[0] + r * dilations[0], j * strides[1] + c * dilations[1]
            tap = x[n, first : first + channels, *place]
            for word in range(0, channels, 32):
                dot = int(tap[word : word + 32] @ signs[f, word : word + 32, r, c])
                y[n, f, i, j] = min(max(y[n, f, i, j] + dot, -128), 127)
    return y


def leaning(x, weight):
    """Both mostly positive, every other filter mostly negative from the second tap on."""
    weight = weight + np.float32(1)
    weight[::2].reshape(len(weight[::2]), weight.shape[1], -1)[:, :, 1:] -= 2
    return signed_zeros(x + np.float32(1)), weight


@pytest.mark.parametrize("pad_value", [0.0, 1.0])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("kernel", [(1, 1), (3, 2), (5, 5)])
@pytest.mark.parametrize("channels", CHANNELS)
def test_convolutions(channels, kernel, window, pad_value, images):
    geometry = {**WINDOWS[window], "pad_value": pad_value}
    if kernel == (5, 5):
        geometry["dilations"] = [1, 1]
    weight, affine, comparison = draw(channels, kernel=kernel)
    x, weight = leaning(images(2, channels * geometry["group"], 6, 7), weight)
    sums = by_hand(x, weight, **geometry)
    scale, bias = (values[:, None, None] for values in affine)
    expected = scale * sums.astype(np.float32) + bias
    bits, packed_geometry = pack_filters(weight), {"channels": channels, **geometry}
    for domain, constants, attributes in (
        (dialect.DOMAIN, (bits, *affine), packed_geometry),
        (dialect.LATENT, (weight, *affine), geometry),
    ):
        theirs, ours = both((domain, "SaturatingBinaryConv2d"), x, constants, attributes)
        np.testing.assert_array_equal(theirs, expected)
        np.testing.assert_array_equal(ours, expected)
    key = (dialect.DOMAIN, "SaturatingBinaryConv2dThreshold")
    theirs, ours = both(key, x, (bits, *comparison), packed_geometry)
    threshold, direction = (values[:, None, None] for values in comparison)
    expected = np.where((sums >= threshold) == (direction > 0), 1, -1)
    np.testing.assert_array_equal(theirs, expected)
    np.testing.assert_array_equal(ours, expected)
    if channels == 100 and kernel == (5, 5):
        assert sums.min() == -128 and sums.max() == 127 and (sums % 2 == 1).any()


@pytest.mark.parametrize("leading", [(4,), (2, 5)])
@pytest.mark.parametrize("channels", [*CHANNELS, 300])
def test_linear_layers(channels, leading, images):
    weight, affine, comparison = draw(channels, kernel=())
    weight += np.float32(1)
    weight[::2, 160:] -= 2
    x = signed_zeros(images(*leading, channels) + np.float32(1))
    window = {"strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "group": 1, "pad_value": 1}
    rows, one = x.reshape(-1, channels, 1, 1), weight[:, :, None, None]
    sums = by_hand(rows, one, **window).reshape(*leading, -1)
    scale, bias = affine
    expected = scale * sums.astype(np.float32) + bias
    bits = pack_filters(weight)
    for domain, constants, attributes in (
        (dialect.DOMAIN, (bits, *affine), {"channels": channels}),
        (dialect.LATENT, (weight, *affine), {}),
    ):
        theirs, ours = both((domain, "SaturatingBinaryLinear"), x, constants, attributes)
        np.testing.assert_array_equal(theirs, expected)
        np.testing.assert_array_equal(ours, expected)
    key = (dialect.DOMAIN, "SaturatingBinaryLinearThreshold")
    theirs, ours = both(key, x, (bits, *comparison), {"channels": channels})
    threshold, direction = comparison
    expected = np.where((sums >= threshold) == (direction > 0), 1, -1)
    np.testing.assert_array_equal(theirs, expected)
    np.testing.assert_array_equal(ours, expected)
    if channels == 300:
        assert sums.max() == 127 and (sums % 2 == 1).any() and (sums < 100).any()


def test_the_order_of_words_counts(images):
    """+160 then -32 is 95, the other way round 96."""
    weight = np.ones((1, 160), np.float32)
    x = np.ones((1, 160), np.float32)
    x[:, 128:] = -1
    for row, expected in ((x, 95), (x[:, ::-1], 96)):
        row = np.ascontiguousarray(row)
        one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
        key = (dialect.LATENT, "SaturatingBinaryLinear")
        assert [y.item() for y in both(key, row, (weight, one, zero), {})] == [expected] * 2


def renamed(proto, op_type):
    """The same file with another loop in the body of its function."""
    for node in proto.functions[0].node:
        if node.op_type == "Scan":
            node.op_type = op_type
    return proto


def test_scan_is_read_in_the_bodies_of_our_operators_alone(images):
    weight, affine, _ = draw(40, kernel=())
    constants = pack_filters(weight), *affine
    key = (dialect.DOMAIN, "SaturatingBinaryLinear")
    model = one_node(key, images(2, 40), constants, {"channels": 40})
    checked(ir.to_proto(model), "it")
    with pytest.raises(BindeployError, match="is a Loop, which no engine here runs"):
        checked(renamed(ir.to_proto(model), "Loop"), "it")
    foreign = ir.to_proto(model)
    foreign.functions[0].name = "Mine"
    with pytest.raises(BindeployError, match="is a Scan, which no engine here runs"):
        checked(foreign, "it")
    inlined = ir.to_proto(plain(model))
    with pytest.raises(BindeployError, match="is a Scan, which no engine here runs"):
        checked(inlined, "it")
