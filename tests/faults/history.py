"""What clients saw of their requests, and what must hold of it whatever happened to the boards meanwhile.

One thread per asked board sends requests one after the other; every request is written down with its begin, its end and
its answer or typed error. `check` replays the history: every request ended once, by its deadline, with the undivided
model's answer, with one that says that it is degraded, or with a typed error.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from peer.cli_asking import Asking
from peer.errors import PeerError
from peer.reports import InferQuery, InferReport

TOLERANCE = 1e-4  # of logits: float32 codes differ from the undivided graph by the order of its sums
SHARED: dict[str, object] = {"mode": "sequence", "codec": "f32"}  # all boards, even where one alone would be faster
LATE = 1.1  # of the deadline
_GRACE_S = 0.5  # a busy machine's thread switch is no overrun


@dataclass(slots=True, kw_only=True)
class Request:
    """One request as its client saw it; times are local monotonic seconds."""

    board: int
    began: float
    deadline_s: float
    ended: float = 0.0
    report: InferReport | None = None
    error: str = ""

    @property
    def took_s(self) -> float:
        return self.ended - self.began


@dataclass(slots=True)
class History:
    """All requests of one run."""

    requests: list[Request] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, request: Request) -> None:
        with self._lock:
            self.requests.append(request)

    def spanning(self, at: float) -> list[Request]:
        """Requests under way at that moment."""
        return [request for request in self.requests if request.began <= at <= request.ended]

    def check(self, expected: tuple[float, ...], *, degraded: bool, errors: bool) -> list[str]:
        """What does not hold, in words. `degraded`, `errors`: whether such ends are allowed in this run."""
        wrong = []
        for request in self.requests:
            who = f"request at board {request.board}, {request.took_s:.2f} s"
            if request.took_s > LATE * request.deadline_s + _GRACE_S:
                wrong.append(f"{who}: over its deadline of {request.deadline_s:g} s")
            if request.report is None:
                if not errors:
                    wrong.append(f"{who}: {request.error}")
            elif request.report.degraded:
                if not degraded:
                    wrong.append(f"{who}: degraded, and nobody allowed it")
                if not request.report.lost:
                    wrong.append(f"{who}: degraded, and nobody is named as lost")
            elif (error := _distance(request.report, expected)) > TOLERANCE:
                wrong.append(f"{who}: an answer that is {error:.2g} from the undivided one and says it is whole")
        return wrong


def _distance(report: InferReport, expected: tuple[float, ...]) -> float:
    logits = report.logits or ()
    if len(logits) != len(expected):
        return float("inf")
    return max(abs(mine - theirs) for mine, theirs in zip(logits, expected, strict=True))


class Client(threading.Thread):
    """Asks one board, one request after the other, until `stop`."""

    def __init__(
        self,
        socket: Path,
        board: int,
        image: bytes,
        history: History,
        *,
        pause_s: float = 0.0,
        others: Sequence[Path] = (),
        **choices: object,
    ) -> None:
        """`others`: sockets of boards to ask when the first one does not answer any more."""
        super().__init__(name=f"client-{board}", daemon=True)
        self._sockets, self._board, self._image, self._history = (socket, *others), board, image, history
        self._pause_s = pause_s
        self._choices: dict[str, object] = {**SHARED, "deadline_s": 10.0, "logits": True, **choices}
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.is_set():
            self.ask()
            self._over.wait(self._pause_s)

    def stop(self) -> None:
        """No more requests after the one under way; waits for its end."""
        self._over.set()
        self.join(60)
        assert not self.is_alive(), "a request never ended"

    def ask(self) -> None:
        """One request, written down."""
        query = InferQuery(inputs=("picture",), **self._choices)  # type: ignore[arg-type]  # real fields, by the caller
        request = Request(board=self._board, began=time.monotonic(), deadline_s=float(query.deadline_s or 0))
        try:
            with Asking(self._sockets, timeout_s=60, say=lambda *_: None) as asking:
                request.report = asking.infer(query, [self._image])[0]
        except PeerError as problem:
            request.error = f"{problem.kind}: {problem}"
        request.ended = time.monotonic()
        self._history.add(request)
