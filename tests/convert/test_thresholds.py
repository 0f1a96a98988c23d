"""The integer comparison equals the float expression on every integer of the accumulator."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bindeploy.convert.batch_normalization import BatchNormalization
from bindeploy.convert.dialect_reference import compare
from bindeploy.convert.fuse_batch_normalization_into_threshold import ALWAYS, thresholds

floats = st.floats(-8, 8, width=32) | st.sampled_from([0.0, -0.0, 0.1, -0.25, 1e-30, 3e4])
variances = st.floats(0, 16, width=32)
filters = st.tuples(floats, floats, floats, floats, floats, variances)


def affine(scale, bias, integers):
    """scale * dot + bias in float32, a rounding each: what every engine computes."""
    return scale.astype(np.float32) * integers.astype(np.float32) + bias.astype(np.float32)


def normalization(gamma, beta, mean, var, epsilon=1e-5):
    node = ir.node("BatchNormalization", [])
    slope = gamma / np.sqrt(var + epsilon)
    return BatchNormalization(node, slope=slope, mean=mean, beta=beta)


@given(st.lists(filters, min_size=1, max_size=5), st.integers(1, 130))
def test_thresholds_agree_with_the_expression_on_every_integer(rows, largest):
    scale, bias, gamma, beta, mean, var = np.array(rows, np.float64).T
    found = thresholds(scale, bias, largest, normalization(gamma, beta, mean, var))
    integers = np.arange(-largest, largest + 1)[:, None]
    slope = gamma / np.sqrt(var + 1e-5)
    expression = (affine(scale, bias, integers).astype(np.float64) - mean) * slope + beta
    np.testing.assert_array_equal(compare(integers, *found), np.where(expression >= 0, 1, -1))


@given(st.lists(st.tuples(floats, floats), min_size=1, max_size=5), st.integers(1, 130))
def test_without_normalization_the_expression_is_scale_and_bias(rows, largest):
    scale, bias = np.array(rows, np.float64).T
    found = thresholds(scale, bias, largest)
    integers = np.arange(-largest, largest + 1)[:, None]
    expected = np.where(affine(scale, bias, integers) >= 0, 1, -1)
    np.testing.assert_array_equal(compare(integers, *found), expected)


@pytest.mark.parametrize(
    ("scale", "bias", "expected"),
    [
        (0.5, 0.0, (0, 1)),
        (0.5, -1.0, (2, 1)),
        (-0.5, 0.0, (1, -1)),
        (-0.5, 1.0, (3, -1)),
        (0.0, 0.0, (ALWAYS, 1)),
        (0.0, -0.1, (ALWAYS, -1)),
        (0.5, 100.0, (ALWAYS, 1)),
        (0.5, -100.0, (ALWAYS, -1)),
        (0.5, -4.5, (9, 1)),
        (0.5, 4.5, (ALWAYS, 1)),
        (-0.5, 4.0, (9, -1)),
    ],
)
def test_the_table_of_cases(scale, bias, expected):
    threshold, direction = thresholds(np.array([scale]), np.array([bias]), 9)
    assert (threshold[0], direction[0]) == expected
    assert threshold.dtype == np.int32 and direction.dtype == np.int8


@pytest.mark.parametrize(("gamma", "expected"), [(1.0, (3, 1)), (-1.0, (4, -1))])
def test_a_mean_that_a_float32_dot_product_equals_is_a_tie(gamma, expected):
    scale, mean = np.float32([0.1]), np.float32([0.1]) * np.float32(3)
    assert float(scale[0]) * 3 != float(mean[0]), "in float64 it would be none"
    zero, one = np.zeros(1), np.ones(1)
    threshold, direction = thresholds(
        scale, zero, 9, normalization(gamma * one, zero, mean.astype(np.float64), one)
    )
    assert (threshold[0], direction[0]) == expected
