"""How long a request waits for others, learnt from the requests before it: rounds, and a whole run.

What is usual differs a thousandfold between a small model on a fast board and a large one on a throttled board, and no
constant fits both. A round is given many times what the slowest board of late needed for one.
"""

from dataclasses import dataclass

from peer.protocol.types import ModelId

FIRST_ROUND_S = 2.0  # nothing is known of this model yet
SHORTEST_ROUND_S = 0.75  # a pause of a busy machine is no failure
LONGEST_ROUND_S = 10.0
_USUAL = 10.0  # times the slowest round of late
_RERUN = 1.5  # times the slowest run of late: a run on fewer boards takes longer
_MEMORY = 0.8  # of what was slow once, per request


@dataclass(slots=True)
class _Seen:
    round_s: float
    run_s: float


class Patience:
    """What one board learnt about the models it coordinated."""

    def __init__(self) -> None:
        self._seen: dict[ModelId, _Seen] = {}

    def learn(self, model: ModelId, *, round_s: float, run_s: float) -> None:
        """One attempt went through: its slowest board's mean round, and how long the attempt took, in seconds."""
        seen = self._seen.get(model)
        if seen is None:
            self._seen[model] = _Seen(round_s, run_s)
            return
        # Slowness is believed at once, speed only when it lasts.
        seen.round_s = max(round_s, _MEMORY * seen.round_s)
        seen.run_s = max(run_s, _MEMORY * seen.run_s)

    def keep(self, models: frozenset[ModelId]) -> None:
        """Forget all other models."""
        self._seen = {model: seen for model, seen in self._seen.items() if model in models}

    def round_s(self, model: ModelId) -> float:
        """How long a board waits for the codes of a round, seconds."""
        seen = self._seen.get(model)
        return FIRST_ROUND_S if seen is None else min(LONGEST_ROUND_S, max(SHORTEST_ROUND_S, _USUAL * seen.round_s))

    def run_s(self, model: ModelId) -> float:
        """How long an attempt took of late, seconds; 0 when nothing is known."""
        seen = self._seen.get(model)
        return 0.0 if seen is None else seen.run_s

    def rerun_s(self, model: ModelId) -> float:
        """How long another attempt will take, seconds; 0 when nothing is known."""
        return _RERUN * self.run_s(model)
