"""Effects that ask for compute -> the runtime -> events. Runs on the data plane's thread; never waits for a board."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from peer.protocol.effects import Attend, Begin, Forget, Query, RunHead, RunWhole
from peer.protocol.events import AnswerFailed, CodesReady, ComputeFailed, Event, LogitsReady, QueryDone, ShardDone
from peer.protocol.types import AttemptKey, FailureReason, InputKind, ModelId, Timing
from peer.speedometer import Speedometer, yardstick
from peer.starvation import Starvation
from runtime.arrays import U8
from runtime.errors import CodecError, RuntimeFailure
from runtime.images import decode_rows
from runtime.model import Model
from runtime.shard import Shard

_MEASURE_EVERY_S = 60.0  # while nothing is under way
_MEASURE_TIMES = 3  # the shortest counts: what else the machine does only adds time


class Compute(Protocol):
    """What the data plane asks of a board's compute; benchmarks put a null one in its place."""

    def begin(self, effect: Begin) -> Event: ...
    def query(self, effect: Query) -> Event | None: ...
    def attend(self, effect: Attend) -> Event | None: ...
    def whole(self, effect: RunWhole) -> Event: ...
    def head(self, effect: RunHead) -> Event: ...
    def forget(self, effect: Forget) -> None: ...
    def idle(self, now: float) -> None: ...


@dataclass(slots=True)
class _Work:
    """One shard in progress and where its time went, seconds."""

    shard: Shard
    model: Model
    codec: str
    origins: tuple[int, ...] = ()
    alone: bool = False
    tokens: int = 0
    prepare_s: float = 0.0
    encode_s: float = 0.0
    compute_s: float = 0.0
    starved_s: float = 0.0  # between the steps; within them it is part of the time they took
    starved_mark_s: float = 0.0


