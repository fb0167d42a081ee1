"""Limits that the kernel puts on one board's processes (control groups, version 1), and what those processes take.

with memory_limit(50 << 20) as group:
    group.add(daemon.pid)
    group.oom_kills()
"""

import contextlib
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_PERIOD_US = 100_000


def why_no_limits() -> str:
    """Why this process cannot set limits, for the reason of a skipped row; empty when it can."""
    missing = [name for name in ("cpu", "memory") if not os.access(_ROOT / name / "cgroup.procs", os.W_OK)]
    return f"needs root and control groups of version 1 for {', '.join(missing)}" if missing else ""


@dataclass(frozen=True, slots=True)
class Group:
    """One control group of one kind; who is added, and whoever it starts later, is held to its limit."""

    place: Path

    def add(self, pid: int) -> None:
        for process in family(pid):
            (self.place / "cgroup.procs").write_text(str(process))

    def held_bytes(self) -> int:
        """What the group holds at present and cannot give up: memory that is no page cache."""
        lines = (self.place / "memory.stat").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("total_rss "))

    def oom_kills(self) -> int:
        """Processes of the group that the kernel killed for want of memory."""
        lines = (self.place / "memory.oom_control").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


@contextlib.contextmanager
def _group(kind: str) -> Iterator[Group]:
    group = Group(_ROOT / kind / f"tokenring-{uuid.uuid4().hex[:12]}")
    group.place.mkdir()
    try:
        yield group
    finally:
        for pid in (group.place / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):  # it ended by itself
                (_ROOT / kind / "cgroup.procs").write_text(pid)
        group.place.rmdir()


@contextlib.contextmanager
def cpu_limit(share: float) -> Iterator[Group]:
    """A group whose processes together get this share of one core."""
    with _group("cpu") as group:
        (group.place / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
        (group.place / "cpu.cfs_quota_us").write_text(str(int(share * _PERIOD_US)))
        yield group


@contextlib.contextmanager
def memory_limit(size_bytes: int) -> Iterator[Group]:
    """A group whose processes together may hold this much; page cache counts, and is given up first."""
    with _group("memory") as group:
        (group.place / "memory.limit_in_bytes").write_text(str(size_bytes))
        yield group


def family(pid: int) -> list[int]:
    """A process and all that descend from it, as far as they live."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{parent}/task"):
                found += map(int, Path(f"/proc/{parent}/task/{task}/children").read_text().split())
    return found


def memory_bytes(pid: int, kind: str = "VmRSS", *, alone: bool = False) -> int:
    """What a process and, if not `alone`, its children hold; `kind` as in proc_pid_status(5). 0 when it is gone."""
    total = 0
    for process in [pid] if alone else family(pid):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{process}/status").read_text().splitlines()
            total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{kind}:"))
    return total


def descriptors(pid: int) -> int:
    """Open files and sockets of a process and its children."""
    total = 0
    for process in family(pid):
        with contextlib.suppress(OSError):
            total += len(os.listdir(f"/proc/{process}/fd"))
    return total
