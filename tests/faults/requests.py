"""Requests while boards die, freeze, lose their cable, leave and join: how each ends, and how much longer it takes.

    python -m tests.faults.requests [--seeds 30] [--boards 4] [--rows kill,freeze,...] [--out FILE]

Needs root. Real daemons in network namespaces on one machine. Clients ask all the time; the seed draws the victim and
the moment, so over many seeds the fault meets every phase of a request. `split` has five boards, whatever --boards
says. `added`: by how much the longest request that was under way at the fault exceeds the median of those before it.
After every run the history of all requests is checked (`tests.faults.history`). Runs are kept in FILE one by one; a run
that failed, or a promise missed, ends with 1.
"""

import argparse
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults.history import SHARED, Client, History
from tests.faults.record import ROOT, Promise, Record, Run, add_seeds, machine, seeds
from tests.helpers.cluster import Daemons, cluster
from tests.helpers.lan import Lan, lan, why_no_lan

MODELS = ROOT / "models_onnx"
PHOTO = ROOT / "docs/photos/chelsea.png"
PHASES = ("prepare", *(f"round {number}" for number in range(6)), "gather")  # the model has six blocks
USUAL = 5  # requests before the fault tell how long one takes
ASKED = 0  # the board whose clients are watched; faults hit others unless the row says otherwise
PROMISES = {
    "kill: added": Promise(p95=0.5),
    "phase: added": Promise(p95=0.5),
    "asked: added": Promise(p95=2.0),
    "freeze: added": Promise(p95=2.0),
    "cable: added": Promise(p95=2.0),
    "degraded: added": Promise(p95=2.0),
    "two: added": Promise(p95=2.0),
    "leave: added": Promise(p95=2.0),
}


class Row:
    """One fault during requests on one cluster."""

    def __init__(self, boards: Lan, daemons: Daemons, rng: random.Random, run: Run, seed: int = 0) -> None:
        self.boards, self.daemons, self.rng, self._run, self.seed = boards, daemons, rng, run, seed
        self.all = tuple(range(len(boards)))
        self.victims = rng.sample([i for i in self.all if i != ASKED], 2)
        self.image = PHOTO.read_bytes()
        self.history = History()
        self.expected: tuple[float, ...] = ()

    def gather(self, *indices: int) -> None:
        """One ring, and what the undivided model answers."""
        self.daemons.start(*(index for index in indices if index not in self.daemons.processes))
        self.daemons.wait(lambda: self.daemons.one_ring(*indices), "one ring to start with", 60.0)
        whole = self.daemons.infer(ASKED, self.image, mode="single", logits=True)
        self.expected = tuple(whole.logits or ())
        for _ in range(5):  # the first ones load codecs and meet patience that knows nothing yet
            self.daemons.infer(ASKED, self.image, **SHARED)

    def during(self, name: str, fault: Callable[[], object], *, after_s: float = 4.0, **choices: object) -> None:
        """Ask all the time, let the fault happen at a moment at random, go on, and look at what the clients saw."""
        client = Client(self.daemons.home(ASKED) / "sock", ASKED, self.image, self.history, **choices)
        client.start()
        time.sleep(1.5 + self.rng.random() * 0.5)
        while sum(bool(request.ended) for request in list(self.history.requests)) < USUAL and client.is_alive():
            time.sleep(self.rng.random() * 0.1)  # on a machine that is busy with something else
        at = time.monotonic()
        fault()
        time.sleep(after_s)
        client.stop()
        before = [request.took_s for request in self.history.requests if request.ended < at]
        hit = [request.took_s for request in self.history.requests if request.ended >= at and request.began < at + 1.5]
        usual_s = statistics.median(before)
        self._run.figures[f"{name}: usual"] = usual_s
        self._run.figures[f"{name}: added"] = max(hit) - usual_s
        self._run.figures[f"{name}: requests"] = len(self.history.requests)
        self._run.figures[f"{name}: degraded"] = sum(
            bool(r.report and r.report.degraded) for r in self.history.requests
        )

    def check(self, *, degraded: bool = False, errors: bool = False) -> None:
        wrong = self.history.check(self.expected, degraded=degraded, errors=errors)
        if wrong:
            raise AssertionError("; ".join(wrong[:3]))


def kill(row: Row) -> None:
    row.gather(*row.all)
    row.during("kill", lambda: row.daemons.signal(row.victims[0], signal.SIGKILL))
    row.check()


