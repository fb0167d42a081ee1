"""Random faults, one after the other, while clients ask: five seconds of a fault, five seconds healed.

    python -m tests.faults.soak [--minutes 60] [--boards 5] [--seed 1] [--out FILE]

Needs root. The seed draws the faults and their victims; the same seed gives the same story, up to what the machine does
meanwhile. Clients of all boards ask all the time, as far as their board runs. After every cycle the history so far is
checked: answers right, deadlines kept; the healed boards must be one ring again. Memory and open descriptors of boards
that were never restarted are sampled after every cycle, and their slopes reported. FILE gets a line per cycle, so that
a session that is cut loses nothing. Ends with 1, and with the seed and the story, when an invariant does not hold.
"""

import argparse
import json
import os
import random
import signal
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.faults.history import SHARED, Client, History, Request
from tests.faults.record import p95
from tests.faults.requests import MODELS, PHOTO
from tests.helpers.cluster import Daemons, cluster
from tests.helpers.lan import Lan, lan, why_no_lan
from tests.helpers.limits import descriptors, family, memory_bytes

FAULT_S = 5.0
HEALED_S = 5.0
DEADLINE_S = 20.0
RING_S = 60.0
STEADY = (0, 1)  # boards that no fault restarts: their memory tells of leaks
SLOW_S = 5.0  # requests that took longer are told about one by one
MAY_FAIL = 0.02  # of the requests to boards that lived through the cycle, with packets lost in some of them
_MIB = 1 << 20


class Nemesis:
    """What goes wrong; every fault returns what heals it."""

    def __init__(self, boards: Lan, daemons: Daemons, rng: random.Random) -> None:
        self._boards, self._daemons, self._rng = boards, daemons, rng
        self._all = tuple(range(len(boards)))
        self.faults = (self.kill, self.freeze, self.cable, self.split, self.leave, self.loss)

    def _victim(self) -> int:
        return self._rng.choice([index for index in self._all if index not in STEADY])

    def kill(self) -> tuple[str, Callable[[], None]]:
        victim = self._victim()
        self._daemons.end(victim, signal.SIGKILL)
        return f"kill {victim}", lambda: self._daemons.start(victim)

    def leave(self) -> tuple[str, Callable[[], None]]:
        victim = self._victim()
        self._daemons.end(victim, signal.SIGTERM)
        return f"leave {victim}", lambda: self._daemons.start(victim)

    def freeze(self) -> tuple[str, Callable[[], None]]:
        victim = self._rng.choice(self._all)
        self._daemons.signal(victim, signal.SIGSTOP)
        return f"freeze {victim}", lambda: self._daemons.signal(victim, signal.SIGCONT)

    def cable(self) -> tuple[str, Callable[[], None]]:
        victim = self._rng.choice(self._all)
        self._boards.cable(victim, plugged=False)
        return f"cable {victim}", lambda: self._boards.cable(victim, plugged=True)

    def split(self) -> tuple[str, Callable[[], None]]:
        side = sorted(self._rng.sample(self._all, self._rng.randrange(1, len(self._all))))
        self._boards.split(side, [index for index in self._all if index not in side])
        return f"split {side}", self._boards.heal

    def loss(self) -> tuple[str, Callable[[], None]]:
        share = self._rng.choice((0.01, 0.05, 0.2))
        self._boards.lose(share)
        return f"loss {share:.0%}", lambda: self._boards.lose(0)


