"""When memory is given back: once, when the work is over, and not while it goes on."""

import ctypes
import subprocess
import sys

import pytest

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


_AGAIN = """
import resource, sys
import numpy as np
from runtime.memory import keep_freed
if sys.argv[1] == "kept":
    keep_freed()
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.full(64 << 20, 1, dtype=np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_large_areas_are_taken_from_the_kernel_once() -> None:
    faults = {
        how: int(subprocess.run([sys.executable, "-c", _AGAIN, how], capture_output=True, check=True).stdout)
        for how in ("given", "kept")
    }
    assert faults["given"] > 20 * max(faults["kept"], 1), faults
