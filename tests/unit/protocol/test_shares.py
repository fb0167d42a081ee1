"""Shares from speeds: even among equals, in proportion otherwise, and none for who only holds the others up."""

import pytest

from peer.protocol.partition import partition
from peer.protocol.shares import weights, worthwhile


@pytest.mark.parametrize("speeds", [[None] * 4, [100.0, 130.0, 110.0], [50.0], [None, 90.0]])
def test_equals_get_equal_shares(speeds: list[float | None]) -> None:
    assert set(weights(speeds)) == {1.0}


def test_unequal_boards_get_shares_in_proportion_and_the_unknown_one_is_usual() -> None:
    assert weights([100.0, 50.0, None, 100.0]) == (100.0, 50.0, 100.0, 100.0)
    counts = [r.count for r in partition(56, weights([100.0, 50.0, 100.0, 100.0]))]
    assert counts == [16, 8, 16, 16]


@pytest.mark.parametrize(
    ("speeds", "kept"),
    [
        ([None, None], [True, True]),
        ([100.0, 100.0, 10.0, 100.0], [True, True, False, True]),
        ([100.0, 25.0], [True, True]),
        ([100.0, 10.0], [True, False]),  # of two, the slow one is no yardstick
        ([100.0, None, 1.0], [True, True, False]),
    ],
)
def test_who_holds_the_others_up_is_left_out(speeds: list[float | None], kept: list[bool]) -> None:
    assert list(worthwhile(speeds)) == kept
