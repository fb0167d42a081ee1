"""How right the planner is: every way it weighs, predicted and measured; what it chose; what a stream of images does.

    python -m tools.bench.planner                                        four boards on this machine, the shipped model
    python -m tools.testbed up --boards 4 --slower 8 --mbit 100 --models runs/models --model NAME -- \\
        python -m tools.bench.planner --codecs tc53,int8                  the boards that TOKENRING_SOCKET leads to

Ways are measured in turns, so that all of them meet the same weather. `first` is the plan's prediction before any
request ran that way, `learnt` the one that came with the last request; errors are measured over predicted, less one.
Regret is what the planner's choice took longer than the best way measured. The stream is `peerctl infer FOLDER`'s own
code, against one board that gets one image after the other.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from peer.cli_asking import Asking
from peer.cli_bench import generated_image
from peer.control_client import ControlClient
from peer.local_ring import LocalBoards, local_ring
from peer.reports import InferQuery, PlanQuery, PlanReport
from peer.stream import Window, in_order

_TIMEOUT_S = 600.0
_LOOK_S = 1.0
_WITHIN = 0.15  # what a prediction may be off


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to run a request, as it is asked for."""

    boards: int
    codec: str | None  # None: one board alone

    def query(self, model: str) -> InferQuery:
        if self.codec is None:
            return InferQuery(inputs=("bench",), model=model, mode="single", deadline_s=_TIMEOUT_S)
        return InferQuery(
            inputs=("bench",), model=model, mode="sequence", boards=self.boards, codec=self.codec, deadline_s=_TIMEOUT_S
        )


@dataclass(slots=True, kw_only=True)
class Row:
    """What a way was to take and what it took, milliseconds."""

    boards: int
    codec: str | None
    first_ms: float
    learnt_ms: float
    measured_ms: float
    first_error: float
    learnt_error: float


def measure(client: ControlClient, plan: PlanReport, codecs: Sequence[str], runs: int, image: bytes) -> list[Row]:
    """Every way of the plan, `runs` requests each, in turns."""
    first: dict[Way, float] = {Way(boards=1, codec=None): plan.settings[0].predicted_ms}
    for row in plan.settings:
        if row.mode == "sequence" and row.codec in codecs:
            first[Way(boards=row.boards, codec=row.codec)] = row.predicted_ms
    taken: dict[Way, list[float]] = {way: [] for way in first}
    told: dict[Way, list[float]] = {way: [] for way in first}
    for turn in range(runs + 1):
        for way in first:
            (report,) = client.infer(way.query(plan.model), [image])
            print(
                f"  turn {turn}: {way}: {report.latency_ms:.0f} of {report.predicted_ms or 0:.0f} ms", file=sys.stderr
            )
            if turn:  # the first of a way may load what it needs
                taken[way].append(report.latency_ms)
                told[way].append(report.predicted_ms or 0.0)
    rows = []
    for way, predicted_ms in first.items():
        measured_ms, learnt_ms = statistics.median(taken[way]), told[way][-1]
        rows.append(
            Row(
                boards=way.boards,
                codec=way.codec,
                first_ms=predicted_ms,
                learnt_ms=learnt_ms,
                measured_ms=measured_ms,
                first_error=measured_ms / predicted_ms - 1,
                learnt_error=measured_ms / learnt_ms - 1 if learnt_ms else float("inf"),
            )
        )
    return rows


def free_choice(client: ControlClient, model: str, runs: int, image: bytes) -> dict[str, object]:
    """What the planner does when nothing is fixed."""
    query = InferQuery(inputs=("bench",), model=model, deadline_s=_TIMEOUT_S)
    reports = [client.infer(query, [image])[0] for _ in range(runs)]
    return {
        "boards": len(reports[-1].boards),
        "mode": reports[-1].mode,
        "measured_ms": statistics.median(report.latency_ms for report in reports),
        "reason": reports[-1].explain.reason if reports[-1].explain else "",
    }


