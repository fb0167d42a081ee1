"""Effects that ask for compute -> the runtime -> events. Runs on the data plane's thread; never waits for a board."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from peer.profiler import Profiler
from peer.protocol.effects import Attend, Begin, Forget, Query, RunErrand, RunHead, RunWhole
from peer.protocol.events import (
    AnswerFailed,
    CodesReady,
    ComputeFailed,
    ErrandDone,
    Event,
    LogitsReady,
    QueryDone,
    ShardDone,
)
from peer.protocol.span import SpanKind
from peer.protocol.spans import SpanLog
from peer.protocol.types import MAX_BODY_BYTES, AttemptKey, FailureReason, InputKind, ModelFacts, ModelId, Timing
from peer.speedometer import Speedometer
from peer.starvation import Starvation
from runtime.arrays import U8
from runtime.errors import CodecError, RuntimeFailure
from runtime.images import decode_rows
from runtime.model import Model
from runtime.packed_rows import unpack_rows
from runtime.plan import Geometry
from runtime.shard import Shard


class Compute(Protocol):
    """What the data plane asks of a board's compute; benchmarks put a null one in its place."""

    def begin(self, effect: Begin) -> Event: ...
    def query(self, effect: Query) -> Event | None: ...
    def attend(self, effect: Attend) -> Event | None: ...
    def whole(self, effect: RunWhole) -> Event: ...
    def errand(self, effect: RunErrand) -> Event: ...
    def head(self, effect: RunHead) -> Event: ...
    def forget(self, effect: Forget) -> None: ...
    def idle(self, now: float) -> float: ...
    def busy(self, now: float) -> bool: ...


