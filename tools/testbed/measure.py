"""Every setting of a plan on one set of emulated boards, in turns, so that a disturbance hits all of them."""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from peer.errors import PeerError
from peer.reports import InferQuery, InferReport
from tools.testbed import models, records
from tools.testbed.boards import Bed, Boards, boards
from tools.testbed.learn import learn
from tools.testbed.records import BoardTimes, Measured
from tools.testbed.settings import PLANS, Plan, Setting
from tools.testbed.slow_core import be_urgent

PICTURE = records.ROOT / "docs/photos/rocket.jpg"
SHIPPED = records.ROOT / "models_onnx"
_WARM = 2
_NOTICE_S = 90.0
_DEADLINE_S = 300.0
_LATE = 0.02  # of a request: more, and it does not count
_TRIES = 3  # times as many requests as are wanted, at most


@dataclass(slots=True, kw_only=True)
class Tally:
    """The requests of one setting so far."""

    setting: Setting
    times_ms: list[float] = field(default_factory=list)
    late_ms: list[float] = field(default_factory=list)
    reports: list[InferReport] = field(default_factory=list)
    dropped: int = 0

    @property
    def done(self) -> bool:
        asked = len(self.times_ms) + self.dropped
        return len(self.times_ms) >= self.setting.times or asked >= _TRIES * self.setting.times

    def take(self, report: InferReport, took_s: float, late_ms: float) -> None:
        if late_ms > _LATE * 1e3 * took_s or report.attempts > 1:
            self.dropped += 1
            return
        self.times_ms.append(round(1e3 * took_s, 2))
        self.late_ms.append(round(late_ms, 2))
        self.reports.append(report)


def query(setting: Setting, bed: Boards) -> InferQuery:
    """What a client asks for this setting."""
    if setting.boards == 0:
        return InferQuery(inputs=("picture",), model=setting.model, codec=setting.codec or None, deadline_s=_DEADLINE_S)
    shares: tuple[float, ...] = (1.0,) * setting.boards
    if setting.weights:
        by_name = {f"board-{index}": weight for index, weight in enumerate(setting.weights)}
        shares = tuple(by_name[name] for name in bed.order(setting.asked))
    return InferQuery(
        inputs=("picture",),
        model=setting.model,
        boards=setting.boards,
        shares=None if setting.boards == 1 else shares,
        codec=setting.codec or None,
        mode="single" if setting.boards == 1 else "sequence",
        deadline_s=_DEADLINE_S,
    )


def ask(bed: Boards, setting: Setting, image: bytes) -> tuple[InferReport, float, float]:
    """One request: its report, the seconds it took, and by how many milliseconds a board was late in it, at most."""
    before = bed.told.stat().st_size if bed.told.exists() else 0
    report, took_s = bed.ask(query(setting, bed), image, index=setting.asked)
    late_ms = 0.0
    if bed.told.exists():
        with bed.told.open(encoding="ascii") as file:
            file.seek(before)
            late_ms = max((json.loads(line)["most_late_ms"] for line in file), default=0.0)
    return report, took_s, late_ms


def measure(name: str, plan: Plan, folder: Path, out: Path) -> None:
    """Run what `out` does not hold yet of the plan; a line on stderr per setting."""
    held = {each.key for each in records.read(out) if each.plan == name}
    left = [setting for setting in plan.settings if setting.key not in held]
    if not left:
        return
    image = PICTURE.read_bytes()
    be_urgent()  # the client is on a board of its own, so to speak
    learned = folder / "steps.jsonl"
    learn(plan.settings, folder, learned)
    slowed = {"TESTBED_LEARNED": str(learned)}
    with boards(Bed(slower=plan.slower, models=folder, default_model=left[0].model, environment=slowed)) as bed:
        rates = tuple(dict.fromkeys(setting.mbit for setting in left))
        for rate in rates:
            bed.rate(rate)
            tallies = [Tally(setting=setting) for setting in left if setting.mbit == rate]
            rtt_ms = bed.rtt_ms()
            for _ in range(_WARM if rate == rates[0] else 1):
                for tally in tallies:
                    _try(bed, tally.setting, image)
            _notice(bed, rate, sorted({setting.asked for setting in left}))
            while waiting := [tally for tally in tallies if not tally.done]:
                for tally in waiting:
                    answer = _try(bed, tally.setting, image)
                    if answer is None:
                        tally.dropped += 1
                    else:
                        tally.take(*answer)
            for tally in tallies:
                _keep(name, plan, tally, rtt_ms, out)


