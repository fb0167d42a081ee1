"""Many pictures at once: a folder on one board and on all of them, and more and more clients.

    python -m tools.testbed crowd [--model vit-base-197-int8] [--images 96] [--clients 1,2,4,8,16,64]

Four emulated boards at 100 Mbit/s. The folder is what a person types, `peerctl infer FOLDER`, with `--mode single`
(everything on the asked board) and without (the planner's choice); seconds from the start of the command to
its end. Of the clients each asks one question after the other, `--questions` all together and one each at least, the
boards alike. A line of JSON per figure in `--out`; `report` makes a table of it.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from peer.control_client import ControlClient
from peer.errors import PeerError
from peer.reports import InferQuery
from tools.testbed import records
from tools.testbed.boards import Bed, Boards, boards
from tools.testbed.learn import learn
from tools.testbed.measure import PICTURE
from tools.testbed.models import CODECS, make
from tools.testbed.settings import Setting
from tools.testbed.slow_core import be_urgent

_DEADLINE_S = 600.0
_SLOWER, _MBIT = (8.0,) * 4, 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """One figure: `kind` is "single" or "folder" (one command) or "clients"."""

    kind: str
    clients: int
    answers: int
    failed: int
    seconds: float
    median_ms: float
    p95_ms: float
    ways: tuple[str, ...]  # how requests were run, and how many that way
    model: str
    machine: str
    commit: str

    @property
    def per_s(self) -> float:
        return self.answers / self.seconds


def read(path: Path) -> Iterator[Crowd]:
    """The last line of each kind and number of clients."""
    if path.exists():
        found = {}
        for line in path.read_text(encoding="utf-8").splitlines():
            fields = json.loads(line)
            found[fields["kind"], fields["clients"]] = Crowd(**fields | {"ways": tuple(fields["ways"])})
        yield from found.values()


def table(rows: Sequence[Crowd]) -> Iterator[str]:
    """Lines of Markdown: answers a second, and times those of one board."""
    alone = next((row.per_s for row in rows if row.kind == "single"), None)
    yield "| asked | answers | failed | answers a second | times one board | median ms | p95 ms | ways |"
    yield "|" + "---|" * 8
    names = {"single": "a folder, one board", "folder": "a folder, all boards"}
    for row in rows:
        gain = "-" if alone is None else f"{row.per_s / alone:.2f}"
        times = ("-", "-") if row.kind != "clients" else (f"{row.median_ms:.0f}", f"{row.p95_ms:.0f}")
        cells = (names.get(row.kind, f"{row.clients} clients"), row.answers, row.failed, f"{row.per_s:.3f}", gain)
        yield "| " + " | ".join(map(str, (*cells, *times, ", ".join(row.ways)))) + " |"


def folder(bed: Boards, model: str, images: int, kind: str) -> Crowd:
    """`peerctl infer` on a folder of so many pictures."""
    with tempfile.TemporaryDirectory(prefix="pictures-") as name:
        for number in range(images):
            shutil.copy(PICTURE, Path(name) / f"{number:04}.jpg")
        command = [sys.executable, "-m", "peer.cli", "infer", name, "--model", model, "--json"]
        command += ["--deadline", str(_DEADLINE_S), *(["--mode", "single"] if kind == "single" else [])]
        began_at = time.perf_counter()
        where = {"TOKENRING_SOCKET": str(bed.socket())}
        done = subprocess.run(command, env={**os.environ, **where}, capture_output=True, text=True, check=False)
        took_s = time.perf_counter() - began_at
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    ways = Counter(_way(answer["mode"], [board["name"] for board in answer["boards"]]) for answer in answers)
    times = [answer["latency_ms"] for answer in answers]
    return _crowd(kind, model, times, ways, failed=images - len(answers), seconds=took_s)


def clients(bed: Boards, model: str, count: int, each: int) -> Crowd:
    """So many clients with `each` questions."""
    image, query = PICTURE.read_bytes(), InferQuery(inputs=("picture",), model=model, deadline_s=_DEADLINE_S)
    times: list[float] = []
    ways: Counter[str] = Counter()
    failed: list[str] = []

    def ask(number: int) -> None:
        with ControlClient(bed.socket(number % len(bed.bed.slower)), timeout_s=_DEADLINE_S) as client:
            for _ in range(each):
                asked_at = time.perf_counter()
                try:
                    report = client.infer(query, [image])[0]
                except PeerError as problem:
                    failed.append(str(problem))
                    continue
                times.append(1e3 * (time.perf_counter() - asked_at))
                ways[_way(report.mode, [board.name for board in report.boards])] += 1

    began_at = time.perf_counter()
    with ThreadPoolExecutor(count) as threads:
        list(threads.map(ask, range(count)))
    for problem in set(failed):
        print(f"{count} clients: {problem}", file=sys.stderr, flush=True)
    took_s = time.perf_counter() - began_at
    return _crowd("clients", model, times, ways, clients=count, failed=len(failed), seconds=took_s)


def _way(mode: str, names: Sequence[str]) -> str:
    return f"whole on {names[0]}" if mode == "single" else f"{mode} on {len(names)}"


def _crowd(
    kind: str, model: str, times: Sequence[float], ways: Counter[str], *, clients: int = 1, failed: int, seconds: float
) -> Crowd:
    ordered = sorted(times) or [0.0]
    return Crowd(
        kind=kind,
        clients=clients,
        answers=len(times),
        failed=failed,
        seconds=round(seconds, 3),
        median_ms=round(statistics.median(ordered), 1),
        p95_ms=round(ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))], 1),
        ways=tuple(f"{way}: {count}" for way, count in ways.most_common()),
        model=model,
        machine=records.machine(),
        commit=records.commit(),
    )


def _run(options: argparse.Namespace) -> int:
    make(options.model, options.models / "all", tuple(CODECS.split(",")))
    home = options.models / "crowd"
    home.mkdir(parents=True, exist_ok=True)
    if not (home / options.model).exists():
        (home / options.model).symlink_to((options.models / "all" / options.model).resolve())
    be_urgent()
    codec = "tc53"  # the model's default
    shared = tuple(Setting(model=options.model, boards=n, codec=codec) for n in (2, 3, 4))
    learn((Setting(model=options.model, boards=1), *shared), home, home / "steps.jsonl")
    slowed = {"TESTBED_LEARNED": str(home / "steps.jsonl")}
    with boards(Bed(slower=_SLOWER, models=home, default_model=options.model, environment=slowed)) as bed:
        bed.rate(_MBIT)
        clients(bed, options.model, len(_SLOWER), 2)  # warm
        figures = [(folder, options.images, "single"), (folder, options.images, "folder")]
        for each, number, kind in figures:
            _keep(options.out, each(bed, options.model, number, kind))
        for count in options.clients:
            _keep(options.out, clients(bed, options.model, count, max(1, options.questions // count)))
    return 0


def _keep(out: Path, figure: Crowd) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(figure)) + "\n")
    told = f"{figure.kind} {figure.clients}: {figure.per_s:.3f} a second, {figure.failed} failed, {figure.ways}"
    print(told, file=sys.stderr, flush=True)


def add_verb(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = verbs.add_parser("crowd", help="a folder on all boards, and many clients at once")
    parser.add_argument("--model", default="vit-base-197-int8")
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--clients", type=lambda text: [int(n) for n in text.split(",")], default=[1, 2, 4, 8, 16, 64])
    parser.add_argument("--questions", type=int, default=32, help="of all clients together, one each at least")
    parser.add_argument("--models", type=Path, default=Path("runs/models"))
    parser.add_argument("--out", type=Path, default=Path("runs/crowd.jsonl"))
    parser.set_defaults(run=_run)
