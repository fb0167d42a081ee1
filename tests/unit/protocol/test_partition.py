"""Every split covers all tokens once, leaves nobody empty and stays as close to the weights as whole tokens allow."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol_cases import member, peer

from peer.protocol import ring
from peer.protocol.partition import partition

weights = st.lists(st.floats(min_value=1e-6, max_value=1e6), min_size=1, max_size=32)


@settings(deadline=None, max_examples=300)
@given(shares=weights, extra=st.integers(0, 500))
def test_ranges_are_contiguous_cover_everything_and_nobody_is_empty(shares: list[float], extra: int) -> None:
    tokens = len(shares) + extra
    ranges = partition(tokens, shares)
    assert len(ranges) == len(shares)
    assert [r.start for r in ranges] == [0, *(r.stop for r in ranges[:-1])]
    assert ranges[-1].stop == tokens
    assert all(r.count >= 1 for r in ranges)
    assert ranges == partition(tokens, shares)


@settings(deadline=None, max_examples=300)
@given(shares=weights, extra=st.integers(0, 500))
def test_counts_are_proportional_within_one_token_unless_somebody_had_to_be_lifted(
    shares: list[float], extra: int
) -> None:
    tokens = len(shares) + extra
    exact = [tokens * share / math.fsum(shares) for share in shares]
    counts = [r.count for r in partition(tokens, shares)]
    if min(exact) >= 1:
        assert all(abs(count - share) < 1 + 1e-6 for count, share in zip(counts, exact, strict=True))
    for count, share in zip(counts, exact, strict=True):
        assert count <= max(1, share + 1)


@settings(deadline=None, max_examples=100)
@given(boards=st.integers(1, 64), extra=st.integers(0, 300))
def test_even_weights_differ_by_one_token_at_most(boards: int, extra: int) -> None:
    counts = [r.count for r in partition(boards + extra, [1.0] * boards)]
    assert max(counts) - min(counts) <= 1
    assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize("shares", [[1e308, 1e308, 1e308], [5e-324, 5e-324], [1e-320, 1e308], [1, 10**6]])
def test_extreme_weights_still_cover(shares: list[float]) -> None:
    ranges = partition(197, shares)
    assert ranges[-1].stop == 197
    assert all(r.count >= 1 for r in ranges)


@pytest.mark.parametrize("shares", [[], [1.0] * 5, [0.0, 1.0], [-1.0, 2.0], [math.nan, 1.0], [math.inf, 1.0]])
def test_impossible_splits_are_refused(shares: list[float]) -> None:
    with pytest.raises(ValueError, match=r"cannot be split|must be a positive number"):
        partition(4, shares)


@settings(deadline=None, max_examples=50)
@given(order=st.permutations(range(6)))
def test_ring_and_epoch_do_not_depend_on_the_order_of_the_list(order: list[int]) -> None:
    members = [member(i) for i in order]
    assert ring.order(members) == tuple(peer(i) for i in range(6))
    assert ring.epoch(members) == ring.epoch([member(i) for i in range(6)])


def test_the_epoch_names_members_and_incarnations() -> None:
    base = [member(i) for i in range(4)]
    others = [base[:3], [*base, member(4)], [*base[:3], member(3, incarnation=2)], []]
    assert ring.epoch(base) == 0x5B5894B7  # the same on every board and in every release of protocol version 1
    assert len({ring.epoch(base), *(ring.epoch(other) for other in others)}) == 5


@pytest.mark.parametrize("count", range(1, 9))
def test_chosen_boards_are_the_asked_one_and_its_successors(count: int) -> None:
    members = [member(i) for i in range(8)]
    for me in range(8):
        boards = ring.chosen(members, peer(me), count)
        assert peer(me) in boards
        assert len(set(boards)) == count
        assert list(boards) == sorted(boards)
        assert set(boards) == {peer((me + step) % 8) for step in range(count)}
    step = [ring.successor(i, count) for i in range(count)]
    assert sorted(step) == list(range(count))