def phase(row: Row) -> None:
    """Killed in a phase that the seed names: while it prepares, in each of the rounds, or with only its result left."""
    with tempfile.TemporaryDirectory(prefix="tr-die-") as folder:
        os.environ["DIE_DIR"] = folder
        try:
            row.gather(*row.all)
        finally:
            del os.environ["DIE_DIR"]
        victim = row.daemons.processes[row.victims[0]]
        name = PHASES[row.seed % len(PHASES)]
        row.during("phase", lambda: (Path(folder) / str(victim.pid)).write_text(name))
        assert victim.poll() is not None, f"no request came to {name}"
    row.check()


def asked(row: Row) -> None:
    """The asked board itself is killed; its client knows the others."""
    row.gather(*row.all)
    others = tuple(row.daemons.home(index) / "sock" for index in row.all if index != ASKED)
    row.during("asked", lambda: row.daemons.signal(ASKED, signal.SIGKILL), others=others)
    row.check()


def freeze(row: Row) -> None:
    """Stopped for three seconds: requests go on without it, it stays a member, and no stale code of its is taken."""
    row.gather(*row.all)

    def fault() -> None:
        row.daemons.signal(row.victims[0], signal.SIGSTOP)
        time.sleep(3.0)
        row.daemons.signal(row.victims[0], signal.SIGCONT)

    row.during("freeze", fault)
    row.check()
    name = f"board-{row.victims[0]}"
    evictions = [b for i in row.all for b in row.daemons.beliefs(i) if b.about == name and b.status == "dead"]
    if evictions:
        raise AssertionError(f"evicted: {evictions[0]}")


def cable(row: Row) -> None:
    row.gather(*row.all)
    row.during("cable", lambda: row.boards.cable(row.victims[0], plugged=False))
    row.check()


def degraded(row: Row) -> None:
    """The same cable, by clients who rather take an answer without the lost board's tokens."""
    row.gather(*row.all)
    row.during("degraded", lambda: row.boards.cable(row.victims[0], plugged=False), allow_degraded=True)
    row.check(degraded=True)


def two(row: Row) -> None:
    row.gather(*row.all)

    def fault() -> None:
        row.daemons.signal(row.victims[0], signal.SIGKILL)
        time.sleep(row.rng.random() * 0.05)
        row.daemons.signal(row.victims[1], signal.SIGKILL)

    row.during("two", fault)
    row.check()


def split(row: Row) -> None:
    """Both halves are asked; each may answer with its own boards, never wrongly."""
    row.gather(*row.all)
    half = len(row.all) // 2
    other = Client(row.daemons.home(half) / "sock", half, row.image, row.history)
    other.start()

    def fault() -> None:
        row.boards.split(row.all[:half], row.all[half:])
        time.sleep(4.0)
        row.boards.heal()

    row.during("split", fault)
    other.stop()
    row.check()


def leave(row: Row) -> None:
    """Boards leave and join while requests come five times a second: none fails."""
    row.gather(*row.all)

    def fault() -> None:
        row.daemons.end(row.victims[0], signal.SIGTERM)
        time.sleep(1.0)
        row.daemons.start(row.victims[0])
        time.sleep(2.0)
        row.daemons.end(row.victims[1], signal.SIGTERM)

    row.during("leave", fault, pause_s=0.2)
    row.check()


ROWS = {
    "kill": kill,
    "phase": phase,
    "asked": asked,
    "freeze": freeze,
    "cable": cable,
    "degraded": degraded,
    "two": two,
    "split": split,
    "leave": leave,
}
BOARDS = {"split": 5}  # two and three, as the promise says


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_seeds(parser)
    parser.add_argument("--boards", type=int, default=4)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--out", type=Path, default=Path("runs/faults-requests.json"))
    options = parser.parse_args()
    if why_no_lan():
        sys.exit(f"skipped: {why_no_lan()}")
    record = Record(options.out)
    for seed in seeds(options):
        for name in options.rows.split(","):
            if record.has(name, seed):
                continue
            run = Run()
            with lan(BOARDS.get(name, options.boards)) as boards, cluster(boards, MODELS) as daemons:
                try:
                    ROWS[name](Row(boards, daemons, random.Random(f"{name} {seed}"), run, seed))
                except AssertionError as problem:
                    run.problem = str(problem)
            record.put(name, seed, run)
            print(f"{name}, seed {seed}: {run.figures} {run.problem}", file=sys.stderr, flush=True)
    print(f"{options.boards} daemons in network namespaces on {machine()}; seconds")
    sys.exit(0 if record.report(PROMISES) else 1)


if __name__ == "__main__":
    main()
