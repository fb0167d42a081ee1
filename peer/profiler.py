"""Keeps this board's profile: measures a model step by step while nothing is under way, and learns from requests.

Never in a request's way for longer than one step (a block, or an undivided run of seconds). How much of the board's
time it takes is bounded: the next measurement begins after a pause of many times what the last one took. A board that
has had no quiet moment since its start takes the steps of its first measurement between requests: as long as it does
not know itself, it shares no work.
"""

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace

from peer.protocol.forecast import codec_index, mean_block_s, quoted_tokens
from peer.protocol.profile import CodecTimes, Point, StageTimes, line_between
from peer.protocol.types import ModelFacts, ModelId
from peer.speedometer import Speedometer
from runtime.errors import RuntimeFailure
from runtime.measure import CodecCost, ModelTimes, Timed, measure, measure_codec, timed
from runtime.model import Model
from runtime.plan import CodecKind, Source

_SECOND_LOOK_S = 5.0  # the first may have met a machine that was starting
_SOONEST_AGAIN_S = 60.0
_WORSE = 1.1  # times what it was: more is hardly believed of a quiet measurement, and by the next one it is
_FIRST_PAUSE, _PAUSE = 20.0, 300.0  # times what a measurement took: a third of a per cent of a core in the long run
_AT_ONCE, _LEAST_PAUSE_S, _LATER = 0.0, 0.01, 3600.0
_BESIDE_WORK = 0.25  # of the time that requests took, for a first measurement that finds no quiet moment
_PLAIN = (CodecKind.F32, CodecKind.F16, CodecKind.INT8, CodecKind.INT4)  # no graphs: loading them costs no memory
_WHOLE_MEMORY = 0.7  # of what an undivided run took before


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stick:
    """The yardstick of a profiled model."""

    times: StageTimes
    facts: ModelFacts

    @property
    def tokens(self) -> int:
        return quoted_tokens(self.facts)

    def block_s(self, tokens: float) -> float:
        return mean_block_s(self.times, self.facts, tokens)


