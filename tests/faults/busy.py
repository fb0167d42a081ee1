"""How often boards that are only busy are given up: clusters of real daemons on a machine whose cores all spin.

    python -m tests.faults.busy [--minutes 60] [--boards 4] [--losses 0,0.05] [--out FILE]

Needs root. One cluster per share of lost packets, all at the same time; the switch between the boards drops each
packet with that chance, on its way in. Beside them one process per core, at the daemons' own priority, does nothing
but count. Every board takes down each change of what it believes of another; nobody is ever killed or cut off, so
every "dead" is false. What was reached is kept in FILE after every minute, and added up when it is started again.
Ends with 1 when more were declared dead than promised: none without loss, one per ten board-hours with it.
"""

import argparse
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from tests.faults.record import ROOT, Record, Run, machine
from tests.helpers.cluster import Daemons, cluster
from tests.helpers.lan import lan, why_no_lan

MODELS = ROOT / "models_onnx"
SPIN = "while True: pass"
KEEP_EVERY_S = 60.0
_HOUR_S = 3600.0


def row(loss: float) -> str:
    return f"busy, {100 * loss:g} % lost"


def rest_s(record: Record, loss: float, minutes: float) -> float:
    """Seconds that are still to be measured."""
    return minutes * 60 - sum(run.figures["seconds"] for run in record.runs(row(loss)))


def measure(daemons: Daemons, boards: int, since: float) -> Run:
    """What was believed since the ring was complete."""
    changes = [line for index in range(boards) for line in daemons.beliefs(index) if line.at >= since]
    done = Run(figures={"seconds": time.monotonic() - since, "boards": float(boards)})
    for status in ("suspect", "dead", "alive"):
        done.figures[status] = sum(line.status == status for line in changes)
    done.problem = "; ".join(f"{line.at - since:.1f} s: {line}" for line in changes if line.status == "dead")
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--boards", type=int, default=4)
    parser.add_argument("--losses", default="0,0.05")
    parser.add_argument("--out", type=Path, default=Path("runs/faults-busy.json"))
    options = parser.parse_args()
    if why_no_lan():
        sys.exit(f"skipped: {why_no_lan()}")
    losses = [float(text) for text in options.losses.split(",")]
    record = Record(options.out)
    left_s = max(rest_s(record, loss, options.minutes) for loss in losses)
    if left_s > 0:
        observe(record, losses, options.boards, left_s)
    print(f"{options.boards} daemons in network namespaces on {machine()}, every core busy")
    kept = [report(record, loss) for loss in losses]
    sys.exit(0 if all(kept) else 1)


def observe(record: Record, losses: list[float], boards: int, duration_s: float) -> None:
    """Run all clusters beside the spinning processes, and keep what was seen."""
    part = {loss: len(record.runs(row(loss))) for loss in losses}
    with ExitStack() as stack:
        clusters: list[tuple[float, Daemons]] = []
        for loss in losses:
            made = stack.enter_context(lan(boards))
            made.lose(loss)
            clusters.append((loss, stack.enter_context(cluster(made, MODELS))))
        for loss, daemons in clusters:
            daemons.start(*range(boards))
            daemons.wait(lambda d=daemons: d.one_ring(*range(boards)), f"one ring, loss {loss:g}", 60.0)  # type: ignore[misc]
        for _ in range(os.cpu_count() or 1):
            stack.callback(subprocess.Popen([sys.executable, "-c", SPIN]).kill)
        since = time.monotonic()
        while time.monotonic() - since < duration_s:
            time.sleep(min(KEEP_EVERY_S, duration_s))
            for loss, daemons in clusters:
                seen = measure(daemons, boards, since)
                seen.figures["lost share"] = loss
                record.put(row(loss), part[loss], seen)
                print(f"{row(loss)}: {seen.figures} {seen.problem}", file=sys.stderr, flush=True)


def report(record: Record, loss: float) -> bool:
    """Print one row; whether its promise was kept."""
    runs = record.runs(row(loss))
    hours = sum(run.figures["seconds"] * run.figures["boards"] for run in runs) / _HOUR_S
    suspected, dead = (sum(run.figures[status] for run in runs) for status in ("suspect", "dead"))
    kept = dead <= (hours / 10 if loss else 0)
    print(
        f"{row(loss)}: {hours:.2f} board-hours, {suspected:.0f} times suspected, {dead:.0f} times dead "
        f"({dead / hours:.2f} per board-hour){'' if kept else '  MISSED'}"
    )
    for run in runs:
        if run.problem:
            print(f"  {run.problem}")
    return kept


if __name__ == "__main__":
    main()
