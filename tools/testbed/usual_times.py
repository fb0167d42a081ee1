"""What each step takes on this machine's core at full speed: learned by boards with S = 1, then charged.

A board that sleeps between its steps, which is how it is slowed, finds its caches cold and takes up to half as long
again for small shards; a real board that is slow does not. So boards with S = 1 run every setting before, and what
their steps took there (the median of each kind) is what the slowed boards are charged with.

Environment: TESTBED_LEARN a file that every step is added to, one line of JSON; TESTBED_LEARNED the same file, read.
"""

import json
import os
import statistics
from collections import defaultdict, deque
from collections.abc import Hashable
from pathlib import Path

_REMEMBERED = 101
_FEWEST = 3  # of a kind: the first runs of a step find nothing in any cache


class UsualTimes:
    """Of one process."""

    def __init__(self) -> None:
        learned, learn = os.environ.get("TESTBED_LEARNED"), os.environ.get("TESTBED_LEARN")
        self._learned = read(Path(learned)) if learned else {}
        self._file = os.open(learn, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600) if learn else None
        self._seen: defaultdict[Hashable, deque[float]] = defaultdict(lambda: deque(maxlen=_REMEMBERED))

    def note(self, kind: Hashable, took_s: float) -> float:
        """A step took so much processor time; what it is to be charged with: what was learned, or the median so far."""
        name = repr(kind)
        if self._file is not None:
            os.write(self._file, json.dumps([name, took_s]).encode() + b"\n")
        if name in self._learned:
            return self._learned[name]
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
    return {name: statistics.median(times) for name, times in seen.items() if len(times) >= _FEWEST}
