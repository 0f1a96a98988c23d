"""What TVM cannot take is one line that names the node; what it can keeps its bits packed."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from bindeploy import bits, target
from bindeploy.emit.tvm import importer
from bindeploy.emit.tvm.compiler import write_module
from bindeploy.emit.tvm.processor import Processor
from bindeploy.errors import BindeployError


@pytest.fixture
def refused(drawing, tmp_path):
    """A function: the line with which the model of one node is refused."""

    def line(op, shape, *constants, domain="", **attributes):
        drawing.output(
            drawing.node(op, drawing.input(shape), *constants, domain=domain, **attributes)
        )
        with pytest.raises(BindeployError) as error:
            write_module(
                ir.from_proto(drawing.model()), target.load("host"), tmp_path / "module.so"
            )
        assert "\n" not in str(error.value)
        return str(error.value)

    return line


def test_an_operator_of_another_domain_is_named(refused):
    assert "TVM has no `shop::Special` (node `Special0`)" in refused(
        "Special", (1, 4), domain="shop"
    )


def test_a_standard_operator_that_tvm_lacks_is_named(refused):
    assert "`StringNormalizer` (node `StringNormalizer0`)" in refused("StringNormalizer", (1, 4))


def test_what_a_converter_of_tvm_raises_is_one_line_with_the_node(refused):
    found = refused("Reshape", (1, 6), np.array([1, 4], np.int64))
    assert "`Reshape` (node `Reshape0`)" in found


def test_a_layer_that_was_not_converted_is_named(refused):
    found = refused("BinaryWeightLinear", (1, 4), np.ones((2, 4), np.float32))
    assert "`BinaryWeightLinear` (node `BinaryWeightLinear0`)" in found


def test_an_open_size_is_named_with_its_input(refused):
    assert "input `x0` has shape [1, 3, H, 8]" in refused("Relu", (1, 3, "H", 8))


def test_convolutions_of_more_pictures_are_refused_by_name(drawing):
    x = drawing.input((4, 3, 5, 5))
    drawing.output(drawing.node("Conv", x, np.ones((2, 3, 1, 1), np.float32)))
    with pytest.raises(BindeployError, match=r"`Conv` \(node `Conv0`\).*4, not one"):
        importer.to_relax(drawing.model(), Processor())


def test_an_unknown_version_says_what_to_install(refused, monkeypatch):
    monkeypatch.setattr(importer.tvm, "__version__", "0.99.0")
    assert refused("Relu", (1, 4)) == (
        "tvm 0.99.0 is not known here: pip install 'bindeploy[tvm]' brings 0.27.x"
    )


def test_weights_of_one_bit_stay_packed(drawing, tmp_path):
    filters, channels = 1024, 2048
    constants = (
        bits.pack(np.random.default_rng(0).choice([-1.0, 1.0], (filters, channels))),
        np.ones(filters, np.float32),
        np.zeros(filters, np.float32),
    )
    x = drawing.input((1, channels))
    linear = {"domain": "bindeploy", "channels": channels}
    drawing.output(drawing.node("BinaryWeightLinear", x, *constants, **linear))
    path = tmp_path / "module.so"
    write_module(ir.from_proto(drawing.model()), target.load("host"), path)
    assert filters * channels // 8 < path.stat().st_size < filters * channels // 4
