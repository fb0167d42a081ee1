"""Collecting the spans of one request: asking the other boards for theirs, and answering them. Pure, bounded.

Whoever asks is a member; the answer tells it what it could have measured itself. A flood of questions is answered as
slowly as it takes to harm no request.
"""

from collections import OrderedDict
from dataclasses import dataclass

from peer.protocol.span import MAX_SPANS
from peer.protocol.spans import AttemptSpans, SpanLog
from peer.protocol.trace_messages import Spans, SpansRequest, TraceMessage
from peer.protocol.types import PeerId, RequestId

_QUESTIONS = 8  # under way at once; an older one is given up
_ANSWERS_PER_S = 20.0
_BURST = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectSpans:
    """Ask every board that took part; without a request, in the one that this board began last."""

    sequence: int
    request: RequestId | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnSpans:
    """What this board knows itself, and which others were asked. No attempts: it knows no such request."""

    sequence: int
    attempts: tuple[AttemptSpans, ...]
    asked: tuple[PeerId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """Another board's answer, and when it came, by this board's clock."""

    answer: Spans
    came_s: float


class Tracing:
    """Questions and answers of one board."""

    def __init__(self, *, me: PeerId, log: SpanLog) -> None:
        self.refused = 0  # answers that nobody asked for, questions in another's name, and too many of them
        self._me = me
        self._log = log
        self._asked: OrderedDict[int, set[PeerId]] = OrderedDict()
        self._tokens, self._filled_at = _BURST, 0.0

    def ask(self, wanted: CollectSpans, now: float) -> tuple[OwnSpans, list[tuple[PeerId, SpansRequest]]]:
        """This board's own part, and the questions to send."""
        request = self._log.latest() if wanted.request is None else wanted.request
        attempts = () if request is None else self._log.find(request)
        peers = sorted({shard.peer for attempt in attempts for shard in attempt.shards} - {self._me})
        self._asked[wanted.sequence] = set(peers)
        if len(self._asked) > _QUESTIONS:
            self._asked.popitem(last=False)
        questions = [
            (
                peer,
                SpansRequest(sender=self._me, sequence=wanted.sequence, request=request, asked_us=round(now * 1e6)),
            )
            for peer in peers
            if request is not None
        ]
        return OwnSpans(sequence=wanted.sequence, attempts=attempts, asked=tuple(peers)), questions

    def received(self, message: TraceMessage, sender: PeerId | None, now: float) -> Spans | Collected | None:
        """An answer to send to the asker (`sent_us` is filled in as it leaves), or what came; None to drop it."""
        if sender is not None and sender != message.sender:
            self.refused += 1
            return None
        if isinstance(message, Spans):
            return self._collected(message, now)
        self._tokens = min(_BURST, self._tokens + _ANSWERS_PER_S * (now - self._filled_at))
        self._filled_at = now
        if self._tokens < 1.0:
            self.refused += 1
            return None
        self._tokens -= 1.0
        spans = [(a.key.attempt, span) for a in self._log.find(message.request) for span in a.spans]
        return Spans(
            sender=self._me,
            sequence=message.sequence,
            request=message.request,
            asked_us=message.asked_us,
            received_us=round(now * 1e6),
            sent_us=round(now * 1e6),
            spans=tuple(spans[-MAX_SPANS:]),
        )

    def _collected(self, answer: Spans, now: float) -> Collected | None:
        waiting = self._asked.get(answer.sequence, set())
        if answer.sender not in waiting:
            self.refused += 1
            return None
        waiting.discard(answer.sender)
        return Collected(answer=answer, came_s=now)
