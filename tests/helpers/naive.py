"""What a daemon does without a protection, to show that the rows under tests/faults can fail.

NAIVE=patience,losses python -m tests.faults.requests --rows kill,freeze --seeds 3 --out runs/naive.json
"""

from collections.abc import Callable

from peer.protocol import patience
from peer.protocol.requests import RequestLimits, Requests
from peer.starvation import Starvation


def _patience() -> None:
    """A round may take a minute, and so may every other wait for a board."""
    patience.FIRST_ROUND_S = patience.SHORTEST_ROUND_S = patience.LONGEST_ROUND_S = 60.0


def _losses() -> None:
    """Neither a broken link nor a suspicion reaches the requests under way."""
    Requests._lost = lambda *_: []  # type: ignore[method-assign]


def _queue() -> None:
    """Whatever is asked is begun at once, and nobody is told to come again."""
    set_up = RequestLimits.__init__

    def limitless(self: RequestLimits, **_: int) -> None:
        set_up(self, coordinated=1 << 20, active=1 << 20, participated=1 << 20)

    RequestLimits.__init__ = limitless  # type: ignore[method-assign, assignment]


def _starvation() -> None:
    """Only the steps of the work are looked at, not whether the thread was let to run between them."""
    Starvation.waited_s = lambda _: 0.0  # type: ignore[method-assign]


def _nothing() -> None:
    """Of the clients, not of the daemon."""


_PROTECTIONS: dict[str, Callable[[], None]] = {
    "patience": _patience,
    "losses": _losses,
    "queue": _queue,
    "starvation": _starvation,
    "retry": _nothing,  # clients of tests.faults.load do not come again
}


def make_naive(without: str) -> None:
    """Take the protections in this list, `a,b`, away from this process; KeyError for an unknown one."""
    for name in filter(None, without.split(",")):
        _PROTECTIONS[name]()
