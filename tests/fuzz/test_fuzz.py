"""A few seconds of what `fuzz_convert.py` does for as long as one likes, always the same ones."""

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mutations import mutate
from seed_models import MODELS, copy
from through import through

SHORT = settings(
    derandomize=True,
    max_examples=30,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
    database=None,
)


@pytest.mark.parametrize("name", MODELS)
def test_what_the_fuzzers_begin_with_converts(name, tmp_path):
    through(copy(name).SerializeToString(), tmp_path)
    assert (tmp_path / "converted.onnx").is_file()


@pytest.mark.parametrize("name", MODELS)
@SHORT
@given(choices=st.lists(st.integers(0, 2**16), min_size=20, max_size=60), changes=st.integers(1, 5))
def test_a_changed_model_converts_or_is_refused(name, choices, changes, tmp_path_factory):
    left = iter(choices)
    proto = copy(name)
    mutate(proto, lambda count: next(left, 0) % count, changes)
    through(proto.SerializeToString(), tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("name", MODELS)
@SHORT
@given(st.data())
def test_a_file_with_changed_bytes_converts_or_is_refused(name, tmp_path_factory, data):
    content = bytearray(copy(name).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    through(bytes(content), tmp_path_factory.mktemp("fuzz"))
