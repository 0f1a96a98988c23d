"""Each op of the dialect: its function body under stock onnxruntime equals its numpy meaning."""

import numpy as np
import onnx
import pytest
from one_node import WINDOWS, both, draw, one_node, signed_zeros

from bindeploy import bits as packed
from bindeploy.convert import dialect
from bindeploy.convert.dialect_reference import pack_filters
from bindeploy.errors import BindeployError

CHANNELS = (3, 31, 32, 33, 64, 70)


@pytest.mark.parametrize("pad_value", [0.0, 1.0])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("channels", CHANNELS)
def test_convolutions(channels, window, pad_value, images):
    geometry = {**WINDOWS[window], "pad_value": pad_value}
    x = signed_zeros(images(2, channels * geometry["group"], 7, 8))
    weight, affine, comparison = draw(channels)
    bits, packed_geometry = pack_filters(weight), {"channels": channels, **geometry}
    results = {}
    for domain, name, constants, attributes in (
        (dialect.DOMAIN, "BinaryConv2d", (bits, *affine), packed_geometry),
        (dialect.DOMAIN, "BinaryConv2dThreshold", (bits, *comparison), packed_geometry),
        (dialect.LATENT, "BinaryConv2d", (weight, *affine), geometry),
    ):
        theirs, ours = both((domain, name), x, constants, attributes)
        np.testing.assert_array_equal(ours, theirs)
        results[domain, name] = ours
    np.testing.assert_array_equal(
        results[dialect.DOMAIN, "BinaryConv2d"], results[dialect.LATENT, "BinaryConv2d"]
    )
    for domain, constants, attributes in (
        (dialect.DOMAIN, (bits, *affine), packed_geometry),
        (dialect.LATENT, (weight, *affine), geometry),
    ):
        theirs, ours = both((domain, "BinaryWeightConv2d"), x, constants, attributes)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("leading", [(4,), (2, 5)])
@pytest.mark.parametrize("channels", CHANNELS)
def test_linear_layers(channels, leading, images):
    x = signed_zeros(images(*leading, channels))
    weight, affine, comparison = draw(channels, kernel=())
    bits = pack_filters(weight)
    for domain, name, constants, attributes in (
        (dialect.DOMAIN, "BinaryLinear", (bits, *affine), {"channels": channels}),
        (dialect.DOMAIN, "BinaryLinearThreshold", (bits, *comparison), {"channels": channels}),
        (dialect.LATENT, "BinaryLinear", (weight, *affine), {}),
    ):
        theirs, ours = both((domain, name), x, constants, attributes)
        np.testing.assert_array_equal(ours, theirs)
    for domain, constants, attributes in (
        (dialect.DOMAIN, (bits, *affine), {"channels": channels}),
        (dialect.LATENT, (weight, *affine), {}),
    ):
        theirs, ours = both((domain, "BinaryWeightLinear"), x, constants, attributes)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 0, 1, 2]])
def test_max_pool(pads, images):
    x = signed_zeros(images(3, 5, 7, 6))
    direction = np.array([1, -1, 1, -1, -1], np.int8)
    attributes = {"kernel_shape": [2, 3], "strides": [1, 2], "pads": pads}
    theirs, ours = both((dialect.DOMAIN, "BinaryMaxPool2d"), x, (direction,), attributes)
    np.testing.assert_array_equal(ours, theirs)
    assert set(np.unique(ours)) == {-1, 1}


def test_sign_of_zeros_and_nan(images):
    x = np.array([[-2.0, -0.0, 0.0, 3.0, np.nan]], np.float32)
    theirs, ours = both((dialect.LATENT, "BinarySign"), x, (), {})
    np.testing.assert_array_equal(ours, [[-1, 1, 1, 1, -1]])
    np.testing.assert_array_equal(theirs, ours)


def test_onnxruntime_neither_folds_the_scale_nor_fuses_the_sum(images):
    """scale * dot + bias is rounded twice, for scales and biases of every magnitude."""
    channels, filters = 70, 256
    x = images(2, channels, 9, 9)
    weight, _, _ = draw(channels, filters, (3, 3))
    random = np.random.default_rng(5)
    scale = (random.uniform(1, 2, filters) * 2.0 ** random.integers(-20, 20, filters)).astype("f4")
    bias = (-scale * random.integers(-60, 60, filters) * 1.0000001).astype(np.float32)
    geometry = {"channels": channels, **WINDOWS["padded"], "pad_value": 1.0}
    bits = pack_filters(weight)
    integers = dialect.reference.convolution_integers(x, bits, **geometry).astype(np.float32)
    theirs, _ = both((dialect.DOMAIN, "BinaryConv2d"), x, (bits, scale, bias), geometry)
    product = (scale[:, None, None] * integers).astype(np.float32)
    np.testing.assert_array_equal(theirs, product + bias[:, None, None])


def test_the_meaning_is_a_plain_sum_of_products(images):
    """A second look at the reference itself: one output by hand, in a corner with padded taps."""
    weight, _, _ = draw(5, kernel=(3, 3))
    x = images(1, 5, 4, 4)
    for pad_value in (0.0, 1.0):
        geometry = {**WINDOWS["padded"], "pad_value": pad_value}
        found = dialect.reference.convolution_integers(
            x, pack_filters(weight), channels=5, **geometry
        )
        padded = np.pad(packed.sign(x[0]), [(0, 0), (1, 1), (1, 1)], constant_values=pad_value)
        expected = (packed.sign(weight) * padded[None, :, :3, :3]).sum((1, 2, 3))
        np.testing.assert_array_equal(found[0, :, 0, 0], expected)


