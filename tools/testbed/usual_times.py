"""What each step takes on this machine's core at full speed: learned first (`learn`), then charged.

A board that sleeps between its steps, which is how it is slowed, finds its caches cold and takes up to half as long
again for small shards; a real board that is slow does not. Nor does it share its caches with other boards. So every
step of a plan is run beforehand without sleeps in one process, and the lower quartile of each kind is what boards are
charged: what else this machine does only adds time.

Environment: TESTBED_LEARNED the file that `learn` wrote. Steps that are not in it are charged with their own median.
"""

import json
import os
import statistics
from collections import defaultdict, deque
from collections.abc import Hashable
from pathlib import Path

_REMEMBERED = 101
_FEWEST = 3  # of a kind: the first runs of a step find nothing in any cache


class Notebook:
    """A file of steps, one line of JSON each."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def add(self, kind: Hashable, took_s: float) -> None:
        os.write(self._file, json.dumps([repr(kind), took_s]).encode() + b"\n")


class UsualTimes:
    """Of one process."""

    def __init__(self) -> None:
        learned = os.environ.get("TESTBED_LEARNED")
        self._learned = read(Path(learned)) if learned else {}
        self._seen: defaultdict[Hashable, deque[float]] = defaultdict(lambda: deque(maxlen=_REMEMBERED))

    def note(self, kind: Hashable, took_s: float) -> float:
        """A step took so much processor time; what it is to be charged with: what was learned, or the median so far."""
        learned_s = self._learned.get(repr(kind))
        if learned_s is not None:
            return learned_s
        seen = self._seen[kind]
        seen.append(took_s)
        return statistics.median(seen)


def read(path: Path) -> dict[str, float]:
    """Seconds of every kind that was seen often enough; nothing where there is no file."""
    seen: defaultdict[str, list[float]] = defaultdict(list)
    if path.exists():
        for line in path.read_text(encoding="ascii").splitlines():
            name, took_s = json.loads(line)
            seen[name].append(took_s)
    return {name: sorted(times)[len(times) // 4] for name, times in seen.items() if len(times) >= _FEWEST}
