"""A board's speed: comparable between unequal shares, lower while requests take longer, and given another chance."""

import pytest

from peer.speedometer import Speedometer, Yardstick, yardstick

STICK = Yardstick(fixed_s=0.002, token_s=0.001, tokens=32)
QUIET = 32 / 0.034


def speedometer() -> Speedometer:
    one = Speedometer()
    one.measured(STICK)
    return one


def test_two_measurements_tell_fixed_work_from_work_per_token() -> None:
    stick = yardstick(few=1, few_s=0.003, many=32, many_s=0.034)
    assert (stick.fixed_s, stick.token_s) == (pytest.approx(0.002), pytest.approx(0.001))
    # Noise that makes the smaller share the slower one leaves a board that is all fixed work, not a negative one.
    assert yardstick(few=1, few_s=0.04, many=32, many_s=0.034).token_s == 0.0


def test_nothing_is_known_before_the_first_measurement() -> None:
    one = Speedometer()
    one.worked(tokens=4, block_s=1.0, now=0.0)
    assert one.speed(0.0) is None


@pytest.mark.parametrize("tokens", [1, 4, 60])
def test_a_small_share_makes_no_board_slow(tokens: int) -> None:
    one = speedometer()
    for at in range(20):
        one.worked(tokens=tokens, block_s=STICK.block_s(tokens), now=float(at))
    assert one.speed(20.0) == pytest.approx(QUIET)


def test_a_board_that_takes_five_times_longer_is_known_for_it_after_a_few_requests_and_not_for_ever() -> None:
    one = speedometer()
    for at in range(6):
        one.worked(tokens=16, block_s=5 * STICK.block_s(16), now=float(at))
    slow = one.speed(5.0)
    assert slow is not None
    assert slow < QUIET / 3.5
    later = one.speed(5.0 + 60.0)
    assert later is not None
    assert later > QUIET / 1.4
