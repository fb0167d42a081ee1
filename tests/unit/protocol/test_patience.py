"""Patience: many times what rounds take of late, within bounds; slowness is believed at once and forgotten slowly."""

from peer.protocol.patience import (
    FIRST_ROUND_S,
    LONGEST_ABSENCE_S,
    LONGEST_ROUND_S,
    SHORTEST_ROUND_S,
    Patience,
)
from peer.protocol.types import ModelId, PeerId

ONE, OTHER = ModelId("11" * 32), ModelId("22" * 32)


def test_an_unknown_model_gets_the_usual_patience_and_no_guess_at_a_rerun() -> None:
    assert (Patience().round_s(ONE), Patience().rerun_s(ONE)) == (FIRST_ROUND_S, 0.0)


def test_a_round_may_take_many_times_what_it_usually_does() -> None:
    patience = Patience()
    patience.learn(ONE, block_s=0.3, run_s=4.0)
    assert patience.round_s(ONE) == 3.0
    assert patience.rerun_s(ONE) == 6.0
    assert patience.round_s(OTHER) == FIRST_ROUND_S
    patience.learn(OTHER, block_s=0.001, run_s=0.01)
    assert patience.round_s(OTHER) == SHORTEST_ROUND_S
    patience.learn(OTHER, block_s=60.0, run_s=700.0)
    assert patience.round_s(OTHER) == LONGEST_ROUND_S


def test_slowness_is_believed_at_once_and_forgotten_slowly() -> None:
    patience = Patience()
    for block_s in (0.1, 0.5, 0.1):
        patience.learn(ONE, block_s=block_s, run_s=1.0)
    assert 2.0 < patience.round_s(ONE) < 5.0
    for _ in range(20):
        patience.learn(ONE, block_s=0.1, run_s=1.0)
    assert patience.round_s(ONE) == 1.0
    patience.keep(frozenset({OTHER}))
    assert patience.round_s(ONE) == FIRST_ROUND_S


def test_who_stays_out_is_left_out_for_longer_and_longer() -> None:
    patience, board = Patience(), PeerId("b")
    assert patience.absent(0.0) == frozenset()
    patience.stayed_out([board], 10.0)
    patience.stayed_out([board], 10.1)  # another request of the same moment
    assert patience.absent(11.9) == {board}
    assert patience.absent(12.0) == frozenset()
    patience.stayed_out([board], 12.5)
    assert patience.absent(16.4) == {board}
    assert patience.absent(16.5) == frozenset()
    patience.stayed_out([board], 30.0)  # well for long enough: as if for the first time
    assert patience.absent(31.9) == {board}
    assert patience.absent(32.0) == frozenset()


def test_nobody_is_left_out_for_good() -> None:
    patience, board, now = Patience(), PeerId("b"), 0.0
    for _ in range(50):
        patience.stayed_out([board], now)
        now = next(now + s for s in range(1, 1000) if not patience.absent(now + s))
    patience.stayed_out([board], now)
    assert not patience.absent(now + LONGEST_ABSENCE_S)
