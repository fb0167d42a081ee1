"""How much of what a LAN claims is let in: bounds on names, repeats and questions, so that a flood costs little.

Pure: the time is an argument. A name that is refused is forgotten at once and may come back later.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from peer.discovery import Sighting


@dataclass(frozen=True, slots=True, kw_only=True)
class GateLimits:
    """Bounds on hints; a ring has a few dozen boards, and every hint costs a connection attempt at most."""

    new_names: int = 64  # in any `window_s`
    window_s: float = 60.0
    names: int = 1024  # remembered; the one not heard of for longest goes first
    repeat_s: float = 5.0  # between two equal sightings, and two questions about one name
    variants: int = 4  # different sightings under one name within `repeat_s`


@dataclass(slots=True)
class _Name:
    asked_at: float | None = None
    passed: dict[Sighting, float] = field(default_factory=dict)  # at most `variants`, each with when it passed


class SightingGate:
    """Says of each name and sighting whether it passes."""

    def __init__(self, limits: GateLimits | None = None) -> None:
        self._limits = limits or GateLimits()
        self._names: OrderedDict[str, _Name] = OrderedDict()
        self._admitted_at: deque[float] = deque(maxlen=self._limits.new_names)
        self.refused_names = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The names let in, the one not heard of for longest first."""
        return tuple(self._names)

    def admit_name(self, name: str, now: float) -> bool:
        """Whether to look at `name`; a new one passes while fewer than `new_names` did within the window."""
        if name in self._names:
            self._names.move_to_end(name)
            return True
        full = len(self._admitted_at) == self._limits.new_names
        if full and now - self._admitted_at[0] < self._limits.window_s:
            self.refused_names += 1
            return False
        self._admitted_at.append(now)
        self._names[name] = _Name()
        if len(self._names) > self._limits.names:
            self._names.popitem(last=False)
        return True

    def knows(self, name: str) -> bool:
        """Whether `name` was let in before."""
        return name in self._names

    def repeat(self) -> None:
        """Let everything that passed pass once more: this board moved or slept, and its links are to be made anew."""
        for entry in self._names.values():
            entry.asked_at = None
            entry.passed.clear()

    def may_ask(self, name: str, now: float) -> bool:
        """Whether to ask the LAN about a known name now."""
        entry = self._names.get(name)
        if entry is None or (entry.asked_at is not None and now - entry.asked_at < self._limits.repeat_s):
            return False
        entry.asked_at = now
        return True

    def admit(self, name: str, sighting: Sighting, now: float) -> bool:
        """Whether to pass on a sighting made under a known name."""
        entry = self._names.get(name)
        if entry is None:
            return False
        entry.passed = {seen: at for seen, at in entry.passed.items() if now - at < self._limits.repeat_s}
        if sighting in entry.passed or len(entry.passed) >= self._limits.variants:
            return False
        entry.passed[sighting] = now
        return True
