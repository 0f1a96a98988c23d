"""Integers as outputs, two engines, and the choice of golden inputs."""

import numpy as np
import onnx_ir as ir
import pytest

from bindeploy import bits as packed
from bindeploy.convert.engines import run_numpy, run_onnxruntime
from bindeploy.convert.golden import MARGIN, margins, select
from bindeploy.convert.integers import with_integers
from bindeploy.convert.pipeline import convert


def network(sketch):
    graph = sketch((4, 6, 6))
    x = graph.normalize(graph.conv("x", 4, 8, "a"), 8, "bn_a")
    x = graph.normalize(graph.conv(x, 8, 8, "b"), 8, "bn_b")
    return graph.model(graph.linear(graph.node("Flatten", [x]), 288, 10, "c"))


def test_integers_are_int32_outputs_named_after_their_layer(sketch, images):
    latent = network(sketch)
    for model in (latent, convert(latent)):
        proto, names = with_integers(model)
        assert names == ["integers/a", "integers/b", "integers/c"]
        assert [output.name for output in proto.graph.output][1:] == names
        before = [output.name for output in model.graph.outputs]
        assert before == [output.name for output in proto.graph.output][:1]


def test_the_first_integers_are_dot_products_of_signs(sketch, images):
    latent, x = network(sketch), images(3, 4, 6, 6)
    weight = latent.graph.initializers["a.weight"].const_value.numpy()
    window = packed.sign(x)[:, :, 1:4, 2:5]
    expected = np.einsum("nchw,fchw->nf", window, packed.sign(weight))
    for model in (latent, convert(latent)):
        for run in (run_onnxruntime, run_numpy):
            logits, integers = run(model, x)
            assert logits.shape == (3, 10) and logits.dtype == np.float32
            assert {name: array.dtype for name, array in integers.items()} == dict.fromkeys(
                "abc", np.dtype(np.int32)
            )
            np.testing.assert_array_equal(integers["a"][:, :, 2, 3], expected)
            assert integers["b"].shape == (3, 8, 6, 6) and integers["c"].shape == (3, 10)


def test_the_margin_of_an_image_is_its_smallest_binarized_float(sketch):
    graph = sketch((2, 1, 1))
    ones, zeros = np.ones(1), np.zeros(1)
    x = graph.conv_of("x", 2, 1, "a", kernel=(1, 1), pads=(0,) * 4, scale=ones, bias=0.25 + zeros)
    latent = graph.model(graph.conv_of(x, 1, 1, "b", kernel=(1, 1), pads=(0,) * 4))
    inputs = np.array([[3, -0.5], [0, -2e-6], [0, -0.0], [7, 4]], np.float32).reshape(4, 2, 1, 1)
    values = packed.sign(latent.graph.initializers["a.weight"].const_value.numpy())[0, :, 0, 0]
    second = np.abs(packed.sign(inputs[:, :, 0, 0]) @ values + 0.25)
    first = [0.5, 2e-6, np.inf, 4]
    np.testing.assert_allclose(margins(latent, inputs), np.minimum(first, second), rtol=1e-6)
    chosen = select(latent, inputs, 2)
    np.testing.assert_array_equal(chosen.indices, np.argsort(-margins(latent, inputs))[:2])
    assert chosen.skipped == 1 and chosen.margin == np.sort(margins(latent, inputs))[-2]
    np.testing.assert_array_equal(select(latent, inputs, 4).indices, [0, 2, 3])


def test_where_no_image_is_clear_the_clearest_is_taken_and_its_margin_told(sketch):
    graph = sketch((1, 1, 1))
    latent = graph.model(graph.conv_of("x", 1, 1, "a", kernel=(1, 1), pads=(0,) * 4))
    inputs = np.array([1e-9, -3e-8, 2e-8], np.float32).reshape(3, 1, 1, 1)
    chosen = select(latent, inputs, 2)
    assert chosen.indices.tolist() == [1]
    assert chosen.skipped == 3 and chosen.margin == pytest.approx(3e-8)


def test_packed_models_have_margins_too(sketch, images):
    latent, x = network(sketch), images(40, 4, 6, 6)
    packed_model = convert(latent)
    before = ir.to_proto(packed_model)
    wide = margins(packed_model, x)
    assert ir.to_proto(packed_model) == before
    np.testing.assert_allclose(wide, np.minimum(1, np.abs(x).min((1, 2, 3))), rtol=1e-6)
    assert (margins(latent, x) <= wide).all()
    chosen = select(latent, x, 5).indices
    assert (margins(latent, x)[chosen] >= MARGIN).all() and (np.diff(chosen) > 0).all()
