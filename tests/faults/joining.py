"""How long boards take to find, lose and take back each other: real daemons in network namespaces on one machine.

    python -m tests.faults.joining [--seeds 30] [--boards 4] [--crowd 20] [--rows join,crash,...] [--out FILE]

Needs root. Every row is repeated on a fresh cluster `seeds` times, the rows with `crowd` boards a tenth as often; a
seed draws the victim and the moment. A time is from the fault (or the start) until EVERY other board's control socket
reports the state, polled every 20 ms; emulated in so far as all boards share this machine's cores. Runs are kept in
FILE and not repeated. Ends with 1 when a promise was missed or a run failed.
"""

import argparse
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from peer.errors import PeerError
from tests.faults.record import ROOT, Promise, Record, Run, add_seeds, machine, seeds
from tests.helpers.cluster import Daemons, cluster
from tests.helpers.lan import Lan, lan, why_no_lan

MODELS = ROOT / "models_onnx"
PHOTO = ROOT / "docs/photos/chelsea.png"
PROMISES = {
    "join: start to a place in everyone's ring": Promise(p50=2.0, p95=5.0),
    "crowd: together, one ring after the last is up": Promise(worst=15.0),
    "crowd: together, one ring after the start": Promise(),
    "fresh: without model, in everyone's ring": Promise(),
    "fresh: without model, first answer with its share": Promise(),
    "crash: not alive to anyone": Promise(p95=1.5),
    "crash: restarted board in everyone's ring": Promise(p95=5.0),
    "stop: suspected by all": Promise(p95=1.5),
    "stop: dead to all": Promise(p95=5.0),
    "stop: thawed board in everyone's ring": Promise(p95=3.0),
    "cable: suspected by all": Promise(p95=1.5),
    "cable: dead to all": Promise(p95=5.0),
    "cable: in everyone's ring after it is back": Promise(p95=3.0),
    "hang: suspected by all": Promise(p95=3.0),
    "hang: dead to all": Promise(p95=8.0),
    "split: one ring after healing": Promise(p95=10.0),
}


class Row:
    """One fault on one cluster."""

    def __init__(self, boards: Lan, daemons: Daemons, rng: random.Random, figures: dict[str, float]) -> None:
        self.boards, self.daemons, self.figures = boards, daemons, figures
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
        self.figures[figure] = time.monotonic() - since

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
    row.boards.cable(row.victim, plugged=False)
    row.until("cable: suspected by all", lambda: row.believed("suspect", "dead"), since)
    row.until("cable: dead to all", lambda: row.believed("dead"), since)
    time.sleep(5.0)
    since = time.monotonic()
    row.boards.cable(row.victim, plugged=True)
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


def fresh(row: Row) -> None:
    row.daemons.start(*row.others)
    row.daemons.wait(lambda: row.daemons.one_ring(*row.others), "a ring to join", 30.0)
    empty = row.daemons.home(row.victim) / "models"
    empty.mkdir()
    picture = PHOTO.read_bytes()

    def shares() -> bool:
        try:
            report = row.daemons.infer(row.others[0], picture, boards=len(row.all), mode="sequence")
        except PeerError:
            return False
        return len(report.boards) == len(row.all)

    since = time.monotonic()
    row.daemons.start(row.victim, models=empty)
    row.until("fresh: without model, in everyone's ring", lambda: row.daemons.one_ring(*row.all), since, 60.0)
    row.until("fresh: without model, first answer with its share", shares, since, 60.0)


def crowd(row: Row) -> None:
    begun = time.monotonic()
    row.daemons.start(*row.all)
    for index in row.all:
        row.daemons.wait(lambda index=index: bool(row.daemons.ring(index)), "every daemon is up", 120.0)
    since = time.monotonic()
    row.until("crowd: together, one ring after the last is up", lambda: row.daemons.one_ring(*row.all), since, 60.0)
    row.figures["crowd: together, one ring after the start"] = time.monotonic() - begun


ROWS = {
    "join": join,
    "crash": crash,
    "stop": stop,
    "cable": cable,
    "hang": hang,
    "split": split,
    "fresh": fresh,
    "crowd": crowd,
}


def run(name: str, seed: int, boards: int) -> Run:
    """One row on a cluster of its own."""
    done = Run()
    with lan(boards) as made, cluster(made, MODELS) as daemons:
        try:
            ROWS[name](Row(made, daemons, random.Random(f"{name} {seed}"), done.figures))
        except AssertionError as problem:
            done.problem = str(problem)
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_seeds(parser)
    parser.add_argument("--boards", type=int, default=4)
    parser.add_argument("--crowd", type=int, default=20, help="boards of the row `crowd`")
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--out", type=Path, default=Path("runs/faults-joining.json"))
    options = parser.parse_args()
    if why_no_lan():
        sys.exit(f"skipped: {why_no_lan()}")
    record = Record(options.out)
    for seed in seeds(options):  # one seed of every row after the other: a part of it is evenly spread
        for name in options.rows.split(","):
            large = name == "crowd"
            if record.has(name, seed) or (large and options.seed is None and seed >= max(3, options.seeds // 10)):
                continue
            done = run(name, seed, options.crowd if large else options.boards)
            record.put(name, seed, done)
            print(f"{name}, seed {seed}: {done.problem or done.figures}", file=sys.stderr, flush=True)
    print(f"{options.boards} daemons in network namespaces on {machine()}; seconds")
    sys.exit(0 if record.report(PROMISES) else 1)


if __name__ == "__main__":
    main()
