"""The rate that kernels are measured against."""

import pytest

from bindeploy.library import library_path, load_library


@pytest.fixture(scope="module")
def library():
    return load_library(library_path())


def test_every_instruction_set_of_this_cpu_has_a_peak_and_no_other_has(library):
    best = library.bd_isa()
    assert library.bd_peak(best) >= library.bd_peak(b"scalar") / 2 > 1e8
    assert library.bd_peak(b"nonsense") == 0
