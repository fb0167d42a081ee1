"""How long Pyre, the usual discovery over ZeroMQ, takes to say that a peer is gone: the same namespaces and faults.

    python -m tests.faults.pyre --python VENV/bin/python [--seeds 10] [--boards 4] [--out FILE]

VENV holds the PyPI package `zeromq-pyre`. A time is from the fault until EVERY other node printed the event EXIT.
The faults stand beside each other, on LANs of their own. Nothing is promised here; ours is `tests.faults.joining`.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from tests.faults.record import ROOT, Promise, Record, Run, machine
from tests.helpers.lan import Board, lan, why_no_lan

FAULTS = ("crash", "stop", "cable")
LIMIT_S = 60.0


class Node:
    """One running node; a thread reads what it prints."""

    def __init__(self, board: Board, python: Path) -> None:
        self.process = board.popen(
            [python, "-P", ROOT / "tests/faults/pyre_node.py", board.name], stderr=subprocess.DEVNULL
        )
        self.here: set[str] = set()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            kind, name = line.split()
            (self.here.add if kind == "ENTER" else self.here.discard)(name)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


def until(reached: Callable[[], bool], what: str) -> float:
    """Wait for a state; the time at which it was there."""
    end = time.monotonic() + LIMIT_S
    while not reached():
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {LIMIT_S:g} s")
        time.sleep(0.02)
    return time.monotonic()


def run(fault: str, seed: int, boards: int, python: Path) -> Run:
    """One fault on a LAN of its own."""
    done, rng = Run(), random.Random(f"{fault} {seed}")
    victim = rng.randrange(boards)
    with ExitStack() as stack:
        made = stack.enter_context(lan(boards))
        nodes = []
        for board in made:
            nodes.append(Node(board, python))
            stack.callback(nodes[-1].close)
        try:
            until(lambda: all(len(node.here) == boards - 1 for node in nodes), "everybody sees everybody")
            time.sleep(2.0 + rng.random())
            since, name = time.monotonic(), made[victim].name
            if fault == "cable":
                made.cable(victim, plugged=False)
            else:
                os.kill(nodes[victim].process.pid, signal.SIGKILL if fault == "crash" else signal.SIGSTOP)
            others = [node for index, node in enumerate(nodes) if index != victim]
            gone_at = until(lambda: all(name not in node.here for node in others), "the peer is gone to everybody")
            done.figures[f"pyre, {fault}: gone to all"] = gone_at - since
        except AssertionError as problem:
            done.problem = str(problem)
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, default=Path(sys.executable))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--boards", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("runs/faults-pyre.json"))
    options = parser.parse_args()
    if why_no_lan():
        sys.exit(f"skipped: {why_no_lan()}")
    python = options.python.absolute()
    if subprocess.run([python, "-c", "import pyre"], check=False, capture_output=True).returncode:
        sys.exit(f"{python} has no pyre: {python} -m pip install zeromq-pyre")
    record = Record(options.out)
    with ThreadPoolExecutor(len(FAULTS)) as pool:
        for seed in range(options.seeds):
            wanted = [fault for fault in FAULTS if not record.has(fault, seed)]
            for fault, done in zip(
                wanted, pool.map(lambda f, s=seed: run(f, s, options.boards, python), wanted), strict=True
            ):
                record.put(fault, seed, done)
                print(f"{fault}, seed {seed}: {done.problem or done.figures}", file=sys.stderr, flush=True)
    print(f"{options.boards} nodes of pyre in network namespaces on {machine()}; seconds")
    sys.exit(0 if record.report({f"pyre, {fault}: gone to all": Promise() for fault in FAULTS}) else 1)


if __name__ == "__main__":
    main()
