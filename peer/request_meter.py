"""What became of the requests that this board was asked: counts, durations, and the last minute for `peerctl top`.

Pure: times are arguments. Bounded: reasons are kinds of errors, of which there are as many as classes, and the last
minute is a ring of fixed length.
"""

import math
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from peer.metrics_text import Histogram
from peer.protocol.effects import Answer, BoardReport
from peer.protocol.types import PeerId, Timing

# From a small model on a fast machine to the default deadline, each bound about twice the one before.
BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
PHASES = ("queue", "prepare", "compute", "wait", "network")
# Listed from the start, so that the first of them is seen as an increase; others appear when they happen.
USUAL_FAILURES = ("busy", "deadline", "not-enough-boards", "no-such-model", "refused", "bad-input", "remote-stage")
DEGRADED_REASONS = ("allowed", "no-time")
_KEPT = 256  # answers with what each board spent on them
_INSTANTS = 4096  # of answers, for the rate
RECENT_S = 60.0
_RATE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Phases:
    """Where the time of one answer went on the board that was asked, seconds.

    `network`: what even the board that waited least waited for codes, which no other division of the work would save;
    `wait`: the asked board's own waiting beyond that, for slower boards, the gathering of class tokens included. What
    is missing to the whole went into attempts that failed, and into the head.
    """

    queue: float = 0.0
    prepare: float = 0.0
    compute: float = 0.0
    wait: float = 0.0
    network: float = 0.0


def phases(answer: Answer, *, me: PeerId, decoded_s: float) -> Phases:
    """`decoded_s`: how long this board took to decode the pictures before it submitted them."""
    own = next((board.timing for board in answer.boards if board.shard.peer == me), Timing())
    network_us = 0 if answer.single else min((board.timing.wait_us for board in answer.boards), default=0)
    return Phases(
        queue=answer.queue_s,
        prepare=decoded_s + own.prepare_us / 1e6,
        compute=(own.compute_us + own.encode_us + own.decode_us) / 1e6,
        wait=max(0, own.wait_us - network_us) / 1e6 + answer.gather_s,
        network=network_us / 1e6,
    )


@dataclass(slots=True, kw_only=True)
class BoardCost:
    """What the answers of late cost one board, sums of seconds and bytes."""

    answers: int = 0
    tokens: int = 0
    compute_s: float = 0.0
    wait_s: float = 0.0
    sent_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recent:
    """The last minute, or as much of it as is remembered."""

    answers: int = 0
    answers_per_s: float = 0.0  # over the last ten seconds
    p50_s: float | None = None
    p95_s: float | None = None
    boards: dict[PeerId, BoardCost] = field(default_factory=dict)


class RequestMeter:
    """Counts since the start of the daemon."""

    def __init__(self, me: PeerId, now: float) -> None:
        self._me = me
        self._started_at = now
        self.latency = Histogram(BOUNDS_S)
        self.phases = {phase: Histogram(BOUNDS_S) for phase in PHASES}
        self.answered = Counter({"single": 0, "sequence": 0})
        self.degraded = Counter(dict.fromkeys(DEGRADED_REASONS, 0))
        self.failed = Counter(dict.fromkeys(USUAL_FAILURES, 0))
        self.pictures = 0
        self.attempts = 0
        self.lost: Counter[PeerId] = Counter()
        self._kept: deque[tuple[float, float, tuple[BoardReport, ...]]] = deque(maxlen=_KEPT)
        self._instants: deque[float] = deque(maxlen=_INSTANTS)

    def answer(
        self, answer: Answer, *, pictures: int, allowed: bool, decoded_s: float, latency_s: float, now: float
    ) -> None:
        """One request was answered; `allowed`: its asker would take an answer without a lost board's tokens."""
        spent = phases(answer, me=self._me, decoded_s=decoded_s)
        self.latency.observe(latency_s)
        for phase in PHASES:
            self.phases[phase].observe(getattr(spent, phase))
        self.answered["single" if answer.single else "sequence"] += 1
        if answer.degraded:
            self.degraded["allowed" if allowed else "no-time"] += 1
        self.pictures += pictures
        self.attempts += answer.attempts
        self.lost.update(answer.lost)
        self._kept.append((now, latency_s, answer.boards))
        self._instants.append(now)

    def failure(self, reason: str) -> None:
        """One request ended with an error of this kind."""
        self.failed[reason] += 1

    def keep(self, peers: Sequence[PeerId]) -> None:
        """Forget what boards other than these lost: a board that is not listed any more has no line either."""
        self.lost = Counter({peer: count for peer, count in self.lost.items() if peer in peers})

    def recent(self, now: float) -> Recent:
        """The last minute."""
        kept = [(latency_s, boards) for at, latency_s, boards in self._kept if now - at <= RECENT_S]
        if not kept:
            return Recent()
        latencies = sorted(latency_s for latency_s, _ in kept)
        boards: dict[PeerId, BoardCost] = {}
        for _, reports in kept:
            for report in reports:
                cost = boards.setdefault(report.shard.peer, BoardCost())
                timing = report.timing
                cost.answers += 1
                cost.tokens += report.shard.tokens.count
                cost.compute_s += (timing.prepare_us + timing.compute_us + timing.encode_us + timing.decode_us) / 1e6
                cost.wait_s += timing.wait_us / 1e6
                cost.sent_bytes += report.traffic.wire_bytes
        span_s = min(_RATE_S, max(1.0, now - self._started_at))
        return Recent(
            answers=len(kept),
            answers_per_s=sum(now - at <= span_s for at in self._instants) / span_s,
            p50_s=_nearest(latencies, 0.5),
            p95_s=_nearest(latencies, 0.95),
            boards=boards,
        )


def _nearest(ordered: Sequence[float], part: float) -> float:
    """The nearest-rank percentile: always a value that was measured."""
    return ordered[max(0, math.ceil(len(ordered) * part) - 1)]
