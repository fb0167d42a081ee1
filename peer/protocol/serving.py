"""Giving parts of models to other boards: `asked(...)`, `due(now)`; bounded per asker, and paced for all together.

A board that serves is in the middle of its own work: it reads and encrypts at most `chunks_per_s` parts a second, in
turn for everybody who waits, and keeps a short queue for each.
"""

from collections import Counter, OrderedDict, deque
from dataclasses import dataclass

from peer.protocol.bulk_messages import FetchRefusal, FetchRefused, FetchRequest
from peer.protocol.types import PeerId


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingPace:
    """Bounds of one board that gives parts away."""

    chunks_per_s: float = 128.0  # 32 MiB/s: more than a line of 100 Mbit/s takes, a fraction of a core to encrypt
    burst: float = 4.0
    waiting_per_board: int = 8  # parts, so 2 MiB
    boards: int = 64  # that wait at once


class Serving:
    """The queue of one board. Not thread-safe: one driver owns it."""

    def __init__(self, *, me: PeerId, pace: ServingPace, now: float) -> None:
        self.counters: Counter[str] = Counter()
        self._me = me
        self._pace = pace
        self._waiting: OrderedDict[PeerId, deque[FetchRequest]] = OrderedDict()
        self._credit = pace.burst
        self._counted_at = now

    def asked(self, request: FetchRequest) -> FetchRefused | None:
        """Put a request in line; the refusal to send when the line of its sender is full."""
        line = self._waiting.get(request.sender)
        if line is None:
            if len(self._waiting) >= self._pace.boards:
                return self._busy(request)
            line = self._waiting[request.sender] = deque()
        if len(line) >= self._pace.waiting_per_board:
            return self._busy(request)
        line.append(request)
        return None

    def gone(self, peer: PeerId) -> None:
        """Nobody waits there any more."""
        self._waiting.pop(peer, None)

    def due(self, now: float) -> list[FetchRequest]:
        """Requests to answer now, at most `burst`, the boards in turn."""
        earned = (now - self._counted_at) * self._pace.chunks_per_s
        self._credit = min(self._pace.burst, self._credit + max(0.0, earned))
        self._counted_at = now
        requests = []
        while self._waiting and self._credit >= 1.0:
            peer, line = self._waiting.popitem(last=False)
            requests.append(line.popleft())
            self._credit -= 1.0
            if line:
                self._waiting[peer] = line
        return requests

    def deadline(self) -> float | None:
        """Local monotonic time at which something is due; None while nobody waits."""
        if not self._waiting:
            return None
        return self._counted_at + max(0.0, 1.0 - self._credit) / self._pace.chunks_per_s

    def check(self) -> None:
        """Invariants, for tests."""
        assert len(self._waiting) <= self._pace.boards
        assert all(0 < len(line) <= self._pace.waiting_per_board for line in self._waiting.values())
        assert 0.0 <= self._credit <= self._pace.burst

    def _busy(self, request: FetchRequest) -> FetchRefused:
        self.counters["busy"] += 1
        return FetchRefused(sender=self._me, request=request.request, reason=FetchRefusal.BUSY)