def test_registering_twice_changes_nothing():
    dialect.register_schemas()
    for domain, name in dialect.OPS:
        schema = onnx.defs.get_schema(name, domain=domain)
        assert schema.since_version == 1 and schema.has_type_and_shape_inference_function


def test_only_the_functions_in_use_are_attached(images):
    weight, affine, _ = draw(8, kernel=())
    model = one_node(
        (dialect.DOMAIN, "BinaryLinear"),
        images(1, 8),
        (pack_filters(weight), *affine),
        {"channels": 8},
    )
    dialect.attach_functions(model)
    assert [key[:2] for key in model.functions] == [("bindeploy", "BinaryLinear")]


GEOMETRY = {"channels": 5, **WINDOWS["padded"], "pad_value": 1.0}
BREAKAGES = {
    "a missing attribute": ({"pads": None}, {}, "has no attribute `pads` of type INTS"),
    "a foreign attribute": ({"alpha": 1}, {}, "has attribute `alpha`: its attributes are channels"),
    "a wrong attribute type": ({"group": 1.0}, {}, "has no attribute `group` of type INT"),
    "a group that does not divide": ({"group": 4}, {}, "6 filters in 4 groups"),
    "a stride of zero": ({"strides": [0, 1]}, {}, r"strides \[0, 1\]"),
    "a negative pad": ({"pads": [0, -1, 0, 0]}, {}, "pads .* give 4 integers of at least 0"),
    "a pad value of two": ({"pad_value": 2.0}, {}, "pad_value 2.0: give 0 or 1"),
    "no channels": ({"channels": 0}, {}, "has 0 channels"),
    "other channels": ({"channels": 6}, {}, "pad bits|it takes"),
    "too many channels": ({"channels": 33}, {}, "rows of 33 bits take 8 bytes"),
    "too large a window": ({"dilations": [9, 1]}, {}, r"its window is \[19, 3\]"),
    "pad bits": ({}, {"bits": lambda a: a | 128}, "pad bits that are not 0"),
    "bits of rank three": ({}, {"bits": lambda a: a[0]}, "has `bits` of shape"),
    "signed bits": ({}, {"bits": lambda a: a.astype(np.int8)}, "`bits` of type INT8: give UINT8"),
    "a NaN scale": ({}, {"scale": lambda a: a * np.float32(np.nan)}, "`scale` that is not finite"),
    "an infinite bias": ({}, {"bias": lambda a: a + np.float32(np.inf)}, "`bias` that is not fin"),
    "a short scale": ({}, {"scale": lambda a: a[1:]}, r"`scale` of shape \[5\]: give \[6\]"),
    "a double scale": ({}, {"scale": lambda a: a.astype("f8")}, "type DOUBLE: give FLOAT"),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_verify_names_the_node_and_what_is_wrong(breakage, images):
    attributes, changes, message = BREAKAGES[breakage]
    weight, (scale, bias), _ = draw(5, kernel=(3, 3))
    constants = {"bits": pack_filters(weight), "scale": scale, "bias": bias}
    constants = {key: changes.get(key, lambda a: a)(array) for key, array in constants.items()}
    given = {key: value for key, value in {**GEOMETRY, **attributes}.items() if value is not None}
    model = one_node(
        (dialect.DOMAIN, "BinaryConv2d"), images(1, 5, 6, 6), constants.values(), given
    )
    with pytest.raises(BindeployError, match=f"node `layer` .*{message}") as caught:
        dialect.verify(model)
    assert "\n" not in str(caught.value)


def test_verify_refuses_wrong_images_directions_and_names(images):
    weight, affine, (threshold, direction) = draw(5, kernel=(3, 3))
    bits = pack_filters(weight)
    key = (dialect.DOMAIN, "BinaryConv2d")
    with pytest.raises(BindeployError, match=r"reads x of shape \[None, 4, 6, 6\]: it takes"):
        dialect.verify(one_node(key, images(1, 4, 6, 6), (bits, *affine), GEOMETRY))
    with pytest.raises(BindeployError, match="`x` of type DOUBLE"):
        dialect.verify(one_node(key, images(1, 5, 6, 6).astype("f8"), (bits, *affine), GEOMETRY))
    with pytest.raises(BindeployError, match="has no name of its own"):
        dialect.verify(one_node(key, images(1, 5, 6, 6), (bits, *affine), GEOMETRY, name=""))
    with pytest.raises(BindeployError, match="`direction` other than 1 and -1"):
        dialect.verify(
            one_node(
                (dialect.DOMAIN, "BinaryConv2dThreshold"),
                images(1, 5, 6, 6),
                (bits, threshold, direction * np.int8(2)),
                GEOMETRY,
            )
        )
    pool = {"kernel_shape": [2, 2], "strides": [1, 1], "pads": [0, 2, 0, 0]}
    with pytest.raises(BindeployError, match="as wide as its kernel"):
        dialect.verify(
            one_node(
                (dialect.DOMAIN, "BinaryMaxPool2d"),
                images(1, 6, 6, 6),
                (direction,),
                pool,
            )
        )
