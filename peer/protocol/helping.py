"""Probes on behalf of others (SWIM's indirect ones): who asked for whom, until the target answers or time is over."""

from dataclasses import dataclass

from peer.protocol.types import PeerId

MAX_HELPED = 256
# Sequences of helping pings, apart from those of the board's own probes: an answer belongs to one or the other.
_FIRST, _SPAN = 1 << 31, 1 << 31


@dataclass(frozen=True, slots=True, kw_only=True)
class _Errand:
    asker: PeerId
    target: PeerId
    sequence: int  # the asker's own
    expires_at: float


class Helping:
    """Errands of one board, oldest first. Bounded; one without an answer makes room after `patience_s`."""

    def __init__(self, *, patience_s: float) -> None:
        self._patience_s = patience_s
        self._next = 0
        self._errands: dict[int, _Errand] = {}

    def begin(self, asker: PeerId, target: PeerId, sequence: int, now: float) -> int | None:
        """The sequence to ping `target` with; None when there are too many errands already."""
        for own, errand in list(self._errands.items()):
            if now < errand.expires_at:
                break
            del self._errands[own]
        if len(self._errands) >= MAX_HELPED:
            return None
        own = _FIRST + self._next
        self._next = (self._next + 1) % _SPAN
        expires_at = now + self._patience_s
        self._errands[own] = _Errand(asker=asker, target=target, sequence=sequence, expires_at=expires_at)
        return own

    def answered(self, target: PeerId, own: int) -> tuple[PeerId, int] | None:
        """Who asked for `target` with our ping `own`, and the sequence it asked with; None for any other answer."""
        errand = self._errands.get(own)
        if errand is None or errand.target != target:
            return None
        del self._errands[own]
        return errand.asker, errand.sequence

    def check(self) -> None:
        """Invariants, for tests."""
        assert len(self._errands) <= MAX_HELPED
