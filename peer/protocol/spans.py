"""Where the time of each of the last requests went on this board: a bounded log of marks, cheap enough to be always on.

Local monotonic seconds, given as arguments. Nothing is decided by what is noted here.
"""

from collections import OrderedDict
from dataclasses import dataclass, replace

from peer.protocol.messages import Assign, Errand
from peer.protocol.span import MAX_SPANS, Span, SpanKind
from peer.protocol.types import AttemptKey, Exchange, ModelId, PeerId, RequestId, Shard, TokenRange

_ATTEMPTS = 64
_MARKS = 16 * 1024  # of all attempts together, before older ones are forgotten: some two megabytes
_WAITING = 256

# The fields of a Span. Several are noted in every round, and a bare tuple is made ten times as fast.
Mark = tuple[SpanKind, int, int, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptSpans:
    """One attempt as this board knows it. Without a codec: the undivided model, here or on the shard's board."""

    key: AttemptKey
    model: ModelId
    codec: str
    exchange: Exchange
    batch: int
    me: int
    coordinator: int
    shards: tuple[Shard, ...]
    spans: tuple[Span, ...]


@dataclass(slots=True, kw_only=True)
class _Attempt:
    model: ModelId
    batch: int
    assign: Assign | None = None
    me: int = 0
    helper: PeerId | None = None
    marks: list[Mark]


class SpanLog:
    """Written by the thread that computes, and read by it."""

    def __init__(self) -> None:
        self._attempts: OrderedDict[AttemptKey, _Attempt] = OrderedDict()
        self._queued: OrderedDict[RequestId, float] = OrderedDict()

    @property
    def marks(self) -> int:
        """How many are remembered."""
        return sum(len(attempt.marks) for attempt in self._attempts.values())

    def submitted(self, request: RequestId, now: float) -> None:
        """A request was asked of this board, and may have to wait."""
        self._queued[request] = now
        if len(self._queued) > _WAITING:
            self._queued.popitem(last=False)

    def begin(self, key: AttemptKey, assign: Assign, me: int, now: float) -> None:
        """This board's part of an attempt begins."""
        plan = replace(assign, body=b"")  # the input would be kept as long as the log remembers
        self._open(key, _Attempt(model=assign.model, batch=assign.batch, assign=plan, me=me, marks=[]), now)

    def errand(self, key: AttemptKey, errand: Errand, to: PeerId, now: float) -> None:
        """Another board is to run the undivided model for this one."""
        self._open(key, _Attempt(model=errand.model, batch=errand.batch, helper=to, marks=[]), now)

    def whole(self, key: AttemptKey, model: ModelId, batch: int, start_s: float, end_s: float) -> None:
        """This board ran the undivided model."""
        self._open(key, _Attempt(model=model, batch=batch, marks=[]), start_s)
        self.note(key, (SpanKind.WHOLE, 0, 0, start_s, end_s))

    def head(self, request: RequestId, start_s: float, end_s: float) -> None:
        """This board made the answer, after the attempt of that request that began last."""
        key = next((key for key in reversed(self._attempts) if key.request == request), None)
        if key is not None:
            self.note(key, (SpanKind.HEAD, 0, self._attempts[key].me, start_s, end_s))

    def note(self, key: AttemptKey, mark: Mark) -> None:
        """One mark; dropped when the attempt is not known here, or has too many."""
        attempt = self._attempts.get(key)
        if attempt is not None and len(attempt.marks) < MAX_SPANS:
            attempt.marks.append(mark)

    def own(self, key: AttemptKey, kind: SpanKind, block: int, start_s: float, end_s: float) -> None:
        """One mark about this board's own shard."""
        attempt = self._attempts.get(key)
        if attempt is not None and len(attempt.marks) < MAX_SPANS:
            attempt.marks.append((kind, block, attempt.me, start_s, end_s))

    def sent(self, key: AttemptKey, block: int, origin: int, now: float) -> None:
        """Codes go out, to however many boards. Those of another board, which are only passed on, are not noted."""
        attempt = self._attempts.get(key)
        if attempt is not None and origin == attempt.me and len(attempt.marks) < MAX_SPANS:
            attempt.marks.append((SpanKind.SENT, block, origin, now, now))

    def latest(self) -> RequestId | None:
        """The request that this board began last."""
        return next(reversed(self._attempts)).request if self._attempts else None

    def find(self, request: RequestId) -> tuple[AttemptSpans, ...]:
        """Every attempt of a request that is still remembered, in the order they began."""
        return tuple(_public(key, attempt) for key, attempt in self._attempts.items() if key.request == request)

    def _open(self, key: AttemptKey, attempt: _Attempt, now: float) -> None:
        while self._attempts and (len(self._attempts) >= _ATTEMPTS or self.marks > _MARKS):
            self._attempts.popitem(last=False)
        self._attempts[key] = attempt
        since = self._queued.pop(key.request, None)
        if since is not None:
            self.note(key, (SpanKind.QUEUED, 0, attempt.me, since, now))


def _public(key: AttemptKey, attempt: _Attempt) -> AttemptSpans:
    assign, helper = attempt.assign, attempt.helper
    shards = () if assign is None else assign.shards
    if helper is not None:
        shards = (Shard(peer=helper, tokens=TokenRange(start=0, stop=0)),)
    return AttemptSpans(
        key=key,
        model=attempt.model,
        codec="" if assign is None else assign.codec,
        exchange=Exchange.DIRECT if assign is None else assign.exchange,
        batch=attempt.batch,
        me=attempt.me,
        coordinator=0 if assign is None else assign.coordinator,
        shards=shards,
        spans=tuple(Span(*mark) for mark in attempt.marks),
    )
