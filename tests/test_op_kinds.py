"""Every op of the runtime is a layer of bits, a layer of floats, or glue."""

from collections import Counter

import pytest

from bindeploy.emit.plan_format import opcodes
from bindeploy.op_kinds import BINARY, FLOAT, GLUE, KINDS, split


def test_every_op_of_the_runtime_is_of_exactly_one_kind():
    assert Counter(op for ops in KINDS.values() for op in ops) == Counter([*opcodes()])


def test_times_are_summed_by_kind_and_a_kind_without_nodes_is_zero():
    assert split([("binarize", 1.5), ("binary_conv", 4), ("to_nchw", 0.5)]) == {
        BINARY: 4,
        FLOAT: 0,
        GLUE: 2,
    }


def test_an_op_without_a_kind_is_no_glue_by_accident():
    with pytest.raises(KeyError, match="softsign"):
        split([("softsign", 1)])
