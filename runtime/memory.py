"""How much memory this process may still take, as far as Linux says so."""

from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


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
