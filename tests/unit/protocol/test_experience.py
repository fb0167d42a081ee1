"""What requests teach forecasts: believed slowly, within bounds, and not for ever."""

import pytest

from peer.protocol.experience import LEAST, MOST, Case, Experience
from peer.protocol.types import ModelId

MODEL, OTHER = ModelId("ab" * 32), ModelId("cd" * 32)
FOUR = Case(MODEL, "tc53", 4)


def test_a_forecast_that_is_always_a_third_too_short_is_put_right() -> None:
    known = Experience()
    for at in range(12):
        known.learn(FOUR, predicted_s=0.3, measured_s=0.4, now=float(at))
    assert known.factor(FOUR, 0.3, 12.0) == pytest.approx(4 / 3, rel=0.03)


def test_what_a_slow_link_taught_holds_on_a_fast_one() -> None:
    """What forecasts leave out is not the link's: a request of half the time is as many milliseconds longer."""
    known = Experience()
    for at in range(12):
        known.learn(FOUR, predicted_s=0.4, measured_s=0.5, now=float(at))
    assert 0.2 * known.factor(FOUR, 0.2, 12.0) == pytest.approx(0.3, rel=0.05)


def test_little_experience_is_not_held_against_the_first_requests() -> None:
    """After three of them most of what was missing is foreseen, and half of it after one."""
    known, found = Experience(), []
    for at in range(3):
        known.learn(FOUR, predicted_s=0.3, measured_s=0.4, now=float(at))
        found.append(0.3 * known.factor(FOUR, 0.3, float(at)) - 0.3)
    assert found == pytest.approx([0.05, 0.0667, 0.0767], rel=0.02)


def test_one_odd_request_changes_little() -> None:
    known = Experience()
    for at in range(12):
        known.learn(FOUR, predicted_s=0.3, measured_s=0.3, now=float(at))
    known.learn(FOUR, predicted_s=0.3, measured_s=60.0, now=12.0)
    assert 1.0 < known.factor(FOUR, 0.3, 12.0) < 1.31


@pytest.mark.parametrize(("measured_s", "bound"), [(1e6, MOST), (1e-6, LEAST)])
def test_nothing_is_believed_beyond_the_bounds(measured_s: float, bound: float) -> None:
    known = Experience()
    for at in range(50):
        known.learn(FOUR, predicted_s=1.0, measured_s=measured_s, now=float(at))
    assert known.factor(FOUR, 1.0, 50.0) == pytest.approx(bound, rel=0.2)
    assert LEAST <= known.factor(FOUR, 1.0, 50.0) <= MOST


def test_what_was_slow_once_gets_another_chance() -> None:
    known = Experience()
    for at in range(20):
        known.learn(FOUR, predicted_s=1.0, measured_s=3.0, now=float(at))
    assert known.factor(FOUR, 1.0, 20.0) > 2.5
    assert known.factor(FOUR, 1.0, 20.0 + 3600.0) < 1.01


def test_a_new_case_begins_with_what_its_kin_taught_and_other_models_teach_nothing() -> None:
    known = Experience()
    for at in range(20):
        known.learn(FOUR, predicted_s=1.0, measured_s=2.0, now=float(at))
    assert known.factor(Case(MODEL, "f32", 3), 1.0, 20.0) == pytest.approx(known.factor(FOUR, 1.0, 20.0))
    assert known.factor(Case(OTHER, "tc53", 4), 1.0, 20.0) == 1.0
    for at in range(20, 40):
        known.learn(Case(MODEL, "", 1), predicted_s=1.0, measured_s=1.0, now=float(at))
    assert known.factor(Case(MODEL, "", 1), 1.0, 40.0) == pytest.approx(1.0, abs=0.05)
    assert known.factor(FOUR, 1.0, 40.0) > 1.8
    again = Experience(known.lessons)
    assert again.factor(FOUR, 1.0, 40.0) == known.factor(FOUR, 1.0, 40.0)
    known.keep(frozenset({OTHER}))
    assert known.factor(FOUR, 1.0, 40.0) == 1.0


def test_memory_is_bounded_and_nonsense_teaches_nothing() -> None:
    known = Experience()
    for number in range(1000):
        known.learn(Case(MODEL, f"codec{number}", 2), predicted_s=1.0, measured_s=2.0, now=float(number))
    assert len(known.lessons) <= 256
    known = Experience()
    known.learn(FOUR, predicted_s=0.0, measured_s=1.0, now=0.0)
    known.learn(FOUR, predicted_s=1.0, measured_s=-1.0, now=0.0)
    assert not known.lessons
