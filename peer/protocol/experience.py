"""How far forecasts were off: what requests really took over what was predicted, so that the next forecast is right.

Seconds per model, codec and number of boards, learnt request by request, bounded, and half forgotten after minutes: a
way that was slow while something else kept the boards busy gets another chance. Seconds and not a factor: what is left
out of forecasts - the picture, Python, wake-ups in every round - takes as long on a fast link as on a slow one.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from peer.protocol.types import ModelId

LEAST, MOST = 0.5, 4.0
_NEW = 0.3  # weight of a request, once there were a few: one odd one changes no plan
_HALF_LIFE_S = 300.0
_MOST_LESSONS = 256


class Case(NamedTuple):
    """What is learnt about."""

    model: ModelId
    codec: str  # of a shared request; for one board alone its id, or nothing where it is the asked one
    boards: int


@dataclass(frozen=True, slots=True)
class Lesson:
    """Seconds that requests took longer than predicted; from how many, and when learnt (local monotonic seconds)."""

    extra_s: float
    at: float
    requests: int = 1


class Experience:
    """What one board learnt from the requests that it coordinated."""

    def __init__(self, lessons: Mapping[Case, Lesson] | None = None) -> None:
        self._lessons: dict[Case, Lesson] = dict(lessons or {})

    @property
    def lessons(self) -> Mapping[Case, Lesson]:
        """A copy that another process may be given."""
        return dict(self._lessons)

    def learn(self, case: Case, *, predicted_s: float, measured_s: float, now: float) -> None:
        """A request that nothing else disturbed took `measured_s`; `predicted_s` is the forecast by itself.

        What its compute took longer than foreseen is in both: that is the board's own speed, and told elsewhere.
        """
        if predicted_s <= 0 or measured_s <= 0:
            return
        known = self._lessons.get(case)
        requests = 1 + (0 if known is None else known.requests)
        before = self._extra_s(case, now)
        news = min(max(measured_s, LEAST * predicted_s), MOST * predicted_s) - (predicted_s + before)
        weight = max(_NEW, 1 / (1 + requests))
        extra_s = before + weight * min(max(news, -predicted_s), predicted_s)
        self._lessons[case] = Lesson(extra_s, now, requests)
        while len(self._lessons) > _MOST_LESSONS:
            del self._lessons[min(self._lessons, key=lambda case: self._lessons[case].at)]

    def factor(self, case: Case, predicted_s: float, now: float) -> float:
        """What a forecast of `predicted_s` is to be multiplied with; 1 while nothing is known."""
        if predicted_s <= 0:
            return 1.0
        return min(max(1 + self._extra_s(case, now) / predicted_s, LEAST), MOST)

    def keep(self, models: frozenset[ModelId]) -> None:
        """Forget all other models."""
        self._lessons = {case: lesson for case, lesson in self._lessons.items() if case.model in models}

    def _extra_s(self, case: Case, now: float) -> float:
        if case in self._lessons:
            return _left(self._lessons[case], now)
        # Not this very case: what holds up others of its kind, or any request of the model, holds it up as well.
        same = [other for other in self._lessons if other.model == case.model]
        kin = [other for other in same if (other.boards == 1) == (case.boards == 1)] or same
        return sum(_left(self._lessons[other], now) for other in kin) / len(kin) if kin else 0.0


def _left(lesson: Lesson, now: float) -> float:
    """What is not forgotten of it."""
    return lesson.extra_s * math.exp2((lesson.at - now) / _HALF_LIFE_S)