class Worker:
    """Loaded models and the shards in progress. One thread uses it."""

    def __init__(
        self,
        models: Mapping[ModelId, Model],
        usual: Callable[[], ModelId | None] = lambda: None,
        starved_s: Callable[[], float] | None = None,
    ) -> None:
        """`usual` names the model whose speed is this board's, None while there is none.

        `starved_s` tells how long this thread has been kept from running so far, seconds.
        """
        self.speedometer = Speedometer()
        self._models = models  # a lookup may load; a copy would load them all
        self._usual = usual
        self._starved_s = starved_s or Starvation().waited_s
        self._measure_at = 0.0
        self._work: dict[AttemptKey, _Work] = {}

    def idle(self, now: float) -> None:
        """Nothing is under way: measure this board once in a while. Takes six times a block of half the tokens."""
        usual = self._usual()
        if now < self._measure_at or usual is None:
            return
        self._measure_at = now + _MEASURE_EVERY_S
        try:
            model = self._models[usual]
            tokens = model.plan.geometry.tokens
            few, many = 1, max(2, tokens // 2)
            times = {count: self._block_s(model, min(count, tokens)) for count in (few, many)}
        except RuntimeFailure:
            return  # requests will tell what is wrong with it
        self.speedometer.measured(yardstick(few=few, few_s=times[few], many=many, many_s=times[many]))

    def _block_s(self, model: Model, tokens: int) -> float:
        """Shortest time of one block with `tokens` tokens and nobody else's, encoding included."""
        shard = Shard(model, model.codec(model.plan.default_codec))
        rows = np.zeros((1, tokens, model.plan.geometry.row_bytes), dtype=np.uint8)
        times = []
        for _ in range(_MEASURE_TIMES):
            shard.embed(rows, 0)
            started = time.perf_counter()
            shard.encode()
            shard.attend([])
            times.append(time.perf_counter() - started)
        return min(times)

    def begin(self, effect: Begin) -> Event:
        """Decode the input where it came as a file, embed the shard, encode it."""
        assign = effect.assign
        started = time.perf_counter()
        mine = assign.shards[effect.me].tokens
        try:
            model = self._models[assign.model]
            rows = self._rows(model, effect)
            work = _Work(
                shard=Shard(model, model.codec(assign.codec)),
                model=model,
                codec=assign.codec,
                alone=len(assign.shards) == 1,
                tokens=mine.count * assign.batch,
            )
            work.shard.embed(rows, mine.start)
            work.prepare_s = time.perf_counter() - started
            self._work[effect.key] = work
            return self._encode(effect.key, work)
        except RuntimeFailure as problem:
            return _failed(effect.key, problem)

    def query(self, effect: Query) -> Event | None:
        """The queries of the current block, while the codes travel."""
        work = self._work.get(effect.key)
        if work is None:
            return None
        work.starved_s += self._starved_s() - work.starved_mark_s
        started = time.perf_counter()
        try:
            work.shard.query()
        except RuntimeFailure as problem:
            return _failed(effect.key, problem)
        work.compute_s += time.perf_counter() - started
        work.starved_mark_s = self._starved_s()
        return QueryDone(key=effect.key)

    def attend(self, effect: Attend) -> Event | None:
        """Decode everybody's codes, finish the block, encode for the next one."""
        work = self._work.get(effect.key)
        if work is None:
            return None
        work.starved_s += self._starved_s() - work.starved_mark_s
        started = time.perf_counter()
        block = work.shard.block
        try:
            work.shard.attend([(payload.tokens, payload.body) for payload in effect.payloads])
            work.compute_s += time.perf_counter() - started
            if not work.shard.done:
                return self._encode(effect.key, work)
        except CodecError as problem:
            return _failed(effect.key, problem, blamed=self._culprits(work, block, effect))
        except RuntimeFailure as problem:
            return _failed(effect.key, problem)
        decode_s = work.shard.decode_s
        spent_s = work.compute_s - decode_s + work.encode_s + work.starved_s
        blocks = work.model.plan.geometry.blocks
        self.speedometer.worked(tokens=work.tokens, block_s=spent_s / blocks, now=time.monotonic())
        timing = Timing(
            prepare_us=round(work.prepare_s * 1e6),
            compute_us=round((work.compute_s - decode_s) * 1e6),
            encode_us=round(work.encode_s * 1e6),
            decode_us=round(decode_s * 1e6),
        )
        return ShardDone(key=effect.key, timing=timing, body=work.shard.cls.tobytes())

    def whole(self, effect: RunWhole) -> Event:
        """The undivided model on this board."""
        started = time.perf_counter()
        try:
            model = self._models[effect.model]
            rows = _shaped(effect.rows, effect.batch, model.plan.geometry.row_bytes)
            logits = model.whole(rows)
        except RuntimeFailure as problem:
            return AnswerFailed(request=effect.request, detail=str(problem))
        timing = Timing(compute_us=round((time.perf_counter() - started) * 1e6))
        return LogitsReady(request=effect.request, timing=timing, body=logits.tobytes())

    def head(self, effect: RunHead) -> Event:
        """Mean of the boards' class tokens, then the classifier."""
        try:
            model = self._models[effect.model]
            features = np.stack([np.frombuffer(body, dtype=np.float32) for body in effect.features])  # f32 [N, B*D]
            if not np.isfinite(features).all():
                return AnswerFailed(request=effect.request, detail="a board sent a class token that is not finite")
            cls = features.mean(axis=0, dtype=np.float32).reshape(effect.batch, model.plan.geometry.width)
            logits = model.head(cls)
        except RuntimeFailure as problem:
            return AnswerFailed(request=effect.request, detail=str(problem))
        return LogitsReady(request=effect.request, timing=Timing(), body=logits.tobytes())

    def forget(self, effect: Forget) -> None:
        self._work.pop(effect.key, None)

    def _rows(self, model: Model, effect: Begin) -> U8:
        assign, plan = effect.assign, model.plan
        mine = assign.shards[effect.me].tokens
        if assign.input_kind is InputKind.FILE:
            return decode_rows(assign.body, plan.image, plan.geometry)[None, mine.start : mine.stop]
        return _shaped(assign.body, assign.batch, plan.geometry.row_bytes)

    def _encode(self, key: AttemptKey, work: _Work) -> Event:
        started = time.perf_counter()
        body = b"" if work.alone else bytes(work.shard.encode())
        work.encode_s += time.perf_counter() - started
        work.starved_mark_s = self._starved_s()
        return CodesReady(key=key, block=work.shard.block, body=body)

    def _culprits(self, work: _Work, block: int, effect: Attend) -> tuple[int, ...]:
        """Whose payload the codec refuses; asked only after a refusal, so that good payloads are checked once."""
        codec = work.model.codec(work.codec)
        batch = work.shard.batch
        blamed = []
        for payload in effect.payloads:
            try:
                codec.check(payload.body, block=block, batch=batch, tokens=payload.tokens)
            except CodecError:
                blamed.append(payload.origin)
        return tuple(blamed)


def _shaped(body: bytes, batch: int, row_bytes: int) -> U8:
    """uint8 bytes -> [batch, tokens, row_bytes] without a copy. Raises CodecError when they do not divide."""
    if len(body) % (batch * row_bytes) or not body:
        raise CodecError("input", f"{len(body)} bytes are no patch rows of {row_bytes} bytes for {batch} pictures")
    return np.frombuffer(body, dtype=np.uint8).reshape(batch, -1, row_bytes)


def _failed(key: AttemptKey, problem: RuntimeFailure, blamed: tuple[int, ...] = ()) -> ComputeFailed:
    reason = FailureReason.BAD_PAYLOAD if blamed else FailureReason.STAGE_FAILED
    return ComputeFailed(key=key, reason=reason, blamed=blamed, detail=str(problem)[:200])
