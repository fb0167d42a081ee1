"""Requests over bad links: lost packets, little bandwidth, two boards that do not hear each other, two of five dead.

    python -m tests.faults.links [--seeds 30] [--rows loss1,loss5,...] [--out FILE]

Needs root. Real daemons in network namespaces on one machine; packets are dropped at random as they enter the switch,
rates are token buckets (tc-tbf(8)) on both ends of every cable. Seconds unless the figure says otherwise; `failed` in
per cent of a run's requests, each with 10 s (30 s on slow links). The history of every run is checked.
"""

import signal
import statistics
import time
from functools import partial
from pathlib import Path

from tests.faults.history import Client, History
from tests.faults.record import Promise, p95
from tests.faults.requests import ASKED
from tests.faults.runs import Bench, Kind, repeat

LOSSES = {1: 0.1, 5: 1.0, 20: 10.0}  # per cent of packets: per cent of requests that may fail
ASKING_S = 6.0
PROMISES = {
    **{f"loss {share} %: failed": Promise(p95=failed) for share, failed in LOSSES.items()},
    **{f"loss {share} %: request": Promise() for share in LOSSES},
    **{f"{mbit} Mbit/s: {codec} request": Promise(worst=30.0) for mbit in (10, 1) for codec in ("f32", "tc53")},
    "cut: added": Promise(p95=2.0),
    "cut: request while the cut lasts": Promise(),
    "five: added": Promise(p95=2.0),
}


def loss(row: Bench, *, percent: int) -> None:
    """Clients of two boards ask for a while; a typed error counts as failed, a wrong answer fails the run."""
    row.gather(*row.all)
    row.boards.lose(percent / 100)
    clients = [Client(row.daemons.home(i) / "sock", i, row.image, row.history) for i in (ASKED, row.victims[0])]
    for client in clients:
        client.start()
    time.sleep(ASKING_S)
    for client in clients:
        client.stop()
    requests = row.history.requests
    row.note(f"loss {percent} %: requests", len(requests))
    row.note(f"loss {percent} %: failed", 100 * sum(r.report is None for r in requests) / len(requests))
    row.note(f"loss {percent} %: request", statistics.median(r.took_s for r in requests))
    row.note(f"loss {percent} %: request p95", p95(sorted(r.took_s for r in requests)))
    row.check(errors=True)


def rate(row: Bench, *, mbit: int) -> None:
    """The largest codes there are, and those that the model travels with by default."""
    row.gather(*row.all)
    row.boards.rate(mbit)
    for codec in ("f32", "tc53"):
        history = History()
        for _ in range(3):
            Client(row.daemons.home(ASKED) / "sock", ASKED, row.image, history, deadline_s=30.0, codec=codec).ask()
        errors = [request.error for request in history.requests if request.error]
        assert not errors, f"{codec}: {errors[0]}"
        row.note(f"{mbit} Mbit/s: {codec} request", statistics.median(r.took_s for r in history.requests))
        row.note(f"{mbit} Mbit/s: {codec} boards", min(len(r.report.boards) for r in history.requests if r.report))
        if codec == "f32":
            wrong = history.check(row.expected, degraded=False, errors=False)
            assert not wrong, wrong[0]


def cut(row: Bench) -> None:
    """Two boards do not hear each other any more, and everybody else hears both."""
    row.gather(*row.all)
    one, other = row.rng.choice([(ASKED, row.victims[0]), (row.victims[0], row.victims[1])])
    began = time.monotonic()

    def fault() -> None:
        nonlocal began
        began = time.monotonic()
        for here, there in ((one, other), (other, one)):
            _blackhole(row, here, there)

    row.during("cut", fault, after_s=6.0)
    later = [request.took_s for request in row.history.requests if request.began > began + 3.0]
    assert later, "no request began while the cut lasted"
    row.note("cut: request while the cut lasts", statistics.median(later))
    row.check()


def five(row: Bench) -> None:
    """Two of five boards die in one request."""
    row.gather(*row.all)

    def fault() -> None:
        for victim in row.victims:
            row.daemons.signal(victim, signal.SIGKILL)

    row.during("five", fault)
    row.check()


def _blackhole(row: Bench, here: int, there: int) -> None:
    """Every address of a board, IPv6 ones of the link as well."""
    found = row.boards[there].run("ip", "-o", "address", "show", "dev", "eth0", "scope", "global").stdout
    found += row.boards[there].run("ip", "-o", "address", "show", "dev", "eth0", "scope", "link").stdout
    for line in found.splitlines():
        address = line.split()[3].partition("/")[0]
        family, length = ("-6", 128) if ":" in address else ("-4", 32)
        row.boards[here].run("ip", family, "route", "add", "blackhole", f"{address}/{length}")


ROWS: dict[str, Kind] = {
    **{f"loss{percent}": Kind(do=partial(loss, percent=percent)) for percent in LOSSES},
    **{f"rate{mbit}": Kind(do=partial(rate, mbit=mbit)) for mbit in (10, 1)},
    "cut": Kind(do=cut),
    "five": Kind(do=five, boards=5),
}

if __name__ == "__main__":
    repeat(__doc__ or "", ROWS, PROMISES, Path("runs/faults-links.json"))
