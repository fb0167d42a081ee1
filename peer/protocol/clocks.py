"""How far another board's monotonic clock is from this one's: bounds from round trips, for drawing and nothing else.

An offset is what the other clock shows beyond ours at the same moment, seconds. Each message between the two boards
bounds it from one side: it cannot have come before it was sent. A question and its answer bound it from both, to half a
round trip; the codes of the traced request itself, which went both ways in every round, narrow that down.
"""

from collections.abc import Iterable
from dataclasses import dataclass

DRIFT = 100e-6  # two quartz clocks of boards part by less, seconds per second


@dataclass(frozen=True, slots=True, kw_only=True)
class OffsetBounds:
    """The offset lies between `low_s` and `high_s`."""

    low_s: float
    high_s: float

    @property
    def offset_s(self) -> float:
        """The middle: wrong by `error_s` at most."""
        return (self.low_s + self.high_s) / 2

    @property
    def error_s(self) -> float:
        return (self.high_s - self.low_s) / 2


def from_round_trip(
    *, asked_s: float, received_s: float, answered_s: float, came_s: float, age_s: float
) -> OffsetBounds:
    """From a question and its answer: `asked_s` and `came_s` by our clock, the others by theirs.

    `age_s`: how long before that the offset is wanted for; the clocks may have drifted apart since.
    """
    spread_s = DRIFT * max(0.0, age_s)
    low_s, high_s = answered_s - came_s, received_s - asked_s
    if low_s > high_s:  # the other board says that it took longer than the whole round trip
        low_s = high_s = (low_s + high_s) / 2
    return OffsetBounds(low_s=low_s - spread_s, high_s=high_s + spread_s)


def narrowed(
    bounds: OffsetBounds, *, ours: Iterable[tuple[float, float]], theirs: Iterable[tuple[float, float]]
) -> OffsetBounds:
    """`bounds`, as far as messages of the request itself allow.

    `ours`: (sent by our clock, came by theirs) of what we sent; `theirs`: (sent by their clock, came by ours). Where
    they contradict the round trip, it alone counts: a mark was lost, or somebody's clock jumped.
    """
    high_s = min([bounds.high_s, *(came_s - sent_s for sent_s, came_s in ours)])
    low_s = max([bounds.low_s, *(sent_s - came_s for sent_s, came_s in theirs)])
    return OffsetBounds(low_s=low_s, high_s=high_s) if low_s <= high_s else bounds