class Profiler:
    """Profiles by model. One thread uses it, the one that computes."""

    def __init__(
        self,
        models: Mapping[ModelId, Model],
        facts: Callable[[ModelId], ModelFacts | None],
        usual: Callable[[], ModelId | None],
        speedometer: Speedometer,
    ) -> None:
        """`usual` names the model that is measured at start; others are when a request has used them."""
        self.timed: Timed = timed
        self._models = models
        self._facts = facts
        self._usual = usual
        self._speedometer = speedometer
        self._times: dict[ModelId, StageTimes] = {}
        self._estimated: set[ModelId] = set()  # models whose undivided run was too long to be measured
        self._due_at: dict[ModelId, float] = {}
        self._spent_s = 0.0
        self._step_s = self._earned_s = 0.0
        self._running: Generator[None, None, StageTimes] | None = None

    @property
    def profiles(self) -> tuple[StageTimes, ...]:
        """What is known, the usual model first. May be read by another thread."""
        usual, known = self._usual(), dict(self._times)
        return tuple(known[model] for model in sorted(known, key=lambda model: (model != usual, model)))

    def idle(self, now: float) -> float:
        """Nothing is under way: take one step of a measurement that is due. Seconds until the next one."""
        if self._running is None:
            model = self._due(now)
            if model is None:
                known = [at for name, at in self._due_at.items() if self._facts(name) is not None]
                return max(_LEAST_PAUSE_S, min(known, default=now + _LATER) - now)
            self._due_at[model] = now + _SOONEST_AGAIN_S
            self._running = self._measurement(model)
            self._spent_s = 0.0
        started = time.perf_counter()
        try:
            next(self._running)
        except StopIteration as end:
            self._finish(end.value, now)
        except RuntimeFailure:
            self._running = None  # requests will tell what is wrong with the model
        self._step_s = time.perf_counter() - started
        self._spent_s += self._step_s
        return _AT_ONCE

    def busy(self, now: float) -> bool:
        """Work is waiting: take a step of the first measurement if work has earned it; whether one was taken."""
        if self._earned_s <= 0:
            return False
        if self._usual() in self._times or self.idle(now) > 0:
            self._earned_s = 0.0
            return False
        self._earned_s -= self._step_s
        return True

    def worked(self, seconds: float) -> None:
        """An undivided run took so long."""
        self._earned_s = min(self._earned_s, 0.0) + _BESIDE_WORK * seconds

    def used(self, model: ModelId) -> None:
        """A request used this model: it is measured when there is time."""
        if model not in self._due_at:
            self._due_at[model] = 0.0

    def keep(self, models: frozenset[ModelId]) -> None:
        """Forget all other models."""
        self._times = {model: times for model, times in self._times.items() if model in models}
        self._due_at = {model: at for model, at in self._due_at.items() if model in models}

    def whole_took(self, model: ModelId, seconds: float, now: float) -> None:
        """An undivided run of one picture took so long."""
        times = self._times.get(model)
        if times is None:
            return
        quiet_s = seconds / self._speedometer.longer(now)
        if model in self._estimated:
            self._estimated.discard(model)
            self._times[model] = replace(times, whole_s=quiet_s)
            return
        if model == self._usual():
            self._speedometer.took(seconds / times.whole_s, now)
        whole_s = _WHOLE_MEMORY * times.whole_s + (1 - _WHOLE_MEMORY) * min(quiet_s, _WORSE * times.whole_s)
        self._times[model] = replace(times, whole_s=whole_s)

    def _due(self, now: float) -> ModelId | None:
        usual = self._usual()
        if usual is not None:
            self.used(usual)
        due = [model for model, at in self._due_at.items() if now >= at and self._facts(model) is not None]
        return min(due, key=lambda model: (model != usual, self._due_at[model]), default=None)

    def _measurement(self, name: ModelId) -> Generator[None, None, StageTimes]:
        model = self._models[name]
        found: ModelTimes = yield from measure(model, model.codec(model.plan.default_codec), self.timed)
        codecs = []
        for index, codec in self._codecs(name, model):
            cost = yield from measure_codec(model, model.codec(codec), self.timed)
            codecs.append(_codec_times(index, cost))
        if found.whole_measured:
            self._estimated.discard(name)
        elif name not in self._times:
            self._estimated.add(name)
        return _stage_times(name, found, tuple(codecs), self._times.get(name))

    def _codecs(self, name: ModelId, model: Model) -> Iterator[tuple[int, str]]:
        """Codecs that cost nothing to look at: the default one, those that requests have used, and plain numbers."""
        facts = self._facts(name)
        if facts is None:
            return
        for spec in model.plan.codecs:
            plain = spec.kind in _PLAIN and spec.source is Source.KV
            if plain or spec.name == facts.default_codec or spec.name in model.loaded_codecs:
                yield codec_index(facts, spec.name), spec.name

    def _finish(self, times: StageTimes, now: float) -> None:
        self._running = None
        before = self._times.get(times.model)
        self._times[times.model] = times if before is None else _quieter(before, times)
        soonest_s, pause = (_SECOND_LOOK_S, _FIRST_PAUSE) if before is None else (_SOONEST_AGAIN_S, _PAUSE)
        self._due_at[times.model] = now + max(soonest_s, pause * self._spent_s)
        facts = self._facts(times.model)
        if times.model == self._usual() and facts is not None:
            self._speedometer.measured(_Stick(times=times, facts=facts))


def _quieter(before: StageTimes, after: StageTimes) -> StageTimes:
    """The later measurement, without most of what other programs have added to it; hot boards tell by their speed."""
    if [point.tokens for point in before.points] != [point.tokens for point in after.points]:
        return after

    def least(old: float, new: float) -> float:
        return min(new, _WORSE * old)

    points = tuple(
        Point(
            tokens=new.tokens,
            begin_s=least(old.begin_s, new.begin_s),
            query_s=least(old.query_s, new.query_s),
            attend_s=least(old.attend_s, new.attend_s),
            last_s=least(old.last_s, new.last_s),
        )
        for old, new in zip(before.points, after.points, strict=True)
    )
    return replace(
        after, points=points, whole_s=least(before.whole_s, after.whole_s), head_s=least(before.head_s, after.head_s)
    )


def _stage_times(
    model: ModelId, found: ModelTimes, codecs: tuple[CodecTimes, ...], before: StageTimes | None
) -> StageTimes:
    points = tuple(
        Point(tokens=p.tokens, begin_s=p.begin_s, query_s=p.query_s, attend_s=p.attend_s, last_s=p.last_s)
        for p in found.points
    )
    # What requests have taught is worth more than an estimate.
    whole_s = found.whole_s if found.whole_measured or before is None else before.whole_s
    return StageTimes(model=model, points=points, whole_s=whole_s, head_s=found.head_s, codecs=codecs)


def _codec_times(index: int, cost: CodecCost) -> CodecTimes:
    few, many = cost.few, cost.many
    return CodecTimes(
        codec=index,
        encode=line_between(few, cost.encode_s[0], many, cost.encode_s[1]),
        decode=line_between(few, cost.decode_s[0], many, cost.decode_s[1]),
    )