def _notice(bed: Boards, mbit: float, asked: Sequence[int]) -> None:
    """Let boards find out what their links are like, as they have where no links are changed under them."""
    began = time.monotonic()
    while not all(bed.knows_links(mbit, index) for index in asked):
        if time.monotonic() > began + _NOTICE_S:
            print(f"{mbit:g} Mbit/s: some boards do not know their links", file=sys.stderr, flush=True)
            return
        time.sleep(1.0)
    print(f"{mbit:g} Mbit/s: links known after {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def _try(bed: Boards, setting: Setting, image: bytes) -> tuple[InferReport, float, float] | None:
    try:
        return ask(bed, setting, image)
    except PeerError as problem:
        print(f"{setting.key}: {problem}", file=sys.stderr, flush=True)
        time.sleep(1.0)
        return None


def _keep(name: str, plan: Plan, tally: Tally, rtt_ms: float, out: Path) -> None:
    setting = tally.setting
    if not tally.times_ms:
        print(f"{setting.key}: no request of {tally.dropped} counts", file=sys.stderr, flush=True)
        return
    median_ms = statistics.median_low(tally.times_ms)
    report = tally.reports[tally.times_ms.index(median_ms)]
    slower = plan.slower if setting.boards != 1 else (plan.slower[setting.asked],)
    measured = Measured(
        key=setting.key,
        plan=name,
        model=setting.model,
        boards=len(report.boards),
        codec=report.codec or "",
        mbit=setting.mbit,
        slower=slower,
        times_ms=tuple(tally.times_ms),
        late_ms=tuple(tally.late_ms),
        dropped=tally.dropped,
        mode=report.mode,
        rounds=report.rounds,
        payload_bytes=report.payload_bytes,
        wire_bytes=report.wire_bytes,
        input_bytes=report.input_bytes,
        gather_ms=report.timing.gather_ms,
        predicted_ms=report.predicted_ms,
        rtt_ms=rtt_ms,
        costs=costs(report),
        machine=records.machine(),
        commit=records.commit(),
    )
    records.append(out, measured)
    print(f"{name}: {setting.key}: {median_ms:.0f} ms, {tally.dropped} dropped", file=sys.stderr, flush=True)


def costs(report: InferReport) -> tuple[BoardTimes, ...]:
    """Of every board that took part."""
    return tuple(
        BoardTimes(
            tokens=board.tokens[1] - board.tokens[0],
            prepare_ms=board.prepare_ms,
            compute_ms=board.compute_ms,
            encode_ms=board.encode_ms,
            decode_ms=board.decode_ms,
            wait_ms=board.wait_ms,
        )
        for board in (report.explain.boards if report.explain else ())
    )


def make_models(plan: Plan, folder: Path) -> None:
    """Models of random weights that the plan needs, and a link to the shipped one."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in plan.models:
        if (SHIPPED / name).exists():
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(SHIPPED / name)
        else:
            models.make(name, folder, tuple(models.CODECS.split(",")))


def _run(options: argparse.Namespace) -> int:
    chosen: Sequence[str] = options.plan.split(",")
    for name in chosen:
        folder = options.models / name
        folder.mkdir(parents=True, exist_ok=True)
        make_models(PLANS[name], options.models / "all")
        for model in PLANS[name].models:
            if not (folder / model).exists():
                (folder / model).symlink_to((options.models / "all" / model).resolve())
        measure(name, PLANS[name], folder, options.out)
    return 0


def add_verb(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = verbs.add_parser("measure", help="every setting of a plan; goes on where it was cut")
    parser.add_argument("--plan", default=",".join(PLANS), help=f"of {', '.join(PLANS)}  [all]")
    parser.add_argument("--models", type=Path, default=Path("runs/models"))
    parser.add_argument("--out", type=Path, default=Path("runs/testbed.jsonl"))
    parser.set_defaults(run=_run)
