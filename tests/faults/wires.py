"""Requests over wires that are late, that let frames overtake each other or come twice, or that pass one way only.

    python -m tests.faults.wires [--seeds 30] [--rows delay5,oneway,...] [--out FILE]

Needs root. Real daemons in network namespaces on one machine, joined by a switch of user space (`tests.helpers.wire`)
whose seed is the run's. Delays are one way, 50 % less or more, and keep the order. `measured/predicted` is what ten
requests took in the middle, shared by all boards, over what was predicted for them after ten others; `auto/single` is
a request that leaves the way to the planner over one that forbids the ring, medians of ten asked in turns.
Seconds unless the figure says otherwise. The history of every run is checked.
"""

import statistics
import time
from functools import partial
from itertools import pairwise
from pathlib import Path

from tests.faults.history import Client, History, Request
from tests.faults.record import Promise
from tests.faults.requests import ASKED
from tests.faults.runs import Bench, Kind, repeat
from tests.helpers.cluster import Belief

DELAYS_MS, FAR_MS = (5, 50), 200
ASKED_TIMES = 10
DEADLINE_S = 30.0
CUT_S, SETTLED_S = 30.0, 10.0
PROMISES = {
    **{f"delay {ms} ms: request": Promise() for ms in DELAYS_MS},
    **{f"delay {ms} ms: measured/predicted": Promise() for ms in DELAYS_MS},
    **{f"delay {ms} ms: auto/single": Promise() for ms in DELAYS_MS},
    f"far, {FAR_MS} ms: request": Promise(worst=DEADLINE_S),
    f"far, {FAR_MS} ms: boards": Promise(),
    "reordered: request": Promise(),
    "reordered: over a good wire": Promise(),
    "oneway: added": Promise(p95=2.0),
    "oneway: request while the cut lasts": Promise(),
    "oneway: changes of mind per board and minute": Promise(worst=2.0),
}


def ask(row: Bench, history: History, times: int, **choices: object) -> list[Request]:
    """One request after the other, all of them answered."""
    client = Client(row.daemons.home(ASKED) / "sock", ASKED, row.image, history, deadline_s=DEADLINE_S, **choices)
    before = len(history.requests)
    for _ in range(times):
        client.ask()
    asked = history.requests[before:]
    errors = [request.error for request in asked if request.error]
    assert not errors, errors[0]
    return asked


def median_s(requests: list[Request]) -> float:
    return statistics.median(request.took_s for request in requests)


def delay(row: Bench, *, ms: int) -> None:
    """Every frame is late from the start on."""
    row.wire.set(delay_s=ms / 1000, jitter=0.5)
    row.gather(*row.all)
    time.sleep(SETTLED_S)  # for a second look at the links
    ask(row, row.history, ASKED_TIMES)
    shared = ask(row, row.history, ASKED_TIMES)
    reports = [request.report for request in shared if request.report]
    row.note(f"delay {ms} ms: request", median_s(shared))
    ratios = [r.latency_ms / r.predicted_ms for r in reports if r.predicted_ms]
    row.note(f"delay {ms} ms: measured/predicted", statistics.median(ratios))
    free, alone = [], []
    for _ in range(ASKED_TIMES):
        free += ask(row, History(), 1, mode="auto", codec="tc53")
        alone += ask(row, row.history, 1, mode="single")
    row.note(f"delay {ms} ms: auto/single", median_s(free) / median_s(alone))
    row.check()


def far(row: Bench) -> None:
    """Every frame is so late that boards take each other for dead by turns."""
    row.gather(*row.all)
    row.wire.set(delay_s=FAR_MS / 1000, jitter=0.5)
    time.sleep(SETTLED_S)
    asked = ask(row, row.history, ASKED_TIMES)
    row.note(f"far, {FAR_MS} ms: request", median_s(asked))
    row.note(f"far, {FAR_MS} ms: boards", statistics.median(len(r.report.boards) for r in asked if r.report))
    row.check()


def reordered(row: Bench) -> None:
    """Every tenth frame is overtaken, every twentieth comes twice."""
    row.gather(*row.all)
    row.note("reordered: over a good wire", median_s(ask(row, row.history, ASKED_TIMES)))
    row.wire.set(reordered=0.1, doubled=0.05)
    row.note("reordered: request", median_s(ask(row, row.history, 2 * ASKED_TIMES)))
    row.check()


def oneway(row: Bench) -> None:
    """One board does not hear one other any more, which hears it; everybody else hears both."""
    row.gather(*row.all)
    source, target = row.rng.choice([(ASKED, row.victims[0]), (row.victims[0], ASKED), tuple(row.victims)])
    began = time.monotonic()
    row.during("oneway", lambda: row.wire.set(cut=[(source, target)]), after_s=CUT_S)
    later = [request.took_s for request in row.history.requests if request.began > began + SETTLED_S]
    row.note("oneway: request while the cut lasts", statistics.median(later))
    changes = [
        sum(changed(told, began + SETTLED_S, began + CUT_S) for told in by_peer(row.daemons.beliefs(index)).values())
        for index in row.all
    ]
    row.note("oneway: changes of mind per board and minute", max(changes) * 60 / (CUT_S - SETTLED_S))
    row.check()


def by_peer(beliefs: list[Belief]) -> dict[str, list[Belief]]:
    told: dict[str, list[Belief]] = {}
    for belief in beliefs:
        told.setdefault(belief.about, []).append(belief)
    return told


def changed(beliefs: list[Belief], since: float, until: float) -> int:
    """How often a board took another one into its ring, or out of it, in that time."""
    members = [(belief.at, belief.status == "alive") for belief in beliefs]
    return sum(before != after and since <= at <= until for (_, before), (at, after) in pairwise(members))


ROWS: dict[str, Kind] = {
    **{f"delay{ms}": Kind(do=partial(delay, ms=ms), wired=True) for ms in DELAYS_MS},
    "far": Kind(do=far, wired=True),
    "reordered": Kind(do=reordered, wired=True),
    "oneway": Kind(do=oneway, wired=True),
}

if __name__ == "__main__":
    repeat(__doc__ or "", ROWS, PROMISES, Path("runs/faults-wires.json"))
