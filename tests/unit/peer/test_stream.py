"""Several requests in flight: results in order, no more at once than allowed, fewer when answers come late."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from peer.stream import Window, in_order

WIDE = 4


class Boards:
    """Work that waits until somebody lets it go on, and counts what is under way."""

    def __init__(self) -> None:
        self.opened = self.closed = self.most = 0
        self._under_way = 0
        self._lock = threading.Lock()

    @contextmanager
    def open(self) -> Iterator[Callable[[int], int]]:
        with self._lock:
            self.opened += 1
        yield self._work
        with self._lock:
            self.closed += 1

    def _work(self, job: int) -> int:
        with self._lock:
            self._under_way += 1
            self.most = max(self.most, self._under_way)
        time.sleep(0.002 * (job % 3))  # so that they do not end in order
        with self._lock:
            self._under_way -= 1
        if job < 0:
            raise ValueError(job)
        return job * job


def test_results_come_in_order_and_several_are_under_way() -> None:
    boards, arrived = Boards(), []
    results = list(in_order(range(60), boards.open, Window(most=WIDE, patience_s=30.0), lambda: arrived.append(1)))
    assert results == [job * job for job in range(60)]
    assert len(arrived) == 60
    assert 1 < boards.most <= WIDE
    assert boards.opened <= WIDE


def test_jobs_are_not_taken_far_ahead_of_what_was_printed() -> None:
    taken = []

    def jobs() -> Iterator[int]:
        for job in range(1000):
            taken.append(job)
            yield job

    results = in_order(jobs(), Boards().open, Window(most=2, patience_s=30.0))
    assert next(results) == 0
    assert len(taken) <= 1 + 4 * 2 + 2
    results.close()


def test_what_a_job_raises_comes_in_its_turn_and_ends_it() -> None:
    results = in_order([1, 2, -3, 4], Boards().open, Window(most=WIDE, patience_s=30.0))
    assert [next(results), next(results)] == [1, 4]
    with pytest.raises(ValueError, match="-3"):
        next(results)


def test_others_do_not_wait_for_the_first_unless_it_fails_at_once() -> None:
    begun = threading.Barrier(WIDE)

    @contextmanager
    def slow() -> Iterator[Callable[[int], int]]:
        def work(job: int) -> int:
            begun.wait(30.0)  # broken, and so raised, if they came one after the other
            return job

        yield work

    assert list(in_order(range(WIDE), slow, Window(most=WIDE, patience_s=30.0))) == list(range(WIDE))
    boards = Boards()
    with pytest.raises(ValueError, match="-3"):
        next(in_order([-3, -4, -5], boards.open, Window(most=WIDE, patience_s=30.0)))
    assert boards.opened == 1


def test_nothing_to_do_starts_nothing() -> None:
    boards = Boards()
    assert list(in_order([], boards.open, Window(most=WIDE, patience_s=30.0))) == []
    assert boards.opened == 0


def test_the_window_narrows_while_answers_come_late_and_widens_again() -> None:
    window = Window(most=8, patience_s=30.0)
    assert window.size == 1
    window.took(1.0)
    assert window.size == 8
    for _ in range(20):
        window.took(25.0)
    assert window.size == 1
    for _ in range(20):
        window.took(1.0)
    assert window.size == 8
