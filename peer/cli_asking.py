"""Ask for a classification until there is an answer: again where a board is busy, another board where one has died.

A classification may be asked for twice without harm. One `Asking` is for one thread; it has connections of its own.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from peer.control_client import ControlClient
from peer.errors import Busy, HungUp, Leaving, NoDaemon
from peer.reports import DEFAULT_DEADLINE_S, InferQuery, InferReport

RETURN_S = 10.0  # a daemon that went away under a request is given so long to come back: systemd starts it again
_PAUSE_S = 0.2


class Asking:
    """Knows the control sockets of one or more daemons, the preferred one first."""

    def __init__(self, sockets: Sequence[Path], *, timeout_s: float, say: Callable[[str, str], None]) -> None:
        """`say` tells a person why another daemon is asked, and which."""
        self._clients = [ControlClient(path, timeout_s=timeout_s) for path in sockets]
        self._names = [str(path) for path in sockets]
        self._at = 0  # whoever answered last is asked first
        self._say = say

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; a question under way is cancelled by the daemon."""
        for client in self._clients:
            client.close()

    def infer(self, query: InferQuery, images: Sequence[bytes]) -> tuple[InferReport, ...]:
        """Classify the images as one batch, within the query's time for an answer. Raises PeerError."""
        until = time.monotonic() + (query.deadline_s or DEFAULT_DEADLINE_S)
        return_by = 0.0  # until when somebody may still come back
        in_vain = 0  # daemons asked one after the other of whom none answered
        while True:
            try:
                return self._clients[self._at].infer(query, images)
            except Busy as busy:
                in_vain = 0
                self._clients[self._at].close()  # who waits takes no place at the daemon's socket
                # A little apart, so that clients who were refused together do not come back together.
                _sleep(busy.retry_after_s * random.uniform(0.5, 1.5), until)
                if time.monotonic() >= until:
                    raise
            except (NoDaemon, Leaving) as problem:
                in_vain += 1
                if isinstance(problem, HungUp | Leaving):
                    return_by = return_by or min(until, time.monotonic() + RETURN_S)
                if in_vain < len(self._clients):
                    self._turn_to_another(problem)
                elif time.monotonic() + _PAUSE_S < return_by:
                    _sleep(_PAUSE_S, until)
                    self._at, in_vain = 0, 0
                else:
                    raise
            query = replace(query, deadline_s=max(until - time.monotonic(), 0.001))

    def _turn_to_another(self, problem: NoDaemon | Leaving) -> None:
        self._at = (self._at + 1) % len(self._clients)
        self._say(str(problem), self._names[self._at])


def _sleep(seconds: float, until: float) -> None:
    time.sleep(max(0.0, min(seconds, until - time.monotonic())))