@dataclass(slots=True)
class _Work:
    """One shard in progress and where its time went, seconds."""

    shard: Shard
    model: Model
    name: ModelId
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
        facts: Callable[[ModelId], ModelFacts | None] = lambda model: None,
        starved_s: Callable[[], float] | None = None,
        spans: SpanLog | None = None,
    ) -> None:
        """`usual` names the model whose speed is this board's, None while there is none.

        `starved_s` tells how long this thread has been kept from running so far, seconds. `spans` gets every step.
        """
        self._spans = SpanLog() if spans is None else spans
        self.speedometer = Speedometer()
        self.profiler = Profiler(models, facts, usual, self.speedometer)
        self._models = models  # a lookup may load; a copy would load them all
        self._usual = usual
        self._starved_s = starved_s or Starvation().waited_s
        self._work: dict[AttemptKey, _Work] = {}

    def idle(self, now: float) -> float:
        """Nothing is under way: measure a step of this board's profile where one is due. Seconds until the next one."""
        return self.profiler.idle(now)

    def busy(self, now: float) -> bool:
        """Undivided runs are waiting: measure a step all the same, if there was no time for it since the board's start.

        Whether one was taken.
        """
        return self.profiler.busy(now)

    def begin(self, effect: Begin) -> Event:
        """Decode the input where it came as a file, embed the shard, encode it."""
        assign = effect.assign
        started = time.monotonic()
        self._spans.begin(effect.key, assign, effect.me, started)
        mine = assign.shards[effect.me].tokens
        try:
            model = self._models[assign.model]
            rows = self._rows(model, effect)
            work = _Work(
                shard=Shard(
                    model,
                    model.codec(assign.codec),
                    {number: shard.tokens.start for number, shard in enumerate(assign.shards)},
                ),
                model=model,
                name=assign.model,
                codec=assign.codec,
                alone=len(assign.shards) == 1,
                tokens=mine.count * assign.batch,
            )
            work.shard.embed(rows, mine.start)
            work.prepare_s = self._done(effect.key, SpanKind.PREPARE, 0, started)
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
        started = time.monotonic()
        try:
            work.shard.query()
        except RuntimeFailure as problem:
            return _failed(effect.key, problem)
        work.compute_s += self._done(effect.key, SpanKind.QUERY, work.shard.block, started)
        work.starved_mark_s = self._starved_s()
        return QueryDone(key=effect.key)

    def attend(self, effect: Attend) -> Event | None:
        """Decode everybody's codes, finish the block, encode for the next one."""
        work = self._work.get(effect.key)
        if work is None:
            return None
        work.starved_s += self._starved_s() - work.starved_mark_s
        started = time.monotonic()
        block, decoded_s = work.shard.block, work.shard.decode_s
        try:
            parts = [(payload.tokens, payload.body) for payload in effect.payloads]
            work.shard.attend(parts, [payload.origin for payload in effect.payloads])
            decoded_s = work.shard.decode_s - decoded_s
            self._spans.own(effect.key, SpanKind.DECODE, block, started, started + decoded_s)
            work.compute_s += self._done(effect.key, SpanKind.ATTEND, block, started)
            if not work.shard.done:
                return self._encode(effect.key, work)
        except CodecError as problem:
            return _failed(effect.key, problem, blamed=self._culprits(work, block, effect))
        except RuntimeFailure as problem:
            return _failed(effect.key, problem)
        decode_s = work.shard.decode_s
        spent_s = work.compute_s - decode_s + work.encode_s + work.starved_s
        blocks = work.model.plan.geometry.blocks
        self.profiler.used(work.name)
        if work.name == self._usual():
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
        started = time.monotonic()
        try:
            model = self._models[effect.model]
            rows = _shaped(effect.rows, effect.batch, model.plan.geometry.row_bytes)
            logits = model.whole(rows)
        except RuntimeFailure as problem:
            return AnswerFailed(request=effect.request, detail=str(problem))
        ended = time.monotonic()
        self._whole_took(effect.model, effect.batch, ended - started)
        self._spans.whole(AttemptKey(effect.request, 0), effect.model, effect.batch, started, ended)
        timing = Timing(compute_us=round((ended - started) * 1e6))
        return LogitsReady(request=effect.request, timing=timing, body=logits.tobytes())

    def errand(self, effect: RunErrand) -> Event:
        """The undivided model for another board, whose input may have come as a file."""
        errand, started = effect.errand, time.monotonic()
        try:
            model = self._models[errand.model]
            if errand.input_kind is InputKind.FILE:
                rows = decode_rows(errand.body, model.plan.image, model.plan.geometry)[None]
            else:
                packed = errand.input_kind is InputKind.PACKED
                rows = _rows_of(
                    errand.body, model.plan.geometry, errand.batch, model.plan.geometry.tokens, packed=packed
                )
            prepared_s = time.monotonic() - started
            logits = model.whole(rows)
        except RuntimeFailure as problem:
            return _failed(effect.key, problem)
        ended = time.monotonic()
        spent_s = ended - started - prepared_s
        self._whole_took(errand.model, errand.batch, spent_s)
        self._spans.whole(effect.key, errand.model, errand.batch, started, ended)
        timing = Timing(prepare_us=round(prepared_s * 1e6), compute_us=round(spent_s * 1e6))
        return ErrandDone(key=effect.key, timing=timing, body=logits.tobytes())

    def _whole_took(self, model: ModelId, batch: int, seconds: float) -> None:
        self.profiler.used(model)
        self.profiler.worked(seconds)
        if batch == 1:
            self.profiler.whole_took(model, seconds, time.monotonic())

    def head(self, effect: RunHead) -> Event:
        """Mean of the boards' class tokens, then the classifier."""
        started = time.monotonic()
        try:
            model = self._models[effect.model]
            features = np.stack([np.frombuffer(body, dtype=np.float32) for body in effect.features])  # f32 [N, B*D]
            if not np.isfinite(features).all():
                return AnswerFailed(request=effect.request, detail="a board sent a class token that is not finite")
            cls = features.mean(axis=0, dtype=np.float32).reshape(effect.batch, model.plan.geometry.width)
            logits = model.head(cls)
        except RuntimeFailure as problem:
            return AnswerFailed(request=effect.request, detail=str(problem))
        self._spans.head(effect.request, started, time.monotonic())
        return LogitsReady(request=effect.request, timing=Timing(), body=logits.tobytes())

    def forget(self, effect: Forget) -> None:
        self._work.pop(effect.key, None)

    def _rows(self, model: Model, effect: Begin) -> U8:
        assign, plan = effect.assign, model.plan
        mine = assign.shards[effect.me].tokens
        if assign.input_kind is InputKind.FILE:
            return decode_rows(assign.body, plan.image, plan.geometry)[None, mine.start : mine.stop]
        packed = assign.input_kind is InputKind.PACKED
        return _rows_of(assign.body, plan.geometry, assign.batch, mine.count, packed=packed)

    def _encode(self, key: AttemptKey, work: _Work) -> Event:
        started = time.monotonic()
        body = b"" if work.alone else bytes(work.shard.encode())
        work.encode_s += self._done(key, SpanKind.ENCODE, work.shard.block, started)
        work.starved_mark_s = self._starved_s()
        return CodesReady(key=key, block=work.shard.block, body=body)

    def _done(self, key: AttemptKey, kind: SpanKind, block: int, started: float) -> float:
        """Note down a step that ends now; how long it took, seconds."""
        ended = time.monotonic()
        self._spans.own(key, kind, block, started, ended)
        return ended - started

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


def _rows_of(body: bytes, geometry: Geometry, batch: int, tokens: int, *, packed: bool) -> U8:
    """uint8 [batch, tokens, row_bytes] of a board's part of the input. Raises CodecError."""
    if not packed:
        return _shaped(body, batch, geometry.row_bytes)
    if batch * tokens * geometry.row_bytes > MAX_BODY_BYTES:  # they could not have come as they are
        raise CodecError("input", f"packed patch rows of {batch} pictures are more than a message may hold")
    rows = unpack_rows(body, row_bytes=geometry.row_bytes, rows=batch * tokens)
    return rows.reshape(batch, tokens, geometry.row_bytes)


def _shaped(body: bytes, batch: int, row_bytes: int) -> U8:
    """uint8 bytes -> [batch, tokens, row_bytes] without a copy. Raises CodecError when they do not divide."""
    if len(body) % (batch * row_bytes) or not body:
        raise CodecError("input", f"{len(body)} bytes are no patch rows of {row_bytes} bytes for {batch} pictures")
    return np.frombuffer(body, dtype=np.uint8).reshape(batch, -1, row_bytes)


def _failed(key: AttemptKey, problem: RuntimeFailure, blamed: tuple[int, ...] = ()) -> ComputeFailed:
    reason = FailureReason.BAD_PAYLOAD if blamed else FailureReason.STAGE_FAILED
    return ComputeFailed(key=key, reason=reason, blamed=blamed, detail=str(problem)[:200])
