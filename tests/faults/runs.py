"""The command line of a module of rows: every row on a fresh cluster, seed after seed, kept in a file, reported."""

import argparse
import contextlib
import os
import random
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.faults.record import Promise, Record, Run, add_seeds, machine, seeds
from tests.faults.requests import MODELS, Row
from tests.helpers.cluster import cluster
from tests.helpers.lan import lan, why_no_lan
from tests.helpers.wire import Wire, wired_lan


class Bench(Row):
    """A row that notes figures of its own, and may make the wire bad where its kind says `wired`."""

    wire: Wire

    def note(self, figure: str, value: float) -> None:
        self._run.figures[figure] = value


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What a row does, and what it needs."""

    do: Callable[[Bench], None]
    boards: int = 4
    wired: bool = False  # joined by a switch of user space, instead of cables to a bridge
    models: Callable[[Path], object] | None = None  # fills a folder with the models of the row; None: those that ship
    needs: Callable[[], str] = why_no_lan  # empty, or why it cannot run here


def repeat(doc: str, rows: Mapping[str, Kind], promises: dict[str, Promise], out: Path) -> None:
    """Run what the command line asks for; ends the process, with 1 when a run failed or a promise was missed."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_seeds(parser)
    parser.add_argument("--rows", default=",".join(rows))
    parser.add_argument("--out", type=Path, default=out)
    options = parser.parse_args()
    record = Record(options.out)
    skipped = {name: why for name in options.rows.split(",") if (why := why_no_lan() or rows[name].needs())}
    with tempfile.TemporaryDirectory(prefix="tr-models-") as folder:
        for seed in seeds(options):
            for name in options.rows.split(","):
                if name in skipped or record.has(name, seed):
                    continue
                run = _run(rows[name], random.Random(f"{name} {seed}"), Path(folder) / name)
                record.put(name, seed, run)
                print(f"{name}, seed {seed}: {run.figures} {run.problem}", file=sys.stderr, flush=True)
    print(f"daemons in network namespaces on {machine()}")
    kept = record.report({**promises, "load average of the machine": Promise()})
    for name, why in skipped.items():
        print(f"skipped {name}: {why}")
    sys.exit(0 if kept else 1)


def _run(kind: Kind, rng: random.Random, folder: Path) -> Run:
    """One run on a fresh cluster; `folder` is where the row's own models are made the first time."""
    models = MODELS
    if kind.models is not None:
        models = folder
        if not folder.exists():
            kind.models(folder)
    run = Run()
    with contextlib.ExitStack() as stack:
        wire = None
        if kind.wired:
            boards, wire = stack.enter_context(wired_lan(kind.boards, seed=rng.getrandbits(32)))
        else:
            boards = stack.enter_context(lan(kind.boards))
        daemons = stack.enter_context(cluster(boards, models))
        row = Bench(boards, daemons, rng, run)
        if wire is not None:
            row.wire = wire
        try:
            kind.do(row)
        except AssertionError as problem:
            run.problem = str(problem)
    run.figures["load average of the machine"] = os.getloadavg()[0]
    return run
