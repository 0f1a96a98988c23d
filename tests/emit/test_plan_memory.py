"""The arena: what lives at the same time never shares a byte."""

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from bindeploy.emit.plan_format import aligned
from bindeploy.emit.plan_memory import Lifetime, place

lifetimes = st.lists(
    st.builds(
        lambda size, first, length: Lifetime(size, first, first + length),
        st.integers(1, 5000),
        st.integers(0, 30),
        st.integers(0, 10),
    ),
    max_size=40,
)


@given(lifetimes)
def test_tensors_that_live_together_have_disjoint_bytes(lives):
    offsets, _ = place(lives)
    for (a, at), (b, bt) in combinations(zip(lives, offsets, strict=True), 2):
        together = not (a.last < b.first or b.last < a.first)
        apart = at + a.size <= bt or bt + b.size <= at
        assert apart or not together


@given(lifetimes)
def test_offsets_are_aligned_and_end_inside_the_arena(lives):
    offsets, arena_bytes = place(lives)
    assert arena_bytes % 64 == 0
    for life, offset in zip(lives, offsets, strict=True):
        assert offset >= 0 and offset % 64 == 0
        assert offset + life.size <= arena_bytes


@given(lifetimes)
def test_the_arena_holds_what_lives_at_once_and_no_more_than_everything(lives):
    _, arena_bytes = place(lives)
    alive = (
        sum(aligned(life.size) for life in lives if life.first <= step <= life.last)
        for step in range(41)
    )
    assert max(alive) <= arena_bytes <= sum(aligned(life.size) for life in lives)


def test_a_chain_needs_two_buffers_at_a_time():
    chain = [Lifetime(64, step, step + 1) for step in range(10)]
    assert place(chain) == ([0, 64] * 5, 128)


def test_the_largest_tensor_is_placed_first_and_a_gap_is_filled():
    lives = [Lifetime(64, 0, 1), Lifetime(256, 0, 0), Lifetime(128, 1, 2), Lifetime(64, 2, 2)]
    offsets, arena_bytes = place(lives)
    assert offsets == [256, 0, 0, 128]
    assert arena_bytes == 320


def test_no_tensors_need_no_arena():
    assert place([]) == ([], 0)
