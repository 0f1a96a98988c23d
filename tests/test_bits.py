import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bindeploy import bits


def test_sign_of_both_zeros_is_plus_one_and_of_nan_minus_one():
    values = np.array([0.0, -0.0, -1e-45, 1e-45, np.nan], np.float32)
    assert bits.sign(values).tolist() == [1, 1, -1, 1, -1]
    assert bits.unpack(bits.pack(values), 5).tolist() == [1, 1, -1, 1, -1]


def test_channel_c_is_bit_c_mod_8_of_byte_c_div_8_and_one_means_minus_one():
    for channel in (0, 7, 8, 31, 32, 40):
        values = np.ones(41, np.float32)
        values[channel] = -1
        packed = bits.pack(values)
        assert packed.nonzero()[0].tolist() == [channel // 8]
        assert packed[channel // 8] == 1 << channel % 8


@pytest.mark.parametrize(("count", "size"), [(1, 4), (31, 4), (32, 4), (33, 8), (64, 8), (520, 68)])
def test_rows_are_padded_to_32_bits(count, size):
    assert bits.row_bytes(count) == size
    assert bits.pack(np.ones(count)).shape == (size,)


@given(st.integers(1, 200), st.integers(0, 2**32 - 1))
def test_packing_round_trips_and_dot_is_the_integer_dot_product(count, seed):
    generator = np.random.default_rng(seed)
    a, b = generator.choice([-1, 1], (2, count))
    assert np.array_equal(bits.unpack(bits.pack(a), count), a)
    assert bits.dot(bits.pack(a), bits.pack(b), count) == a @ b
