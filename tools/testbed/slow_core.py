"""A process whose work takes S times as long as its processor time: the clock, the sleeping, and one core for all.

Environment: TESTBED_SLOWER the factor S; TESTBED_CORE a file, whose lock the boards of one testbed take for each
large step, so that no two of them disturb each other's caches or share a core; TESTBED_TOLD a file for one line of
JSON per shard that ended; TESTBED_CHARGE `own` or `usual`. All assume one compute thread per board.

`usual`: a step is charged with what the same step (graph and shapes) usually takes, see `usual_times`. Other work on
this machine disturbs caches, so single processor times scatter; and a round, which ends with the slowest of N boards,
would collect what N quiet boards do not have. `own` charges each with its own.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path

from tools.testbed.ledger import Lateness, Ledger
from tools.testbed.usual_times import UsualTimes

_PR_SET_TIMERSLACK = 29
_BURST_S = 1e-3  # messages may leave so much too soon; it stays due
_IN_STEP, _URGENT = 1, 2  # real-time priorities: before other work of this machine, which has its other core
_SHORT_S = 2e-5  # not worth a system call: it stays due


class SlowCore:
    """One slowed thread, with the processor time of its whole process."""

    def __init__(self, slower: float) -> None:
        self.lateness = Lateness()
        self.ledger = Ledger(slower)
        self._thread: int | None = None
        self.in_step = False  # what is begun within a step is part of it
        self._lock = os.open(os.environ["TESTBED_CORE"], os.O_RDWR | os.O_CREAT, 0o600)
        self._urgent = be_urgent()
        self._usual = UsualTimes() if os.environ.get("TESTBED_CHARGE", "usual") == "usual" else None

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
    def step(self, kind: Hashable) -> Iterator[None]:
        """A large step: alone on its core as far as this testbed is concerned, and as slow as it should be.

        Steps of one `kind` have the same work to do.
        """
        before_s = time.thread_time()
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        if self._urgent:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_IN_STEP))
        began_s = time.thread_time()
        self.ledger.exempt(began_s - before_s)
        self.in_step = True
        try:
            yield
        finally:
            self.in_step = False
            before_s = time.thread_time()
            self._charge(kind, before_s - began_s)
            if self._urgent:
                os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_URGENT))
            fcntl.flock(self._lock, fcntl.LOCK_UN)
            self.ledger.exempt(time.thread_time() - before_s)
            self.catch_up()

    def timed(self, step: Callable[[], object]) -> float:
        """Run a step that the board measures of itself; the seconds it takes there.

        By the clock on the wall, a step that had to wait for this machine's core would have taken too long, and those
        behind it, which catch up, next to nothing.
        """
        spent_s = time.process_time()
        self.ledger.begin(max(time.monotonic(), self.ledger.due(spent_s)), spent_s)
        began_at = self.ledger.due(spent_s)
        step()
        return self.ledger.due(time.process_time()) - began_at

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """What happens here is not slowed."""
        self._thread, thread = None, self._thread
        try:
            yield
        finally:
            self._thread = thread
            self.ledger.begin(time.monotonic(), time.process_time())

    def _charge(self, kind: Hashable, took_s: float) -> None:
        if self._usual is not None:
            self.ledger.exempt(took_s - self._usual.note(kind, took_s))

    def catch_up(self, short_s: float = _SHORT_S) -> float:
        """Sleep until what was done so far is due, unless that is sooner; by how much it is late, or not."""
        while True:
            own_s = time.thread_time()
            late_s = time.monotonic() - self.ledger.due(time.process_time())
            if late_s > -short_s:
                return late_s
            time.sleep(-late_s)
            # Or the sleeping itself, S times as long, would be due as well, and again.
            self.ledger.exempt(time.thread_time() - own_s)

    def show(self) -> None:
        """What was done so far is about to be seen by others.

        A sleep before each message of a burst would wake the socket's thread for each, which costs more than it counts.
        """
        self.lateness.note(self.catch_up(_BURST_S))

    def tell(self, **fields: object) -> None:
        """A line for whoever runs the testbed."""
        place = os.environ.get("TESTBED_TOLD")
        if place:
            late = {"late_ms": 1e3 * self.lateness.total_s, "most_late_ms": 1e3 * self.lateness.most_s}
            line = json.dumps({"at": time.monotonic(), **late, **fields})
            with Path(place).open("a", encoding="ascii") as file:
                file.write(line + "\n")
        self.lateness = Lateness()


def be_urgent() -> bool:
    """Run as soon as there is something to do, before other work of this machine; threads and children inherit it.

    False where the system does not let us.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_URGENT))
    except OSError:
        return False
    return True
