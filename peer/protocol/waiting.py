"""Requests that wait their turn on the board that was asked: first come, first served, bounded in number and bytes."""

from collections import OrderedDict

from peer.errors import Busy, Cancelled, DeadlineExceeded
from peer.protocol.effects import Deliver
from peer.protocol.events import Submission
from peer.protocol.types import RequestId

SHORTEST_RETRY_S = 0.2  # the least that a client is told to wait


class WaitingRoom:
    """Submissions since their arrival. Each leaves once: called up, cancelled, or when its deadline passed."""

    def __init__(self, *, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._waiting: OrderedDict[RequestId, tuple[float, Submission]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, request: RequestId) -> bool:
        return request in self._waiting

    def has_room(self, submission: Submission) -> bool:
        """Whether the input of one more fits."""
        held = sum(len(waiting.rows) for _, waiting in self._waiting.values())
        return held + len(submission.rows) <= self._limit_bytes

    def enter(self, submission: Submission, now: float) -> None:
        self._waiting[submission.request] = (now, submission)

    def call(self) -> tuple[float, Submission]:
        """Who has waited longest, and since when."""
        _, called = self._waiting.popitem(last=False)
        return called

    def cancel(self, request: RequestId) -> Deliver:
        """Its asker went away; the request must be waiting."""
        del self._waiting[request]
        return Deliver(request=request, result=Cancelled("the asker went away"))

    def expire(self, now: float) -> list[Deliver]:
        """The ends of those whose time is over."""
        over = [request for request, (_, waiting) in self._waiting.items() if now >= waiting.deadline_at]
        ends = []
        for request in over:
            since, _ = self._waiting.pop(request)
            error = DeadlineExceeded(
                f"{now - since:.3g} s went by behind other requests; allow more with --deadline, or ask another board"
            )
            ends.append(Deliver(request=request, result=error))
        return ends

    def deadline(self) -> float | None:
        """When the first of them is over, local monotonic time."""
        return min((waiting.deadline_at for _, waiting in self._waiting.values()), default=None)


def turned_away(request: RequestId, *, held: int, turns_s: float) -> Deliver:
    """The end of a request for which there is no room; `turns_s`: when those before it will be through."""
    retry_after_s = max(SHORTEST_RETRY_S, turns_s)
    error = Busy(f"busy with {held} requests; try again in {retry_after_s:.2g} s, or ask another board", retry_after_s)
    return Deliver(request=request, result=error)
