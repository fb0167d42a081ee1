"""What each step of a plan takes on a core of this machine at full speed, one board's part at a time in one process.

    python -m tools.testbed.learn --model FOLDER --cases 'tc53:98:98,tc53:49:49+49+49' --out steps.jsonl

A case is a codec, a board's own tokens and those of each other board. A pass walks through all blocks as requests do,
so that a block's weights are as far from the processor as they are on a board that has its caches for itself; the
undivided model and what boards measure of themselves are run as well.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from peer.protocol.partition import partition
from runtime.arrays import U8
from runtime.measure import measure, measure_codec
from runtime.memory import keep_freed
from runtime.model import Model
from runtime.settings import SessionSettings
from runtime.shard import Shard
from runtime.stage import Stage
from tools.testbed.kinds import PARTS, part_kind, place_stages, stage_kind
from tools.testbed.plain_core import go_without_matrix_unit
from tools.testbed.settings import Setting
from tools.testbed.usual_times import Notebook

Case = tuple[str, int, tuple[int, ...]]
_PASSES = 7
_R = TypeVar("_R")


def cases(settings: Iterable[Setting], tokens: int) -> tuple[Case, ...]:
    """What boards do in these settings of one model, each once."""
    found: dict[Case, None] = {}
    for setting in settings:
        if setting.boards > 1:
            counts = [part.count for part in partition(tokens, setting.weights or (1.0,) * setting.boards)]
            for index, own in enumerate(counts):
                found[setting.codec, own, tuple(sorted(counts[:index] + counts[index + 1 :]))] = None
    return tuple(found)


def learn(settings: Sequence[Setting], models: Path, out: Path) -> None:
    """Write `out` anew with the steps of all these settings; every model in a process of its own."""
    out.unlink(missing_ok=True)
    for name in dict.fromkeys(setting.model for setting in settings):
        plan = Model.load(models / name, SessionSettings()).plan
        wanted = cases((each for each in settings if each.model == name), plan.geometry.tokens)
        told = ",".join(f"{codec}:{own}:{'+'.join(map(str, others))}" for codec, own, others in wanted)
        arguments = [sys.executable, "-m", "tools.testbed.learn", "--model", models / name, "--out", out]
        subprocess.run([*map(str, arguments), "--cases", told], check=True)


def _run(model: Model, wanted: Sequence[Case]) -> None:
    geometry = model.plan.geometry
    rows = np.random.default_rng(1).integers(0, 256, (1, geometry.tokens, geometry.row_bytes), dtype=np.uint8)
    for _ in measure(model, model.codec(model.plan.default_codec)):
        pass
    for spec in model.plan.codecs:
        if spec.name in {model.plan.default_codec, *(case[0] for case in wanted)}:
            for _ in measure_codec(model, model.codec(spec.name)):
                pass
    for _ in range(_PASSES):  # in turns, so that what disturbs this machine for a while disturbs all of them alike
        model.whole(rows)
        for name, own, others in wanted:
            _pass(model, name, rows[:, :own], [rows[:, :count] for count in others])


def _pass(model: Model, name: str, own: U8, others: Sequence[U8]) -> None:
    """One board's part of a request."""
    codec = model.codec(name)
    mine, theirs = Shard(model, codec), [Shard(model, codec) for _ in others]
    mine.embed(own, 0)
    for each, rows in zip(theirs, others, strict=True):
        each.embed(rows, 0)
    # Of the first block: contents do not matter.
    parts = [(rows.shape[1], each.encode()) for each, rows in zip(theirs, others, strict=True)]
    while not mine.done:
        mine.encode()
        mine.query()
        mine.attend(parts)


class Recorder:
    """Notes what steps and parts take; what runs within one that is noted is part of it."""

    def __init__(self, notes: Notebook) -> None:
        self._notes = notes
        self._inside = False

    def noted(self, inner: Callable[..., _R], kind: Callable[..., Hashable]) -> Callable[..., _R]:
        """`inner`, noted."""

        def run(*arguments: object) -> _R:
            if self._inside:
                return inner(*arguments)
            of = kind(*arguments)
            began_s, self._inside = time.thread_time(), True
            try:
                result = inner(*arguments)
            finally:
                self._inside = False
            self._notes.add(of, time.thread_time() - began_s)
            return result

        return run


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--cases", required=True, help="CODEC:OWN:OTHERS, several with commas")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    go_without_matrix_unit()
    keep_freed()  # as compute processes do
    place_stages()
    recorder = Recorder(Notebook(asked.out))
    Stage.run = recorder.noted(Stage.run, stage_kind)  # type: ignore[method-assign]
    for name in PARTS:
        setattr(Shard, name, recorder.noted(getattr(Shard, name), partial(part_kind, name)))
    parts = (case.split(":") for case in asked.cases.split(",") if case)
    wanted = [(codec, int(own), tuple(map(int, others.split("+")))) for codec, own, others in parts]
    _run(Model.load(asked.model, SessionSettings(threads=1, prepack=True)), wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
