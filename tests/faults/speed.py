"""A board that is starved, or only throttled: how soon its share shrinks, and what that is worth.

    python -m tests.faults.speed [--seeds 30] [--rows starved,throttled] [--out FILE]

Needs root and control groups of version 1. Four real daemons in network namespaces on one machine, with one thread
each; one of them gets a tenth or a fifth of a core while requests come one after the other. Then the same requests
with shares as the daemon chooses them and with even shares, in turn. Seconds, and numbers of requests. The model is a
ViT-Tiny of 257 tokens with random weights: with the one that ships, a share is a small part of a board's work.
"""

import statistics
from functools import partial
from pathlib import Path

from peer.reports import InferReport
from tests.faults.history import Client, Request
from tests.faults.record import Promise
from tests.faults.requests import ASKED
from tests.faults.runs import Bench, Kind, repeat
from tests.helpers.limits import cpu_limit, why_no_limits
from tools.export.random_vit import random_tensors
from tools.export.vit import export_model
from tools.export.weights import VitShape

QUOTAS = {"starved": 0.1, "throttled": 0.2}  # of one core; four boards that share two cores have half of one each
AT_MOST = 60  # requests until the share must have shrunk
PAIRS = 10
SHRUNK = 0.75  # of an even share
PROMISES = {
    f"{row}: {figure}": promise
    for row in QUOTAS
    for figure, promise in (
        ("requests until its share shrinks", Promise()),
        ("its share in the end, of an even one", Promise(worst=SHRUNK)),
        ("request, shares by speed", Promise()),
        ("request, even shares", Promise()),
        ("by speed / even", Promise(worst=1.0)),
    )
}


SHAPE = VitShape(image=64, patch=4, width=192, heads=3, blocks=12, mlp=768, classes=10)


def _models(folder: Path) -> None:
    labels = [f"class-{i}" for i in range(SHAPE.classes)]
    export_model(random_tensors(SHAPE, seed=1), SHAPE, name="random", labels=labels, out=folder / "random")


def slowed(row: Bench, *, name: str) -> None:
    row.gather(*row.all)
    victim = f"board-{row.victims[0]}"
    with cpu_limit(QUOTAS[name]) as group:
        group.add(row.daemons.processes[row.victims[0]].pid)
        shares = [_share(row, victim, _ask(row)) for _ in range(AT_MOST)]
        took: dict[str, list[float]] = {"shares by speed": [], "even shares": []}
        for _ in range(PAIRS):
            took["shares by speed"].append(_ask(row).took_s)
            # As many shares as boards: where one is gone for the moment, the request is refused and not counted.
            even = _ask(row, shares=(1.0,) * len(row.all))
            if even.report is not None:
                took["even shares"].append(even.took_s)
        last = [_share(row, victim, _ask(row)) for _ in range(5)]
    shrunk = [n for n, share in enumerate(shares, start=1) if share < SHRUNK]
    row.note(f"{name}: requests until its share shrinks", shrunk[0] if shrunk else AT_MOST)
    row.note(f"{name}: its share in the end, of an even one", statistics.median(last))
    for what, seconds in took.items():
        row.note(f"{name}: request, {what}", statistics.median(seconds))
    row.note(
        f"{name}: by speed / even", statistics.median(took["shares by speed"]) / statistics.median(took["even shares"])
    )
    reasons = {r.report.explain.reason for r in row.history.requests if r.report and r.report.explain}
    print("; ".join(sorted(reasons)))
    row.check(errors=True)


def _ask(row: Bench, **choices: object) -> Request:
    Client(row.daemons.home(ASKED) / "sock", ASKED, row.image, row.history, deadline_s=30.0, **choices).ask()
    return row.history.requests[-1]


def _share(row: Bench, victim: str, request: Request) -> float:
    """The board's tokens as a share of an even part; 0 where it was left out."""
    assert request.report is not None, request.error
    report: InferReport = request.report
    tokens = {board.name: board.tokens[1] - board.tokens[0] for board in report.boards}
    return tokens.get(victim, 0) * len(row.all) / sum(tokens.values())


ROWS = {name: Kind(do=partial(slowed, name=name), models=_models, needs=why_no_limits) for name in QUOTAS}

if __name__ == "__main__":
    repeat(__doc__ or "", ROWS, PROMISES, Path("runs/faults-speed.json"))
