"""How much memory this process may still take, as far as Linux says so, and giving back what it needs no longer."""

import ctypes
import resource
from collections.abc import Callable
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # mallopt(3)
_ANY_SIZE, _OLD_LIMIT = 1 << 30, 4 * 1024 * 1024 * ctypes.sizeof(ctypes.c_long)

_QUIET_S = 3.0  # after the last work: the next request of a busy board would only take it all again


class GiveBack:
    """Memory that a crowd of requests took at once stays in the allocator's lists for good unless it is told."""

    def __init__(self, trim: Callable[[], object] | None = None) -> None:
        """`trim` gives back what can be given; the allocator of the C library unless a test says otherwise."""
        self._trim = trim or _trim
        self._quiet_since: float | None = None

    def look(self, *, worked: bool, now: float) -> None:
        """Call about every second. `worked`: whether anything was under way since the last call."""
        if worked:
            self._quiet_since = now
        elif self._quiet_since is not None and now - self._quiet_since >= _QUIET_S:
            self._quiet_since = None
            self._trim()


def keep_freed() -> None:
    """From now on memory that is freed stays with this process, up to areas of 1 GiB, until `GiveBack` takes it away.

    glibc gives areas beyond 32 MiB back at once and takes them anew, page by page, at the next call: scores of 1024
    tokens are 50 MB, and a block spent 36 of 83 ms on that (`python -m tools.bench.fresh_pages`). One arena, as all of
    them would keep their own.
    """
    adjust = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if adjust is None:
        return
    # Until 2.34 glibc refuses more than 32 MiB. Any setting ends its own adjusting, which would be worse than nothing.
    if adjust(_M_MMAP_THRESHOLD, _ANY_SIZE) or adjust(_M_MMAP_THRESHOLD, _OLD_LIMIT):
        adjust(_M_TRIM_THRESHOLD, _ANY_SIZE)
        adjust(_M_ARENA_MAX, 1)


def _trim() -> None:
    """malloc_trim(3): takes milliseconds, in the calling thread. musl has no such function, and needs none."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def rss_bytes() -> int:
    """What this process has in memory now; 0 where /proc does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return 0


def free_bytes(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int | None:
    """The lesser of MemAvailable and what the control group (systemd's MemoryMax) leaves; None if both are unknown."""
    known = [value for value in (_available(meminfo), _group_rest(cgroup)) if value is not None]
    return min(known, default=None)


def _available(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
    except (OSError, ValueError, IndexError):
        return None


def _group_rest(cgroup: Path) -> int | None:
    # Only the own group: limits of its parents are seldom set on boards, and MemAvailable covers the machine.
    try:
        own = next(
            line.partition("::")[2].strip("/ \n")
            for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
            if line.startswith("0::")
        )
        limit = int((cgroup / own / "memory.max").read_text(encoding="ascii"))
        return max(0, limit - int((cgroup / own / "memory.current").read_text(encoding="ascii")))
    except (OSError, ValueError, StopIteration):
        return None
