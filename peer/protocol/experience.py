"""How far forecasts were off: what requests really took over what was predicted, so that the next forecast is right.

A factor per model, codec and number of boards, learnt request by request, bounded, and half forgotten after minutes: a
way that was slow while something else kept the boards busy gets another chance.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from peer.protocol.types import ModelId

LEAST, MOST = 0.5, 4.0
_MEMORY = 0.7  # of the factor before, per request: one odd request changes no plan
_HALF_LIFE_S = 300.0
_MOST_LESSONS = 256


class Case(NamedTuple):
    """What a factor is for."""

    model: ModelId
    codec: str  # of a shared request; for one board alone its id, or nothing where it is the asked one
    boards: int


@dataclass(frozen=True, slots=True)
class Lesson:
    """The natural logarithm of measured over predicted, and when it was learnt (local monotonic seconds)."""

    log: float
    at: float


class Experience:
    """What one board learnt from the requests that it coordinated."""

    def __init__(self, lessons: Mapping[Case, Lesson] | None = None) -> None:
        self._lessons: dict[Case, Lesson] = dict(lessons or {})

    @property
    def lessons(self) -> Mapping[Case, Lesson]:
        """A copy that another process may be given."""
        return dict(self._lessons)

    def learn(self, case: Case, *, predicted_s: float, measured_s: float, now: float) -> None:
        """A request that nothing else disturbed took `measured_s`; `predicted_s` is the forecast without any factor.

        What its compute took longer than foreseen is in both: that is the board's own speed, and told elsewhere.
        """
        if predicted_s <= 0 or measured_s <= 0:
            return
        log = math.log(min(max(measured_s / predicted_s, LEAST), MOST))
        before = math.log(self.factor(case, now))
        self._lessons[case] = Lesson(_MEMORY * before + (1 - _MEMORY) * log, now)
        while len(self._lessons) > _MOST_LESSONS:
            del self._lessons[min(self._lessons, key=lambda case: self._lessons[case].at)]

    def factor(self, case: Case, now: float) -> float:
        """What a forecast is to be multiplied with; 1 while nothing is known."""
        if case in self._lessons:
            return math.exp(self._log(case, now))
        # Not this very case: what holds up others of its kind, or any request of the model, holds it up as well.
        same = [other for other in self._lessons if other.model == case.model]
        kin = [other for other in same if (other.boards == 1) == (case.boards == 1)] or same
        return math.exp(sum(self._log(other, now) for other in kin) / len(kin)) if kin else 1.0

    def keep(self, models: frozenset[ModelId]) -> None:
        """Forget all other models."""
        self._lessons = {case: lesson for case, lesson in self._lessons.items() if case.model in models}

    def _log(self, case: Case, now: float) -> float:
        lesson = self._lessons.get(case)
        return 0.0 if lesson is None else lesson.log * math.exp2((lesson.at - now) / _HALF_LIFE_S)
