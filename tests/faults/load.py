"""Many clients at once, a board that reads nothing, a board without memory: what the others take, and what is lost.

    python -m tests.faults.load [--seeds 30] [--rows many,one,slow,memory] [--out FILE]

Needs root, the row `memory` also control groups of version 1. Real daemons in network namespaces on one machine.
`many`: 200 clients, 50 at each of four boards, all at the same moment; each asks again when it is told to, as peerctl
does. `one`: the same, all at one board. Memory is what the kernel counts as resident of a daemon and its children,
sampled every 50 ms, the largest growth of any daemon; MiB. All else in seconds. The history of every run is checked.
"""

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from peer.control_client import ControlClient
from peer.errors import Busy, PeerError
from peer.reports import InferQuery
from tests.faults.history import SHARED, Client, Request
from tests.faults.record import Promise, p95
from tests.faults.requests import ASKED
from tests.faults.runs import Bench, Kind, repeat
from tests.helpers.limits import Group, memory_bytes, memory_limit, why_no_limits

CLIENTS = 200
PATIENT_S = 120.0  # all clients of `many` together keep a slow machine busy for a while
FROZEN_S = 6.0
AFTER_S = 6.0  # a board gives memory back once it has been idle for some seconds
RESTART_S = 2.0  # what the unit file says
_MIB = 1 << 20
_NO_LIMIT = 1 << 40
PROMISES = {
    f"{row}: {figure}": promise
    for row in ("many", "one")
    for figure, promise in (
        ("answer p50", Promise()),
        ("answer p95", Promise()),
        ("without an answer", Promise(worst=0)),
        ("told to come again", Promise()),
        ("growth at the worst moment, MiB", Promise()),
        ("growth after it, MiB", Promise()),
    )
} | {
    "slow: growth of the senders, MiB": Promise(worst=16.0),
    "memory: times the board was killed": Promise(),
    "memory: others failed": Promise(worst=0),
    "memory: others' request": Promise(),
}


