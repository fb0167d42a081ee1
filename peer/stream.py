"""Several requests in flight at once, their results in the order in which they were asked for.

So many at a time as the boards can work on; fewer when answers come so late that requests would miss their deadlines
while they wait for each other. Standard library only: `peerctl` starts quickly.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Generic, TypeVar

J = TypeVar("J")
R = TypeVar("R")
_AHEAD = 4  # times what is in flight may wait for an earlier result before it is printed
_AT_ONCE_S = 0.05
_SLOW = 1 / 2  # of the time for an answer: who waits longer has too many beside it


class Window:
    """How many requests are in flight: one to begin with, soon `most` of them, fewer while answers take long.

    One, until it has not failed at once: what is wrong with all of them, a daemon that does not answer or a model that
    it does not know, shows sooner than an answer.
    """

    def __init__(self, *, most: int, patience_s: float) -> None:
        """`patience_s`: the time that a request has for its answer."""
        self.most = max(1, most)
        self._narrowed = False
        self.size = 1
        self._slow_s = _SLOW * patience_s

    @property
    def opens_in_s(self) -> float | None:
        """How long the only one in flight is waited for before `opened`; None: until it ends."""
        return _AT_ONCE_S if self.size < self.most and not self._narrowed else None

    def opened(self) -> None:
        """The first has not failed at once."""
        self.size = self.most

    def took(self, seconds: float) -> None:
        """An answer came after so many seconds."""
        if seconds > self._slow_s:
            self.size, self._narrowed = max(1, self.size - 1), True
        else:
            self.size = min(self.most, self.size + 1) if self._narrowed else self.most


@dataclass(frozen=True, slots=True)
class _Done(Generic[R]):
    """The end of job `number`: its result, or what it raised."""

    number: int
    seconds: float
    result: R | None
    problem: BaseException | None


class _Crew(Generic[J, R]):
    """Threads that work on jobs, each with whatever `open_work` gives it; started as they are needed."""

    def __init__(self, open_work: Callable[[], AbstractContextManager[Callable[[J], R]]]) -> None:
        self.done: SimpleQueue[_Done[R]] = SimpleQueue()
        self.under_way = 0
        self._jobs: SimpleQueue[tuple[int, J] | None] = SimpleQueue()
        self._open_work = open_work
        self._threads = 0

    def begin(self, number: int, job: J) -> None:
        self.under_way += 1
        if self._threads < self.under_way:
            self._threads += 1
            # A daemon: who interrupts the program does not wait for answers, and hanging up cancels the requests.
            threading.Thread(target=self._run, name=f"request-{self._threads}", daemon=True).start()
        self._jobs.put((number, job))

    def end(self) -> None:
        for _ in range(self._threads):
            self._jobs.put(None)

    def _run(self) -> None:
        with self._open_work() as work:
            while (taken := self._jobs.get()) is not None:
                number, job = taken
                started = monotonic()
                result, problem = None, None
                try:
                    result = work(job)
                except BaseException as raised:  # noqa: BLE001 - it is raised where the result is asked for
                    problem = raised
                self.done.put(_Done(number, monotonic() - started, result, problem))


def in_order(
    jobs: Iterable[J],
    open_work: Callable[[], AbstractContextManager[Callable[[J], R]]],
    window: Window,
    arrived: Callable[[], None] = lambda: None,
) -> Iterator[R]:
    """The results of all jobs, in their order; what a job raises is raised in its turn, and ends it.

    `open_work` is entered once per thread and gives what one thread works with; `arrived` hears of every end.
    """
    crew, numbered = _Crew(open_work), enumerate(jobs)
    kept: dict[int, _Done[R]] = {}
    begun = given = 0
    more = True
    try:
        while True:
            if given in kept and (problem := kept[given].problem) is not None:
                raise problem
            while more and crew.under_way < window.size and begun - given < _AHEAD * window.most:
                following = next(numbered, None)
                if following is None:
                    more = False
                    break
                crew.begin(*following)
                begun += 1
            if given in kept:
                done = kept.pop(given)
                given += 1
                yield done.result  # type: ignore[misc]  # a result where there is no problem
            elif crew.under_way:
                try:
                    done = crew.done.get(timeout=window.opens_in_s)
                except Empty:
                    window.opened()
                    continue
                crew.under_way -= 1
                kept[done.number] = done
                window.took(done.seconds)
                arrived()
            else:
                return
    finally:
        crew.end()