class Soak:
    """One run on one cluster."""

    def __init__(self, boards: Lan, daemons: Daemons, seed: int, out: Path) -> None:
        self._daemons, self._out = daemons, out
        self._all = tuple(range(len(boards)))
        self._rng = random.Random(seed)
        self._nemesis = Nemesis(boards, daemons, self._rng)
        self._expected: tuple[float, ...] = ()
        self._took: list[float] = []
        self._failed: list[str] = []
        self._samples: list[tuple[float, dict[int, tuple[int, int]]]] = []
        self.story: list[str] = []

    def run(self, minutes: float) -> None:
        """Cycles until the time is over; AssertionError when an invariant does not hold."""
        image = PHOTO.read_bytes()
        self._daemons.start(*self._all)
        self._daemons.wait(lambda: self._daemons.one_ring(*self._all), "one ring to start with", RING_S)
        self._expected = tuple(self._daemons.infer(0, image, mode="single", logits=True).logits or ())
        for index in self._all:
            self._daemons.infer(index, image, **SHARED)
        until = time.monotonic() + 60 * minutes
        while time.monotonic() < until:
            self._cycle(image)

    def _cycle(self, image: bytes) -> None:
        fault = self._rng.choice(self._nemesis.faults)
        asked = self._rng.sample(self._all, 2)
        history = History()
        clients = [
            Client(self._daemons.home(i) / "sock", i, image, history, deadline_s=DEADLINE_S, pause_s=0.05)
            for i in asked
        ]
        for client in clients:
            client.start()
        time.sleep(0.5)
        name, heal = fault()
        self.story.append(f"{name} (asked {asked})")
        time.sleep(FAULT_S)
        heal()
        time.sleep(HEALED_S)
        for client in clients:
            client.stop()
        healed_s = self._daemons.wait(lambda: self._daemons.one_ring(*self._all), f"one ring after {name}", RING_S)
        self._look_at(history, name)
        now = {i: (memory_bytes(p.pid), descriptors(p.pid)) for i, p in self._daemons.processes.items()}
        self._samples.append((time.monotonic(), now))
        line = {
            "cycle": len(self.story),
            "fault": self.story[-1],
            "requests": len(history.requests),
            "failed": sum(request.report is None for request in history.requests),
            "slowest_s": round(max(request.took_s for request in history.requests), 3),
            "slow": [_told(request) for request in history.requests if request.took_s > SLOW_S],
            "ring_after_s": round(healed_s, 2),
            "memory_mib": {i: round(m / _MIB, 1) for i, (m, _) in now.items()},
            "anonymous_mib": {
                i: [round(memory_bytes(pid, "RssAnon", alone=True) / _MIB, 1) for pid in family(p.pid)]
                for i, p in self._daemons.processes.items()
            },
            "descriptors": {i: d for i, (_, d) in now.items()},
        }
        with self._out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(line, file=sys.stderr, flush=True)

    def _look_at(self, history: History, fault: str) -> None:
        wrong = history.check(self._expected, degraded=False, errors=True)
        assert not wrong, "; ".join(wrong[:3])
        assert all(process.poll() is None for process in self._daemons.processes.values()), "a daemon ended by itself"
        self._took += [request.took_s for request in history.requests]
        # A board that is killed, or leaves, cannot answer its own clients; how often all others failed is counted.
        gone = {int(fault.split()[1])} if fault.startswith(("kill", "leave")) else set()
        self._failed += [f"{fault}: {r.error}" for r in history.requests if r.report is None and r.board not in gone]
        assert len(self._failed) <= max(3, MAY_FAIL * len(self._took)), f"too many failed: {self._failed[-3:]}"

    def report(self) -> None:
        """What was measured."""
        took = sorted(self._took)
        if not took:
            return
        print(f"{len(self.story)} faults, {len(took)} requests, {len(self._failed)} failed (no wrong or late answer)")
        print(f"a request took {statistics.median(took):.3f} s (p50), {p95(took):.3f} (p95), {took[-1]:.3f} (worst)")
        for index in STEADY:
            memory = [(at, float(now[index][0]) / _MIB) for at, now in self._samples]
            files = [(at, float(now[index][1])) for at, now in self._samples]
            print(
                f"board-{index}: {memory[0][1]:.1f} MiB after the first cycle, {memory[-1][1]:.1f} after the last, "
                f"slope of the second half {_per_hour(memory[len(memory) // 2 :]):+.2f} MiB/h; "
                f"descriptors {files[0][1]:.0f}, {files[-1][1]:.0f}, {_per_hour(files[len(files) // 2 :]):+.2f} per h"
            )
        print("\n".join(self._failed[:20]))


def _told(request: Request) -> str:
    """One request in a line: who was asked, how long it took, and how it ended."""
    how = request.error
    if (report := request.report) is not None:
        how = f"attempt {report.attempts}, {report.mode}, lost {report.lost}, {report.timing}"
    return f"board {request.board}, {request.took_s:.2f} s: {how}"


def _per_hour(samples: Sequence[tuple[float, float]]) -> float:
    """Least-squares slope, per hour; 0 where there is too little to say."""
    if len(samples) < 3:
        return 0.0
    slope, _ = statistics.linear_regression([at for at, _ in samples], [value for _, value in samples])
    return 3600 * slope


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--boards", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/faults-soak.jsonl"))
    options = parser.parse_args()
    if why_no_lan():
        sys.exit(f"skipped: {why_no_lan()}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with lan(options.boards) as boards, cluster(boards, MODELS) as daemons:
        soak = Soak(boards, daemons, options.seed, options.out)
        problem = ""
        try:
            soak.run(options.minutes)
        except AssertionError as found:
            problem = str(found)
        soak.report()
    print(f"load average of the machine {os.getloadavg()[0]:.1f}")
    if problem:
        print(f"seed {options.seed}: {problem}\nstory: {', '.join(soak.story)}")
    sys.exit(1 if problem else 0)


if __name__ == "__main__":
    main()
