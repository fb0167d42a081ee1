"""How long boards take to find, lose and take back each other: real daemons in network namespaces on one machine.

    python -m tests.faults.joining [--seeds 30] [--boards 4] [--crowd 20] [--rows join,crash,...] [--json FILE]

Needs root. Every row is repeated on a fresh cluster `seeds` times; a seed draws the victim and the moment. A time is
from the fault (or the start) until EVERY other board's control socket reports the state, polled every 20 ms; what is
printed is emulated in so far as all boards share this machine's cores.
"""

import argparse
import json
import platform
import random
import signal
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from tests.helpers.cluster import Daemons, cluster
from tests.helpers.lan import Lan, lan, why_no_lan

MODELS = Path(__file__).parents[2] / "models_onnx"
Times = dict[str, list[float]]
# Row, figure -> promised 95th percentile, seconds.
TARGETS = {
    "join: start to a place in everyone's ring": 5.0,
    "crowd: twenty started together, one ring": 15.0,
    "crash: not alive to anyone": 1.5,
    "crash: restarted board in everyone's ring": 5.0,
    "stop: suspected by all": 1.5,
    "stop: dead to all": 5.0,
    "stop: thawed board in everyone's ring": 3.0,
    "cable: suspected by all": 1.5,
    "cable: dead to all": 5.0,
    "cable: in everyone's ring after it is back": 3.0,
    "hang: suspected by all": 3.0,
    "hang: dead to all": 8.0,
    "split: one ring after healing": 10.0,
}


class Row:
    """One fault on one cluster."""

    def __init__(self, boards: Lan, daemons: Daemons, rng: random.Random, times: Times) -> None:
        self.boards, self.daemons, self.times = boards, daemons, times
        self.all = tuple(range(len(boards)))
        self.victim = rng.choice(self.all)
        self.others = tuple(i for i in self.all if i != self.victim)
        self._rng = rng

    def gather(self) -> None:
        """One ring of everybody, and then a moment at random."""
        self.daemons.start(*self.all)
        self.daemons.wait(lambda: self.daemons.one_ring(*self.all), "one ring to start with", 30.0)
        time.sleep(2.0 + self._rng.random())

    def until(self, figure: str, reached: Callable[[], bool], since: float, limit_s: float = 30.0) -> None:
        self.daemons.wait(reached, figure, limit_s)
        self.times[figure].append(time.monotonic() - since)

    def believed(self, *statuses: str) -> bool:
        return all(self.daemons.status(i, self.victim) in statuses for i in self.others)


def join(row: Row) -> None:
    row.daemons.start(*row.others)
    row.daemons.wait(lambda: row.daemons.one_ring(*row.others), "a ring to join", 30.0)
    since = time.monotonic()
    row.daemons.start(row.victim)
    row.until("join: start to a place in everyone's ring", lambda: row.daemons.one_ring(*row.all), since)


def crash(row: Row) -> None:
    row.gather()
    since = time.monotonic()
    row.daemons.end(row.victim, signal.SIGKILL)
    row.until("crash: not alive to anyone", lambda: row.believed("suspect", "dead"), since)
    since = time.monotonic()
    row.daemons.start(row.victim)
    row.until("crash: restarted board in everyone's ring", lambda: row.daemons.one_ring(*row.all), since)


def stop(row: Row) -> None:
    row.gather()
    since = time.monotonic()
    row.daemons.signal(row.victim, signal.SIGSTOP)
    row.until("stop: suspected by all", lambda: row.believed("suspect", "dead"), since)
    row.until("stop: dead to all", lambda: row.believed("dead"), since)
    since = time.monotonic()
    row.daemons.signal(row.victim, signal.SIGCONT)
    row.until("stop: thawed board in everyone's ring", lambda: row.daemons.one_ring(*row.all), since)


def cable(row: Row) -> None:
    row.gather()
    since = time.monotonic()
    row.boards[row.victim].cable(plugged=False)
    row.until("cable: suspected by all", lambda: row.believed("suspect", "dead"), since)
    row.until("cable: dead to all", lambda: row.believed("dead"), since)
    time.sleep(5.0)
    since = time.monotonic()
    row.boards[row.victim].cable(plugged=True)
    row.until("cable: in everyone's ring after it is back", lambda: row.daemons.one_ring(*row.all), since)


def hang(row: Row) -> None:
    row.gather()
    since = time.monotonic()
    row.daemons.signal(row.victim, signal.SIGUSR1)
    row.until("hang: suspected by all", lambda: row.believed("suspect", "dead"), since)
    row.until("hang: dead to all", lambda: row.believed("dead"), since)


def split(row: Row) -> None:
    row.gather()
    half = len(row.all) // 2
    row.boards.split(row.all[:half], row.all[half:])
    sides = (row.all[:half], row.all[half:])
    row.daemons.wait(lambda: all(row.daemons.one_ring(*side) for side in sides), "two rings", 30.0)
    since = time.monotonic()
    row.boards.heal()
    row.until("split: one ring after healing", lambda: row.daemons.one_ring(*row.all), since)


def crowd(row: Row) -> None:
    row.daemons.start(*row.all)
    for index in row.all:
        row.daemons.wait(lambda index=index: bool(row.daemons.ring(index)), "every daemon is up", 120.0)
    since = time.monotonic()
    row.until("crowd: twenty started together, one ring", lambda: row.daemons.one_ring(*row.all), since, 60.0)


ROWS = {"join": join, "crash": crash, "stop": stop, "cable": cable, "hang": hang, "split": split, "crowd": crowd}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--boards", type=int, default=4)
    parser.add_argument(
        "--crowd", type=int, default=20, help="boards of the row `crowd`, run with a tenth of the seeds"
    )
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if why_no_lan():
        sys.exit(f"skipped: {why_no_lan()}")
    times: Times = defaultdict(list)
    failures = 0
    for name in options.rows.split(","):
        large = name == "crowd"
        for seed in range(max(1, options.seeds // 10) if large else options.seeds):
            print(f"\r{name}, seed {seed}   ", end="", file=sys.stderr, flush=True)
            with lan(options.crowd if large else options.boards) as boards, cluster(boards, MODELS) as daemons:
                try:
                    ROWS[name](Row(boards, daemons, random.Random(f"{name} {seed}"), times))
                except AssertionError as problem:
                    failures += 1
                    print(f"\n{name}, seed {seed}: {problem}", file=sys.stderr)
    print(file=sys.stderr)
    print(f"{options.boards} daemons in network namespaces on one {platform.machine()} machine, seconds")
    print(f"{'':46} {'n':>3} {'p50':>6} {'p95':>6} {'max':>6} {'target':>7}")
    report = {}
    for figure, values in times.items():
        ordered = sorted(values)
        p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
        report[figure] = {"n": len(ordered), "p50": statistics.median(ordered), "p95": p95, "max": ordered[-1]}
        row = f"{figure:46} {len(ordered):3} {statistics.median(ordered):6.2f} {p95:6.2f} {ordered[-1]:6.2f}"
        print(f"{row} {TARGETS[figure]:7.1f}")
    if options.json:
        options.json.write_text(json.dumps({"failures": failures, "seconds": report}, indent=1) + "\n")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
