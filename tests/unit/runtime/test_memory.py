"""When memory is given back: once, when the work is over, and not while it goes on."""

import ctypes

from runtime.memory import GiveBack


def test_memory_is_given_back_once_after_the_work() -> None:
    trims: list[float] = []
    now = 0.0
    give_back = GiveBack(lambda: trims.append(now))
    work = [False, False, True, True, False, False, False, False, False, False, True, False, False, False, False]
    for now, worked in enumerate(work):
        give_back.look(worked=worked, now=float(now))
    assert trims == [6, 13]


def test_the_c_library_takes_it() -> None:
    give_back = GiveBack()
    give_back.look(worked=True, now=0.0)
    give_back.look(worked=False, now=60.0)  # no exception, whichever library this is
    assert ctypes.CDLL(None) is not None
