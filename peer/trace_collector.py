"""One request as all its boards saw it: has the compute process collect the spans, and puts them on one clock."""

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from peer.errors import Refused
from peer.protocol.clocks import OffsetBounds, from_round_trip, narrowed
from peer.protocol.span import Span, SpanKind
from peer.protocol.spans import AttemptSpans
from peer.protocol.tracing import Collected, CollectSpans, OwnSpans
from peer.protocol.types import ModelId, PeerId, RequestId, View
from peer.reports import SpanReport, TracedBoardReport, TraceReport

_OWN_S = 5.0  # the compute process looks up from its work between two messages
_OTHERS_S = 2.0
_LARGEST = 100_000  # spans of one report, all boards together
_SEQUENCES = 1 << 32
Timed = tuple[int, Span]  # with the number of the attempt


@dataclass(slots=True)
class _Gathering:
    own: asyncio.Future[OwnSpans]
    whole: asyncio.Event = field(default_factory=asyncio.Event)
    missing: set[PeerId] = field(default_factory=set)
    came: dict[PeerId, Collected] = field(default_factory=dict)


class TraceCollector:
    """Owned by the event loop; `ask` hands a wish to the compute process, whose words come back through `heard`."""

    def __init__(
        self,
        *,
        ask: Callable[[CollectSpans], None],
        view: Callable[[], View],
        model_name: Callable[[ModelId], str],
    ) -> None:
        self._ask = ask
        self._view = view
        self._model_name = model_name
        self._sequence = itertools.count(1)
        self._under_way: dict[int, _Gathering] = {}

    def heard(self, word: OwnSpans | Collected) -> None:
        """What came; called on the event loop."""
        sequence = word.sequence if isinstance(word, OwnSpans) else word.answer.sequence
        gathering = self._under_way.get(sequence)
        if gathering is None:
            return  # too late
        if isinstance(word, OwnSpans):
            gathering.missing = set(word.asked)
            if not gathering.own.done():
                gathering.own.set_result(word)
        else:
            gathering.missing.discard(word.answer.sender)
            gathering.came[word.answer.sender] = word
        if not gathering.missing:
            gathering.whole.set()

    async def collect(self, request: RequestId | None) -> TraceReport:
        """Raises Refused when this board knows nothing of the request."""
        sequence = next(self._sequence) % _SEQUENCES
        gathering = _Gathering(asyncio.get_running_loop().create_future())
        self._under_way[sequence] = gathering
        try:
            self._ask(CollectSpans(sequence=sequence, request=request))
            try:
                async with asyncio.timeout(_OWN_S):
                    own = await gathering.own
            except TimeoutError as problem:
                raise Refused("the compute does not look up from its work; try again in a moment") from problem
            if not own.attempts:
                raise Refused(_unknown(request))
            try:
                async with asyncio.timeout(_OTHERS_S):
                    await gathering.whole.wait()
            except TimeoutError:
                pass  # who does not answer is shown as missing
        finally:
            del self._under_way[sequence]
        return self._report(own.attempts, gathering.came)

    def _report(self, attempts: Sequence[AttemptSpans], came: Mapping[PeerId, Collected]) -> TraceReport:
        view = self._view()
        last = attempts[-1]
        mine = [(attempt.key.attempt, span) for attempt in attempts for span in attempt.spans]
        bounds = {peer: offset(attempts, view.self_id, answer) for peer, answer in came.items()}
        seen: dict[PeerId, list[Timed]] = {view.self_id: mine}
        for peer, answer in came.items():
            seen[peer] = [(n, _shifted(span, -bounds[peer].offset_s)) for n, span in answer.answer.spans]
        peers = list(dict.fromkeys([view.self_id, *(s.peer for a in reversed(attempts) for s in a.shards)]))
        begin_s = min((span.start_s for spans in seen.values() for _, span in spans), default=0.0)
        each = max(1, _LARGEST // len(peers))
        names = {member.peer: member.name for member in view.members.values()}
        numbered = {attempt.key.attempt: attempt for attempt in attempts}
        boards = tuple(
            TracedBoardReport(
                id=peer,
                name=names.get(peer, peer),
                tokens=next(
                    ((s.tokens.start, s.tokens.stop) for s in last.shards if s.peer == peer and s.tokens.count), None
                ),
                missing=peer not in seen,
                clock_error_ms=bounds[peer].error_s * 1e3 if peer in bounds else 0.0,
                rtt_ms=_round_trip_s(came[peer]) * 1e3 if peer in came else None,
                spans=tuple(_reported(n, span, numbered, begin_s) for n, span in seen.get(peer, [])[-each:]),
            )
            for peer in peers
        )
        return TraceReport(
            request=f"{last.key.request:016x}",
            model=self._model_name(last.model),
            mode="sequence" if last.codec else "single",
            codec=last.codec or None,
            exchange=last.exchange.name.lower() if last.codec else None,
            attempt=last.key.attempt,
            attempts=len(attempts),
            asked=last.shards[last.coordinator].peer if last.codec else view.self_id,
            boards=boards,
        )


def offset(attempts: Sequence[AttemptSpans], me: PeerId, collected: Collected) -> OffsetBounds:
    """How far the other board's clock is ahead of ours: from the round trip, and from the codes of the request."""
    answer = collected.answer
    asked_s = answer.asked_us / 1e6
    first_s = min((span.start_s for attempt in attempts for span in attempt.spans), default=asked_s)
    bounds = from_round_trip(
        asked_s=asked_s,
        received_s=answer.received_us / 1e6,
        answered_s=answer.sent_us / 1e6,
        came_s=collected.came_s,
        age_s=asked_s - first_s,
    )
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    for attempt in attempts:
        other = next((i for i, shard in enumerate(attempt.shards) if shard.peer == answer.sender), None)
        if other is None:
            continue
        there = [span for number, span in answer.spans if number == attempt.key.attempt]
        ours += _messages(attempt.spans, there, origin=attempt.me)
        theirs += _messages(there, attempt.spans, origin=other)
    return narrowed(bounds, ours=ours, theirs=theirs)


def _messages(sender: Sequence[Span], receiver: Sequence[Span], *, origin: int) -> list[tuple[float, float]]:
    """(sent by the sender's clock, came by the receiver's) of each block's codes of the shard `origin`."""
    sent = {span.block: span.start_s for span in sender if span.kind is SpanKind.SENT and span.origin == origin}
    return [
        (sent[span.block], span.start_s)
        for span in receiver
        if span.kind is SpanKind.CAME and span.origin == origin and span.block in sent
    ]


def _round_trip_s(collected: Collected) -> float:
    answer = collected.answer
    return max(0.0, collected.came_s - answer.asked_us / 1e6 - (answer.sent_us - answer.received_us) / 1e6)


def _shifted(span: Span, by_s: float) -> Span:
    return span._replace(start_s=span.start_s + by_s, end_s=span.end_s + by_s)


def _reported(number: int, span: Span, attempts: Mapping[int, AttemptSpans], begin_s: float) -> SpanReport:
    attempt = attempts.get(number)
    shards = attempt.shards if attempt is not None else ()
    return SpanReport(
        kind=span.kind.name.lower(),
        attempt=number,
        block=span.block,
        origin=shards[span.origin].peer if span.origin < len(shards) else None,
        start_ms=(span.start_s - begin_s) * 1e3,
        duration_ms=max(0.0, span.end_s - span.start_s) * 1e3,
    )


def _unknown(request: RequestId | None) -> str:
    if request is None:
        return "this board has taken part in no request since its compute process began; run peerctl infer first"
    return f"this board knows nothing of request {request:016x}; it remembers the last 64 it took part in"
