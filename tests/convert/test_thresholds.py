"""The integer comparison equals the float expression on every integer of the accumulator."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bindeploy.convert.chains import follow
from bindeploy.convert.channelwise import Layout
from bindeploy.convert.channelwise_operators import read
from bindeploy.convert.dialect_reference import compare
from bindeploy.convert.thresholds import ALWAYS, Chain, NoThreshold, thresholds

floats = st.floats(-8, 8, width=32) | st.sampled_from([0.0, -0.0, 0.1, -0.25, 1e-30, 3e4])
variances = st.floats(0, 16, width=32)
filters = st.tuples(floats, floats, floats, floats, floats, variances)


def chain(scale, bias, *nodes, shape=None):
    """The Chain of nodes (operator, constants, attributes) after a layer that gives [N, F]."""
    scale, bias = np.float32(scale), np.float32(bias)
    shape = shape or ["N", len(scale)]
    start = value = ir.val("y", ir.DataType.FLOAT, shape)
    x = ir.val("x", ir.DataType.FLOAT, ["N", 4])
    made = [ir.node("Layer", [x], outputs=[start])]
    for number, (kind, arrays, attributes) in enumerate(nodes):
        constants = [
            ir.val(f"c{number}.{i}", const_value=ir.tensor(np.asarray(array, np.float32)))
            for i, array in enumerate(arrays)
        ]
        node = ir.node(kind, [value, *constants], attributes=attributes, name=f"n{number}")
        made.append(node)
        (value,) = node.outputs
    ir.Graph([x], [value], nodes=made)
    steps = follow(start, Layout.fresh(len(shape), 1 - len(shape), len(scale)))
    assert len(steps) == len(nodes)
    return Chain(scale, bias, steps)


def every_integer(largest):
    return np.arange(-largest, largest + 1)


def comparison(found, integers):
    return compare(integers[:, None], found.threshold, found.direction)


def affine(scale, bias, integers):
    """scale * dot + bias in float32, a rounding each: what every engine computes."""
    return scale.astype(np.float32) * integers.astype(np.float32) + bias.astype(np.float32)


def normalization(gamma, beta, mean, var):
    return "BatchNormalization", [gamma, beta, mean, var], {"epsilon": 1e-5}


@given(st.lists(filters, min_size=1, max_size=5), st.integers(1, 130))
def test_thresholds_agree_with_the_expression_on_every_integer(rows, largest):
    scale, bias, gamma, beta, mean, var = np.array(rows, np.float32).T
    integers = every_integer(largest)
    found = thresholds(chain(scale, bias, normalization(gamma, beta, mean, var)), integers)
    gamma, beta, mean, var = (a.astype(np.float64) for a in (gamma, beta, mean, var))
    slope = gamma / np.sqrt(var + float(np.float32(1e-5)))
    y = affine(scale, bias, integers[:, None]).astype(np.float64)
    expected = np.where((y - mean) * slope + beta >= 0, 1, -1)
    np.testing.assert_array_equal(comparison(found, integers), expected)


@given(st.lists(st.tuples(floats, floats), min_size=1, max_size=5), st.integers(1, 130))
def test_without_a_function_the_expression_is_scale_and_bias(rows, largest):
    scale, bias = np.array(rows, np.float32).T
    integers = every_integer(largest)
    expected = np.where(affine(scale, bias, integers[:, None]) >= 0, 1, -1)
    found = thresholds(chain(scale, bias), integers)
    np.testing.assert_array_equal(comparison(found, integers), expected)


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
    found = thresholds(chain([scale], [bias]), every_integer(9))
    assert (found.threshold[0], found.direction[0]) == expected
    assert found.threshold.dtype == np.int32 and found.direction.dtype == np.int8


@pytest.mark.parametrize(("gamma", "expected"), [(1.0, (3, 1)), (-1.0, (4, -1))])
def test_a_mean_that_a_float32_dot_product_equals_is_a_tie(gamma, expected):
    scale, mean = np.float32([0.1]), np.float32([0.1]) * np.float32(3)
    assert float(scale[0]) * 3 != float(mean[0]), "in float64 it would be none"
    zero, one = np.zeros(1), np.ones(1)
    found = thresholds(
        chain(scale, zero, normalization(gamma * one, zero, mean, one)), every_integer(9)
    )
    assert (found.threshold[0], found.direction[0]) == expected


def test_integers_that_do_not_occur_do_not_count():
    """|d| - 2 is negative at -1, 0 and 1: a pit, but for its left wall, which does not occur."""
    pit = chain([1.0], [0.0], ("Abs", [], {}), ("Sub", [-1.0], {}), ("Sub", [3.0], {}))
    with pytest.raises(NoThreshold, match=r"^Abs `n0` turns in channel 0: no single threshold$"):
        thresholds(pit, every_integer(5))
    found = thresholds(pit, np.array([-1, 1, 3, 5]))
    assert (found.threshold[0], found.direction[0]) == (3, 1)


def test_the_channel_that_turns_is_named():
    slope = [0.25, 0.0, 1.0, -0.5, -0.5]
    bent = chain([1.0] * 5, [0.0] * 5, ("PRelu", [slope], {}), ("Sub", [1.0], {}))
    with pytest.raises(NoThreshold, match=r"^PRelu `n0` turns in channel 3: no single threshold$"):
        thresholds(bent, every_integer(7))


def test_a_negative_slope_whose_turn_changes_no_sign_has_a_threshold():
    """y < 0 throughout in channel 0; in channel 1 the branch that falls stays below 2."""
    bent = chain([1.0, 1.0], [-9.0, 4.0], ("PRelu", [-0.5], {}), ("Sub", [2.0], {}))
    found = thresholds(bent, every_integer(7))
    assert found.threshold.tolist() == [6, -2] and found.direction.tolist() == [-1, 1]


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ([("Mul", [3e38], {}), ("Sub", [0.0], {}), ("Mul", [0.0], {})], "Mul `n2` gives NaN"),
        ([("Sub", [1.0], {}), ("Tanh", [], {}), ("Add", [0.5], {})], "engines round Tanh `n1`"),
        ([("Sigmoid", [], {}), ("Sub", [0.5], {})], "engines round Sigmoid `n0` differently"),
    ],
)
def test_what_engines_may_compute_differently_has_no_threshold(nodes, why):
    with pytest.raises(NoThreshold, match=why):
        thresholds(chain([3.0], [0.0], *nodes), every_integer(7))


def test_a_constant_divided_by_what_may_be_zero_has_no_threshold():
    """1 / 0 is infinity and 1 / -0 minus infinity; engines do not agree on which zero it is."""
    node = ir.val("y", ir.DataType.FLOAT, ["N", 2])
    one = ir.val("one", const_value=ir.tensor(np.float32(1)))
    divided = read(ir.node("Div", [one, node]), node, Layout.fresh(2, -1, 2))
    with pytest.raises(NoThreshold, match="gives NaN in channel 1"):
        thresholds(Chain(np.float32([1, 1]), np.float32([0.5, 0]), [divided]), every_integer(3))
    found = thresholds(Chain(np.float32([1]), np.float32([0.5]), [divided]), every_integer(3))
    assert (found.threshold[0], found.direction[0]) == (0, 1)


def test_a_pool_of_infinities_that_decide_nothing_rises():
    """3e38 * 2 is infinite, HardSigmoid of it 1: the sign is +1 throughout."""
    pool = ("MaxPool", [], {"kernel_shape": [2, 1]})
    made = chain([-3e38], [0.0], pool, ("HardSigmoid", [], {}), shape=["N", 1, 4, 4])
    found = thresholds(made, every_integer(2))
    assert found.threshold[0] == ALWAYS and found.pools[0].tolist() == [1]


def test_of_a_function_of_which_only_the_sign_is_known_the_sign_suffices():
    nodes = ("Sub", [1.0], {}), ("Tanh", [], {}), ("Mul", [2.0], {})
    found = thresholds(chain([1.0], [0.0], *nodes), every_integer(7))
    assert (found.threshold[0], found.direction[0]) == (1, 1)
    found = thresholds(chain([1.0], [0.0], ("Sigmoid", [], {})), every_integer(7))
    assert (found.threshold[0], found.direction[0]) == (ALWAYS, 1)


def test_thousands_of_filters_with_thousands_of_products_take_a_moment():
    """A dense layer of 9216 inputs and 4096 filters: tried at 14 integers a filter, not 18433."""
    random = np.random.default_rng(1)
    count = 4096
    vectors = [random.normal(size=count) for _ in range(3)]
    nodes = normalization(*vectors, np.ones(count)), ("PRelu", [np.full(count, 0.1)], {})
    scale = np.full(count, 0.01)
    made = chain(scale, np.zeros(count), *nodes)
    tried = 0
    positive = Chain.positive

    def count_tries(self, integers):
        nonlocal tried
        tried += np.broadcast(integers, self.scale[:, None]).size
        return positive(self, integers)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Chain, "positive", count_tries)
        found = thresholds(made, every_integer(9216))
    assert tried <= 20 * count
    assert (found.threshold != ALWAYS).any()


def test_too_many_sums_to_try_are_refused_in_words():
    count = 2**15
    bent = chain(np.ones(count), np.zeros(count), ("PRelu", [-np.ones(count)], {}))
    with pytest.raises(NoThreshold, match="16385 sums of 32768 filters are too many to try"):
        thresholds(bent, every_integer(8192))
