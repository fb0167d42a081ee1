"""Who gets how many tokens: boards are weighed by the speed they measured, and one that only holds up is left out.

Every block ends when the slowest board is through, so equal boards get equal shares and a slow one a small share. A
board costs the others something even with one token: its fixed work per block, done slowly.
"""

import statistics
from collections.abc import Sequence

EVEN = 1.35  # speeds within this factor of each other are the same: measurements differ by as much from run to run
WORTH = 0.2  # of the middle speed; a slower board finishes its fixed work of a block after the others' whole block


def weights(speeds: Sequence[float | None]) -> tuple[float, ...]:
    """One weight per board from its speed (content-token blocks per second; None: not measured yet, taken as usual)."""
    known = [speed for speed in speeds if speed]
    if not known or max(known) <= EVEN * min(known):
        return (1.0,) * len(speeds)
    usual = statistics.median(known)
    return tuple(speed or usual for speed in speeds)


def worthwhile(speeds: Sequence[float | None]) -> tuple[bool, ...]:
    """Which boards make a request faster by taking part; at least the fastest does."""
    known = [speed for speed in speeds if speed]
    if not known:
        return (True,) * len(speeds)
    # Of two boards the middle is the faster one: a slow board does not vouch for itself.
    usual = statistics.median_high(known)
    return tuple(not speed or speed >= WORTH * usual for speed in speeds)
