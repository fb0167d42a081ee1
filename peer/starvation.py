"""How long a thread was ready to run and was not let: by other programs, a CPU quota, or a host that shares cores."""

import os
from pathlib import Path

_SCHEDSTAT = Path("/proc/thread-self/schedstat")  # "on the CPU, waiting for it (both ns), turns": proc(5)
_LONGEST_LINE = 100


class Starvation:
    """Of the thread that reads it first, and by that one only. Where the kernel does not tell, it stays at nothing."""

    def __init__(self, schedstat: Path = _SCHEDSTAT) -> None:
        self._path: Path | None = schedstat
        self._descriptor: int | None = None

    def waited_s(self) -> float:
        """Seconds since the thread began, those in the middle of its work included."""
        try:
            # Opened once, as that takes longer than the reading; and here, as it belongs to whichever thread opens it.
            if self._path is not None:
                path, self._path = self._path, None
                self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            if self._descriptor is None:
                return 0.0
            return int(os.pread(self._descriptor, _LONGEST_LINE, 0).split()[1]) / 1e9
        except (OSError, ValueError, IndexError):
            return 0.0
