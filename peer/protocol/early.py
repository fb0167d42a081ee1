"""Codes that came before their assignment: kept for a moment, bounded in number and bytes."""

from collections import OrderedDict
from collections.abc import Set

from peer.protocol.messages import Codes
from peer.protocol.types import AttemptKey, PeerId

_Kept = list[tuple[Codes, PeerId | None]]  # and who brought them


class EarlyCodes:
    """By attempt. Part of the request machine."""

    def __init__(self, *, most: int, most_bytes: int, patience_s: float) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._patience_s = patience_s
        self._kept: OrderedDict[AttemptKey, tuple[float, _Kept]] = OrderedDict()

    @property
    def attempts(self) -> Set[AttemptKey]:
        return self._kept.keys()

    def deadline(self) -> float | None:
        return min((at for at, _ in self._kept.values()), default=None)

    def keep(self, key: AttemptKey, message: Codes, sender: PeerId | None, now: float) -> bool:
        """Whether there was room."""
        kept = [codes for _, waiting in self._kept.values() for codes, _ in waiting]
        size = len(message.body) + sum(len(codes.body) for codes in kept)
        if len(kept) >= self._most or size > self._most_bytes:
            return False
        _, codes = self._kept.setdefault(key, (now + self._patience_s, []))
        codes.append((message, sender))
        return True

    def take(self, key: AttemptKey) -> _Kept:
        """The codes of an attempt, in the order in which they came; they are not kept any longer."""
        _, codes = self._kept.pop(key, (0.0, []))
        return codes

    def expire(self, now: float) -> int:
        """Give up codes whose assignment never came; how many. When it comes after all, their senders time out."""
        over = [key for key, (expires_at, _) in self._kept.items() if now >= expires_at]
        return sum(len(self.take(key)) for key in over)

    def check(self) -> None:
        """Invariants, for tests."""
        kept = [codes for _, waiting in self._kept.values() for codes, _ in waiting]
        assert len(kept) <= self._most
        assert sum(len(codes.body) for codes in kept) <= self._most_bytes
