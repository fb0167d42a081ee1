"""A process whose work takes S times as long as its processor time: the clock, the sleeping, and one core for all.

Environment: TESTBED_SLOWER the factor S; TESTBED_CORE a file, whose lock the boards of one testbed take for each
large step, so that no two of them disturb each other's caches or share a core; TESTBED_TOLD a file for one line of
JSON per shard that ended. All assume one compute thread per board.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tools.testbed.ledger import Lateness, Ledger

_PR_SET_TIMERSLACK = 29
_SHORT_S = 2e-5  # not worth a system call: it stays due


class SlowCore:
    """One slowed thread, with the processor time of its whole process."""

    def __init__(self, slower: float) -> None:
        self.lateness = Lateness()
        self.ledger = Ledger(slower)
        self._thread: int | None = None
        self._lock = os.open(os.environ["TESTBED_CORE"], os.O_RDWR | os.O_CREAT, 0o600)
        self._urgent = _urgent()

    @property
    def here(self) -> bool:
        """Whether this is the slowed thread; loading and warming up elsewhere is not slowed."""
        return threading.get_ident() == self._thread

    def slow_this_thread(self) -> None:
        """From here on."""
        self._thread = threading.get_ident()
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1)
        self.ledger.begin(time.monotonic(), time.process_time())

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """A large step: alone on its core as far as this testbed is concerned, and as slow as it should be."""
        before_s = time.thread_time()
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        if self._urgent:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        self.ledger.exempt(time.thread_time() - before_s)
        try:
            yield
        finally:
            before_s = time.thread_time()
            if self._urgent:
                os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
            fcntl.flock(self._lock, fcntl.LOCK_UN)
            self.ledger.exempt(time.thread_time() - before_s)
            self.catch_up()

    def catch_up(self) -> float:
        """Sleep until what was done so far is due; by how much it is late, negative where it was not."""
        while True:
            own_s = time.thread_time()
            late_s = time.monotonic() - self.ledger.due(time.process_time())
            if late_s > -_SHORT_S:
                return late_s
            time.sleep(-late_s)
            # Or the sleeping itself, S times as long, would be due as well, and again.
            self.ledger.exempt(time.thread_time() - own_s)

    def show(self) -> None:
        """What was done so far is about to be seen by others."""
        self.lateness.note(self.catch_up())

    def tell(self, **fields: object) -> None:
        """A line for whoever runs the testbed."""
        place = os.environ.get("TESTBED_TOLD")
        if place:
            line = json.dumps({"late_ms": 1e3 * self.lateness.total_s, "most_late_ms": 1e3 * self.lateness.most_s, **fields})
            with Path(place).open("a", encoding="ascii") as file:
                file.write(line + "\n")
        self.lateness = Lateness()


def _urgent() -> bool:
    """Whether this process could be made to run as soon as it has something to do; threads made later inherit it."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except OSError:
        return False
    return True
