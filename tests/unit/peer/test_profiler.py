"""A board measures itself step by step, learns from undivided runs, and leaves most of its time to requests."""

import math
from collections.abc import Callable

import pytest

from peer.catalog import _facts
from peer.profiler import Profiler
from peer.protocol.types import ModelFacts, ModelId
from peer.speedometer import Speedometer
from runtime.measure import counts
from runtime.model import Model

MODEL = ModelId("ab" * 32)


def profiler(tiny: Model, usual: Callable[[], ModelId | None] = lambda: MODEL) -> Profiler:
    facts = _facts(tiny.plan)

    def known(model: ModelId) -> ModelFacts | None:
        return facts if model == MODEL else None

    return Profiler({MODEL: tiny}, known, usual, Speedometer())


def measured(one: Profiler, now: float) -> int:
    """Steps until it wants a pause."""
    steps = 0
    while one.idle(now) == 0.0:
        steps += 1
    return steps


def test_a_whole_profile_comes_of_many_short_steps(tiny: Model) -> None:
    one = profiler(tiny)
    assert measured(one, 100.0) > 20
    (times,) = one.profiles
    geometry = tiny.plan.geometry
    assert [point.tokens for point in times.points] == list(counts(geometry.tokens))
    assert times.points[-1].tokens == geometry.tokens
    assert all(point.query_s + point.attend_s > 0 for point in times.points)
    assert times.whole_s > 0
    codecs = {list(tiny.plan.codecs)[codec.codec].name for codec in times.codecs}
    assert tiny.plan.default_codec in codecs
    assert "f32" in codecs
    speed = one._speedometer.speed(100.0)
    assert speed is not None
    assert speed > 0


def test_it_measures_again_soon_once_and_then_seldom(tiny: Model) -> None:
    one = profiler(tiny)
    measured(one, 100.0)
    first = one.idle(100.0)
    assert 0 < first <= 60
    assert measured(one, 100.0 + first) > 20
    assert one.idle(100.0 + first) >= 50


def test_a_board_without_a_quiet_moment_measures_itself_once_beside_its_work(tiny: Model) -> None:
    one = profiler(tiny)
    assert not one.busy(100.0)  # no work has earned it yet
    runs, beside_s = 0, 0.0
    while not one.profiles and runs < 10_000:
        one.worked(0.001)
        while one.busy(100.0):
            beside_s += one._step_s
        runs += 1
    assert one.profiles
    assert 5 < runs < 10_000
    longest_s = 0.1  # of a step of so small a model; one may begin with little left
    assert beside_s <= 0.25 * runs * 0.001 + longest_s
    one.worked(100.0)
    assert not one.busy(1000.0)  # the later looks wait for a quiet moment


def test_nothing_is_measured_without_a_model_or_by_name_alone(tiny: Model) -> None:
    usual: list[ModelId] = []
    one = profiler(tiny, lambda: usual[0] if usual else None)
    assert one.idle(0.0) > 1000
    usual.append(ModelId("cd" * 32))  # it is not here yet
    assert measured(one, 1.0) == 0
    assert not one.profiles
    usual[0] = MODEL
    assert measured(one, 2.0) > 20


def test_undivided_runs_are_learnt_from(tiny: Model) -> None:
    one = profiler(tiny)
    one.whole_took(MODEL, 1.0, 0.0)  # nothing to compare with yet
    measured(one, 0.0)
    before = one.profiles[0].whole_s
    for at in range(30):
        one.whole_took(MODEL, 2 * before, 100.0 + at)
    longer = one._speedometer.longer(130.0)
    # Whether the board is slow or the model: what the next one takes is right.
    assert one.profiles[0].whole_s * longer == pytest.approx(2 * before, rel=0.2)
    one.keep(frozenset())
    assert not one.profiles


def test_a_clock_of_ones_own_is_the_one_that_counts(tiny: Model) -> None:
    one = profiler(tiny)

    def second(step: Callable[[], object]) -> float:
        step()
        return 1.0

    one.timed = second
    measured(one, 0.0)
    (times,) = one.profiles
    assert times.at(5).query_s == 1.0
    assert math.isclose(times.head_s, 1.0)
