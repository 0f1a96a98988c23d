"""Images to calibrate with are read from hostile files, and steps are found in one look at them."""

import io
import zipfile

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bindeploy.convert import activation_scales, calibration
from bindeploy.convert.activation_scales import GRID, Magnitudes
from bindeploy.convert.dialect_int8 import quantize
from bindeploy.errors import BindeployError

SHAPE = (3, 4, 5)


@pytest.fixture
def pictures(images):
    return images(7, *SHAPE)


def test_a_file_of_either_kind_and_a_folder_give_the_same_images(pictures, tmp_path):
    np.save(tmp_path / "a.npy", pictures[:3])
    np.savez(tmp_path / "b.npz", pictures[3:5])
    np.savez_compressed(tmp_path / "c.npz", pictures[5:])
    (tmp_path / "notes.txt").write_text("no images")
    np.testing.assert_array_equal(calibration.read(tmp_path, SHAPE), pictures)
    np.testing.assert_array_equal(calibration.read(tmp_path / "b.npz", SHAPE), pictures[3:5])
    np.testing.assert_array_equal(calibration.read(tmp_path / "a.npy", (3, None, 5)), pictures[:3])


def test_no_more_is_read_than_there_is_room_for(pictures, tmp_path, monkeypatch):
    image = pictures[0].nbytes
    monkeypatch.setattr(calibration, "LARGEST", 4 * image + 1)
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", pictures)
    np.testing.assert_array_equal(calibration.read(tmp_path / "a.npy", SHAPE), pictures[:4])
    expected = np.concatenate([pictures[:2], pictures[:2]])
    np.testing.assert_array_equal(calibration.read(tmp_path, SHAPE), expected)
    monkeypatch.setattr(calibration, "LARGEST", image - 1)
    with pytest.raises(BindeployError, match="`.*a.npy` holds images of 240 bytes: at most"):
        calibration.read(tmp_path / "a.npy", SHAPE)


def saved(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def header(shape: str) -> bytes:
    """A header that promises more than follows."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(64)


def archive(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for name, content in members.items():
            made.writestr(f"{name}.npy", content)
    return file.getvalue()


class Trap:
    """Its pickle calls a function when it is loaded."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


ONES = np.ones((2, *SHAPE), np.float32)
HOSTILE = {
    "nothing": ("a.npy", b"", "cannot be read"),
    "no array": ("a.npy", b"\x89PNG", "cannot be read"),
    "half an array": ("a.npy", saved(ONES)[:-9], "cannot be read .*ends within image 1"),
    "a pickle": ("a.npy", saved(np.array([Trap()], dtype=object)), "holds object: save float32"),
    "doubles": ("a.npy", saved(ONES.astype("f8")), "holds float64: save float32"),
    "bytes": ("a.npy", saved(ONES.astype("u1")), "holds uint8: save float32"),
    "columns": ("a.npy", saved(np.asfortranarray(ONES)), "is stored by columns"),
    "one image": ("a.npy", saved(ONES[0]), r"holds \[3, 4, 5\]: give images of \[N, 3, 4, 5\]"),
    "another size": ("a.npy", saved(ONES[:, :2]), r"holds \[2, 2, 4, 5\]: give images of"),
    "no image": ("a.npy", saved(ONES[:0]), ".*no image: give at least one"),
    "NaN": ("a.npy", saved(ONES * np.float32(np.nan)), ".*not finite: give finite images"),
    "a promise": ("a.npy", header("(99999999999, 3, 4, 5)"), "cannot be read .*image 0"),
    "code for a shape": ("a.npy", header("(__import__('os'),3,4,5)"), "cannot be read"),
    "no archive": ("a.npz", saved(ONES), "cannot be read"),
    "two arrays": ("a.npz", archive(x=saved(ONES), y=saved(ONES)), "holds 2 arrays .`x`, `y`.: "),
    "a pickle inside": ("a.npz", archive(x=saved(np.array([Trap()], dtype=object))), "holds obj"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_file_that_is_no_images_is_refused_in_one_line(case, tmp_path):
    name, content, message = HOSTILE[case]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BindeployError, match=f"`{path}` {message}") as caught:
        calibration.read(path, SHAPE)
    assert "\n" not in str(caught.value)


def test_what_is_no_file_and_folders_without_images_are_refused(pictures, tmp_path):
    with pytest.raises(BindeployError, match="`.*absent.npy` is no file: give images as"):
        calibration.read(tmp_path / "absent.npy", SHAPE)
    with pytest.raises(BindeployError, match="holds no .npy or .npz file"):
        calibration.read(tmp_path, SHAPE)
    np.save(tmp_path / "a.npy", pictures)
    np.save(tmp_path / "b.npy", pictures[:, :, :2])
    with pytest.raises(BindeployError, match=r"`.*b.npy` holds images of \[3, 2, 5\], `a.npy` of"):
        calibration.read(tmp_path, (3, None, 5))


@settings(max_examples=40)
@given(st.binary(max_size=200), st.integers(0, 200))
def test_whatever_the_bytes_only_our_error_comes(content, kept):
    whole = saved(ONES)
    for suffix, mixed in ((".npy", whole[:kept] + content), (".npz", content)):
        path = HERE / f"mixed{suffix}"
        path.write_bytes(mixed)
        try:
            assert calibration.read(path, SHAPE).shape[1:] == SHAPE
        except BindeployError as error:
            assert str(path) in str(error)


@pytest.fixture(autouse=True, scope="module")
def _here(tmp_path_factory):
    global HERE
    HERE = tmp_path_factory.mktemp("mixed")


def counted(*batches) -> Magnitudes:
    magnitudes = Magnitudes()
    for batch in batches:
        magnitudes.add(np.asarray(batch, np.float32))
    return magnitudes


@given(
    st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=9), min_size=1),
)
def test_the_histogram_does_not_depend_on_the_order_of_the_batches(batches):
    once, forward, backward = counted(sum(batches, [])), counted(*batches), counted(*batches[::-1])
    for other in (forward, backward):
        assert other.limit == once.limit and other.largest == once.largest
        np.testing.assert_array_equal(other.counts, once.counts)
    assert once.counts.sum() == np.count_nonzero(sum(batches, []))