class Footprints:
    """Memory of daemons over a while."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        self.start = [memory_bytes(pid) for pid in pids]
        self._peak = list(self.start)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.05):
                self._peak = [max(pair) for pair in zip(self._peak, map(memory_bytes, self._pids), strict=True)]

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def grown_mib(self) -> float:
        """The most that any of them held more than at the start."""
        return max(peak - start for peak, start in zip(self._peak, self.start, strict=True)) / _MIB

    def kept_mib(self) -> float:
        """The most that any of them holds more now than at the start."""
        return max(memory_bytes(p) - start for p, start in zip(self._pids, self.start, strict=True)) / _MIB


class Patient(threading.Thread):
    """One client with one request, who comes again when told to, as peerctl does."""

    def __init__(self, row: Bench, board: int, at_once: threading.Barrier) -> None:
        super().__init__(daemon=True)
        self._row, self._board, self._at_once = row, board, at_once
        self.refusals = 0

    def run(self) -> None:
        self._at_once.wait()
        request = Request(board=self._board, began=time.monotonic(), deadline_s=PATIENT_S)
        until = request.began + PATIENT_S
        while request.report is None and not request.error:
            left_s = until - time.monotonic()
            query = InferQuery(
                inputs=("picture",), mode="sequence", codec="f32", logits=True, deadline_s=max(0.01, left_s)
            )
            try:
                with ControlClient(self._row.daemons.home(self._board) / "sock", timeout_s=PATIENT_S) as client:
                    request.report = client.infer(query, [self._row.image])[0]
            except Busy as busy:
                self.refusals += 1
                if "retry" in os.environ.get("NAIVE", ""):
                    request.error = f"{busy.kind}: {busy}"
                    break
                time.sleep(busy.retry_after_s * random.uniform(0.5, 1.5))
            except PeerError as problem:
                request.error = f"{problem.kind}: {problem}"
        request.ended = time.monotonic()
        self._row.history.add(request)


def many(row: Bench, *, asked: int) -> None:
    """All clients at the same moment, spread over the first boards."""
    name = "many" if asked > 1 else "one"
    row.gather(*row.all)
    for index in row.all:  # each has been asked before: what it then keeps is not growth
        row.daemons.infer(index, row.image, **SHARED)
    footprints = Footprints([row.daemons.processes[index].pid for index in row.all])
    at_once = threading.Barrier(CLIENTS)
    clients = [Patient(row, index % asked, at_once) for index in range(CLIENTS)]
    with footprints.watched():
        for client in clients:
            client.start()
        for client in clients:
            client.join(2 * PATIENT_S)
    time.sleep(AFTER_S)
    took = sorted(request.took_s for request in row.history.requests)
    row.note(f"{name}: answer p50", took[len(took) // 2])
    row.note(f"{name}: answer p95", p95(took))
    row.note(f"{name}: without an answer", CLIENTS - sum(r.report is not None for r in row.history.requests))
    row.note(f"{name}: told to come again", sum(client.refusals for client in clients))
    row.note(f"{name}: growth at the worst moment, MiB", footprints.grown_mib())
    row.note(f"{name}: growth after it, MiB", footprints.kept_mib())
    row.check()


def slow(row: Bench) -> None:
    """A board is stopped, so that it reads nothing; the others go on to send, large batches from two boards."""
    row.gather(*row.all)
    asked = (ASKED, row.victims[1])
    clients = [Crowd(row, board) for board in asked]
    for client in clients:
        client.start()
    time.sleep(3.0)
    footprints = Footprints([p.pid for i, p in row.daemons.processes.items() if i != row.victims[0]])
    with footprints.watched():
        row.daemons.signal(row.victims[0], signal.SIGSTOP)
        time.sleep(FROZEN_S)
        row.daemons.signal(row.victims[0], signal.SIGCONT)
        time.sleep(1.0)
    for client in clients:
        client.stop()
    row.note("slow: growth of the senders, MiB", footprints.grown_mib())
    row.note("slow: batches sent", sum(client.batches for client in clients))
    errors = [error for client in clients for error in client.errors]
    assert not errors, errors[0]


class Crowd(threading.Thread):
    """Batches of eight with the largest codes, one after the other, until `stop`."""

    def __init__(self, row: Bench, board: int) -> None:
        super().__init__(daemon=True)
        self._row, self._board, self._over = row, board, threading.Event()
        self.batches = 0
        self.errors: list[str] = []

    def run(self) -> None:
        query = InferQuery(inputs=("picture",) * 8, mode="sequence", codec="f32", deadline_s=20.0)
        while not self._over.is_set():
            try:
                with ControlClient(self._row.daemons.home(self._board) / "sock", timeout_s=30) as client:
                    client.infer(query, [self._row.image] * 8)
                self.batches += 1
            except PeerError as problem:
                self.errors.append(f"{problem.kind}: {problem}")

    def stop(self) -> None:
        self._over.set()
        self.join(60)


def memory(row: Bench) -> None:
    """A board may hold a tenth less than it needs; the kernel kills it, the harness restarts it, as systemd would."""
    victim = row.victims[0]
    others = [index for index in row.all if index != victim]
    with memory_limit(_NO_LIMIT) as group:
        row.daemons.start(victim)
        group.add(row.daemons.processes[victim].pid)
        row.gather(*others, victim)
        need = group.held_bytes()
        row.daemons.end(victim, signal.SIGKILL)
    row.daemons.wait(lambda: row.daemons.one_ring(*others), "a ring of the others", 30.0)
    with memory_limit(int(0.9 * need)) as group:
        clients = [Client(row.daemons.home(i) / "sock", i, row.image, row.history, pause_s=0.1) for i in others]
        for client in clients:
            client.start()
        _keep_up(row, victim, group, 20.0)
        for client in clients:
            client.stop()
        killed = group.oom_kills()
    requests = row.history.requests
    row.note("memory: times the board was killed", killed)
    row.note("memory: others failed", sum(request.report is None for request in requests))
    row.note("memory: others' request", sorted(r.took_s for r in requests)[len(requests) // 2])
    assert killed, f"a limit of {0.9 * need / _MIB:.0f} MiB did not hurt"
    row.check()


def _keep_up(row: Bench, victim: int, group: Group, for_s: float) -> None:
    """Start the board in its group again and again, for a while."""
    until = time.monotonic() + for_s
    while time.monotonic() < until:
        row.daemons.start(victim)
        process = row.daemons.processes[victim]
        group.add(process.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.1, until - time.monotonic()))
            time.sleep(RESTART_S)
    if process.poll() is None:
        row.daemons.end(victim, signal.SIGKILL)


ROWS = {
    "many": Kind(do=partial(many, asked=4)),
    "one": Kind(do=partial(many, asked=1)),
    "slow": Kind(do=slow),
    "memory": Kind(do=memory, needs=why_no_limits),
}

if __name__ == "__main__":
    repeat(__doc__ or "", ROWS, PROMISES, Path("runs/faults-load.json"))
