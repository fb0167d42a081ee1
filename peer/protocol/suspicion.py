"""How long a silent board stays suspect before it is dead, and how slow this board itself is (Lifeguard).

Lifeguard (arXiv 1707.00788): an accuser alone waits long, each independent confirmation shortens the wait, and a board
that misses its own timers gives the others more time. Pure arithmetic; all times in seconds.
"""

import math
from dataclasses import dataclass, field

from peer.protocol.types import PeerId

MAX_SCORE = 7


def patience_s(*, longest_s: float, shortest_s: float, confirmations: int, expected: int) -> float:
    """Time from suspicion to death: `longest_s` without a confirmation, `shortest_s` with `expected` of them."""
    if expected < 1:
        return longest_s
    share = math.log(min(confirmations, expected) + 1) / math.log(expected + 1)
    return max(shortest_s, longest_s - (longest_s - shortest_s) * share)


@dataclass(slots=True, kw_only=True)
class Suspicion:
    """A suspect, since when, and who besides this board accuses it."""

    since_at: float
    longest_s: float
    shortest_s: float
    expected: int  # boards that could confirm
    accusers: set[PeerId] = field(default_factory=set)

    def hurry(self, longest_s: float) -> None:
        """More speaks against the suspect: wait no longer than this."""
        self.longest_s = min(self.longest_s, longest_s)
        self.shortest_s = min(self.shortest_s, self.longest_s)

    def dead_at(self) -> float:
        """Local monotonic time from which the suspect is dead."""
        confirmations = max(0, len(self.accusers) - 1)
        return self.since_at + patience_s(
            longest_s=self.longest_s,
            shortest_s=self.shortest_s,
            confirmations=confirmations,
            expected=self.expected,
        )


class OwnSlowness:
    """Lifeguard's local health: how far this board's own timeouts are stretched.

    It rises with every sign at once and falls by one step per `ease_s`, however many boards answer meanwhile: in a
    large ring a busy board hears somebody all the time, and is late for the others all the same.
    """

    def __init__(self, *, ease_s: float) -> None:
        self._score = 0
        self._ease_s = ease_s
        self._eased_at = -math.inf

    @property
    def stretch(self) -> float:
        """Factor on this board's patience with others, 1 to 4.5."""
        return 1.0 + self._score / 2

    def late(self) -> None:
        """A timer of our own fired late, several probes failed at once, or we were accused: we may be the slow one."""
        self._score = min(MAX_SCORE, self._score + 1)

    def punctual(self, now: float) -> None:
        """A probe was answered in time."""
        if now - self._eased_at >= self._ease_s:
            self._eased_at = now
            self._score = max(0, self._score - 1)
