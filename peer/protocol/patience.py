"""How long a request waits for others, learnt from the requests before it: rounds, and a whole run.

What is usual differs a thousandfold between a small model on a fast board and a large one on a throttled board, and no
constant fits both. A round is given many times what the slowest board of late needed for one.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from peer.protocol.types import ModelId, PeerId

FIRST_ROUND_S = 2.0  # nothing is known of this model yet
SHORTEST_ROUND_S = 0.75  # a pause of a busy machine is no failure
LONGEST_ROUND_S = 10.0
_USUAL = 10.0  # times the slowest round of late
_RERUN = 1.5  # times the slowest run of late: a run on fewer boards takes longer
_MEMORY = 0.8  # of what was slow once, per request
SHORTEST_ABSENCE_S = 2.0  # who stayed out of a request is not waited for in those of the next seconds
LONGEST_ABSENCE_S = 60.0  # and longer each time, as two boards may not hear each other for good while all others do


@dataclass(slots=True)
class _Seen:
    block_s: float
    run_s: float


@dataclass(frozen=True, slots=True)
class _Absence:
    until: float
    length_s: float


class Patience:
    """What one board learnt about the models it coordinated, and about the boards that took part."""

    def __init__(self) -> None:
        self._seen: dict[ModelId, _Seen] = {}
        self._absences: dict[PeerId, _Absence] = {}

    def stayed_out(self, peers: Iterable[PeerId], now: float) -> None:
        """These boards did not bring in time what they should."""
        # One that took part again for as long as it was left out has a clean sheet.
        self._absences = {p: a for p, a in self._absences.items() if now < a.until + a.length_s}
        for peer in peers:
            before = self._absences.get(peer)
            if before is None:
                self._absences[peer] = _Absence(now + SHORTEST_ABSENCE_S, SHORTEST_ABSENCE_S)
            elif now >= before.until:  # of several requests at once only the first one counts
                length_s = min(LONGEST_ABSENCE_S, 2 * before.length_s)
                self._absences[peer] = _Absence(now + length_s, length_s)

    def absent(self, now: float) -> frozenset[PeerId]:
        """Boards that a request which begins now had better not wait for."""
        return frozenset(peer for peer, absence in self._absences.items() if now < absence.until)

    def learn(self, model: ModelId, *, block_s: float, run_s: float) -> None:
        """One attempt went through: its slowest board's mean block, and how long the attempt took, in seconds."""
        seen = self._seen.get(model)
        if seen is None:
            self._seen[model] = _Seen(block_s, run_s)
            return
        # Slowness is believed at once, speed only when it lasts.
        seen.block_s = max(block_s, _MEMORY * seen.block_s)
        seen.run_s = max(run_s, _MEMORY * seen.run_s)

    def keep(self, models: frozenset[ModelId]) -> None:
        """Forget all other models."""
        self._seen = {model: seen for model, seen in self._seen.items() if model in models}

    def round_s(self, model: ModelId) -> float:
        """How long a board waits for the codes of a round of one block, seconds."""
        seen = self._seen.get(model)
        return FIRST_ROUND_S if seen is None else min(LONGEST_ROUND_S, max(SHORTEST_ROUND_S, _USUAL * seen.block_s))

    def run_s(self, model: ModelId) -> float:
        """How long an attempt took of late, seconds; 0 when nothing is known."""
        seen = self._seen.get(model)
        return 0.0 if seen is None else seen.run_s

    def rerun_s(self, model: ModelId) -> float:
        """How long another attempt will take, seconds; 0 when nothing is known."""
        return _RERUN * self.run_s(model)