def error(x, scale) -> float:
    return float(((x.astype(np.float64) - scale * quantize(x, np.float32(scale))) ** 2).mean())


@pytest.mark.parametrize("tail", [0.0, 12.0, 100.0])
def test_the_step_has_the_least_error_of_the_grid(tail):
    """Judged on the values themselves, not on the histogram of them."""
    x = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
    x[0] = tail
    found = counted(x).scale()
    largest = float(np.abs(x).max())
    errors = [error(x, share * largest / 127) for share in GRID]
    assert error(x, found) <= 1.01 * min(errors)
    assert (found < 0.8 * largest / 127) == (tail > 0), "rare large values are clipped"


def test_values_that_fill_their_range_are_not_clipped():
    x = np.random.default_rng(0).uniform(-3, 3, 20000).astype(np.float32)
    assert counted(x).scale() == pytest.approx(np.abs(x).max() / 127, rel=0.02)


def test_zeros_and_tiny_values_have_a_step_that_divides():
    assert counted([0.0, -0.0]).scale() == 1
    tiny = counted([1e-42, 0]).scale()
    assert tiny >= np.finfo(np.float32).tiny
    huge = counted([3e38, -3e38]).scale()
    assert np.isfinite(huge) and huge > 1e36


def network(sketch, batch="N"):
    network = sketch((2, 4, 4))
    network.nodes.clear()
    doubled = network.node("Mul", ["x", network.constant("two", np.float32(2))])
    root = network.node("Sqrt", [doubled])
    return network.model(root, batch=batch), doubled, root


def test_every_activation_gets_its_own_step(sketch, images):
    """In batches, of which the last one is smaller, and the input itself among them."""
    model, doubled, _ = network(sketch)
    x = images(activation_scales.BATCH + 5, 2, 4, 4)
    found = activation_scales.scales(model, x, ["x", doubled])
    assert found["x"] == counted(x).scale()
    assert found[doubled] == counted(2 * x).scale()
    assert [value.name for value in model.graph.outputs] != [doubled], "the model is as it was"


def test_a_batch_of_fixed_size_is_filled_with_the_first_images(sketch, images):
    model, doubled, _ = network(sketch, batch=4)
    x = images(6, 2, 4, 4)
    found = activation_scales.scales(model, x, [doubled])
    assert found[doubled] == counted(2 * np.concatenate([x, x[:2]])).scale()


def test_images_that_do_not_fit_and_activations_that_are_not_finite_are_refused(sketch, images):
    model, _, root = network(sketch)
    with pytest.raises(BindeployError, match=r"the images are \[5, 2, 4, 3\], and input `x` takes"):
        activation_scales.scales(model, images(5, 2, 4, 3), [root])
    with pytest.raises(BindeployError, match="no images to calibrate with"):
        activation_scales.scales(model, images(0, 2, 4, 4), [root])
    with pytest.raises(BindeployError, match=f"`{root}` is not finite for one of the images"):
        activation_scales.scales(model, images(5, 2, 4, 4), [root])
    model.graph.inputs.append(
        ir.Value(name="z", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1]))
    )
    with pytest.raises(BindeployError, match="has 2 inputs: calibration takes models of one"):
        activation_scales.scales(model, images(5, 2, 4, 4), [root])