def stream(socket: Path, model: str, *, boards: int, images: int, image: bytes) -> dict[str, float]:
    """Images per second of a folder, and of one board that gets the same images one after the other."""

    @contextmanager
    def asking() -> Iterator[Callable[[InferQuery], str]]:
        with Asking((socket,), timeout_s=_TIMEOUT_S, say=lambda *line: print(*line, file=sys.stderr)) as one:
            yield lambda query: one.infer(query, [image])[0].boards[0].name

    def per_s(query: InferQuery, window: Window, count: int) -> float:
        started = time.monotonic()
        done = list(in_order([query] * count, asking, window))
        seconds = time.monotonic() - started
        print(
            f"  {count} images in {seconds:.1f} s: {[done.count(name) for name in sorted(set(done))]}", file=sys.stderr
        )
        return count / seconds

    free = InferQuery(inputs=("bench",), model=model, deadline_s=_TIMEOUT_S)
    alone = per_s(replace(free, mode="single"), Window(most=1, patience_s=_TIMEOUT_S), max(3, images // (2 * boards)))
    together = per_s(free, Window(most=2 * boards, patience_s=_TIMEOUT_S), images)
    return {"alone_per_s": alone, "folder_per_s": together, "speed_up": together / alone}


def settled(client: ControlClient, model: str | None, boards: int, limit_s: float) -> PlanReport:
    """A plan once all boards have measured themselves and their links, or the time is over."""
    until = time.monotonic() + limit_s
    while True:
        plan = client.plan(PlanQuery(model=model))
        known = [board for board in plan.boards if board.measured and board.link_mbit is not None]
        if len(known) >= boards or time.monotonic() >= until:
            print(f"  {len(known)} of {boards} boards are measured", file=sys.stderr)
            if not plan.settings:
                raise SystemExit("the asked board has not measured itself yet; give it longer with --settle")
            return plan
        time.sleep(_LOOK_S)


def bench(socket: Path, options: argparse.Namespace) -> dict[str, object]:
    image = options.image.read_bytes() if options.image else generated_image()
    with ControlClient(socket, timeout_s=_TIMEOUT_S) as client:
        boards = sum(member.status == "alive" for member in client.members())
        plan = settled(client, options.model, boards, options.settle)
        codecs = options.codecs.split(",") if options.codecs else [plan.default_codec]
        rows = measure(client, plan, codecs, options.runs, image)
        choice = free_choice(client, plan.model, options.runs, image)
    best_ms = min(row.measured_ms for row in rows)
    measured_ms = float(str(choice["measured_ms"]))
    within = sum(abs(row.learnt_error) <= _WITHIN for row in rows) / len(rows)
    first = sum(abs(row.first_error) <= _WITHIN for row in rows) / len(rows)
    found: dict[str, object] = {
        "model": plan.model,
        "boards": [asdict(board) for board in plan.boards],
        "rows": [asdict(row) for row in rows],
        "within_15_percent": {"first": first, "learnt": within},
        "choice": choice,
        "best_ms": best_ms,
        "regret": measured_ms / best_ms - 1,
    }
    if options.images:
        found["stream"] = stream(socket, plan.model, boards=boards, images=options.images, image=image)
    return found


def show(found: dict[str, object]) -> None:
    """The table, and the three sentences that matter."""
    rows = found["rows"]
    assert isinstance(rows, list)
    print("boards  codec          first    learnt  measured   error  learnt error")
    for row in rows:
        numbers = f"{row['first_ms']:8.1f}  {row['learnt_ms']:8.1f}  {row['measured_ms']:8.1f}"
        errors = f"{row['first_error']:+6.0%}  {row['learnt_error']:+6.0%}"
        print(f"{row['boards']:6}  {row['codec'] or '-':10}  {numbers}  {errors}")
    print(f"within 15 %: {found['within_15_percent']}")
    print(f"choice: {found['choice']}; best measured {found['best_ms']:.1f} ms, regret {found['regret']:+.1%}")
    if "stream" in found:
        print(f"stream: {found['stream']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="the daemon's default if left out")
    parser.add_argument("--codecs", help="names with commas  [the model's default]")
    parser.add_argument("-n", dest="runs", type=int, default=5, help="requests of each way")
    parser.add_argument("--images", type=int, default=0, help="images of the stream  [none]")
    parser.add_argument("--image", type=Path, help="picture to send  [a generated one]")
    parser.add_argument("--settle", type=float, default=90.0, help="seconds for boards to measure themselves")
    parser.add_argument("--boards", type=int, default=4, help="boards to start where TOKENRING_SOCKET names none")
    parser.add_argument("--out", type=Path, help="append the result to this file, one JSON line")
    options = parser.parse_args()
    named = os.environ.get("TOKENRING_SOCKET")
    if named:
        found = bench(Path(named), options)
    else:
        with local_ring(LocalBoards(count=options.boards, threads=1, model=options.model), timeout_s=90) as ring:
            found = bench(ring.sockets[0], options)
    if options.out:
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")
    show(found)


if __name__ == "__main__":
    main()
