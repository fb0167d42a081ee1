"""What each step of a plan takes on a core of this machine at full speed, one board's part at a time in one process.

    python -m tools.testbed.learn --model FOLDER --cases 'tc53:98:98,tc53:49:147' --out steps.jsonl

A case is a codec, a board's own tokens and everybody else's. A pass walks through all blocks as requests do, so that
a block's weights are as far from the processor as they are on a board that has its caches for itself; the undivided
model and what boards measure of themselves are run as well.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from peer.protocol.partition import partition
from runtime.arrays import U8, Array
from runtime.measure import measure, measure_codec
from runtime.memory import keep_freed
from runtime.model import Model
from runtime.settings import SessionSettings
from runtime.shard import Shard
from runtime.stage import Stage
from tools.testbed.plain_core import go_without_matrix_unit
from tools.testbed.settings import Setting
from tools.testbed.slow_compute import place_stages, stage_kind
from tools.testbed.usual_times import Notebook

Case = tuple[str, int, int]
_PASSES = 7


def cases(settings: Iterable[Setting], tokens: int) -> tuple[Case, ...]:
    """What boards do in these settings of one model, each once."""
    found: dict[Case, None] = {}
    for setting in settings:
        if setting.boards > 1:
            weights = setting.weights or (1.0,) * setting.boards
            found |= {(setting.codec, part.count, tokens - part.count): None for part in partition(tokens, weights)}
    return tuple(found)


def learn(settings: Sequence[Setting], models: Path, out: Path) -> None:
    """Write `out` anew with the steps of all these settings; every model in a process of its own."""
    out.unlink(missing_ok=True)
    for name in dict.fromkeys(setting.model for setting in settings):
        plan = Model.load(models / name, SessionSettings()).plan
        wanted = cases((each for each in settings if each.model == name), plan.geometry.tokens)
        told = ",".join(f"{codec}:{own}:{others}" for codec, own, others in wanted)
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
            _pass(model, name, rows[:, :own], rows[:, :others])


def _pass(model: Model, name: str, own: U8, others: U8) -> None:
    """One board's part of a request."""
    codec = model.codec(name)
    mine, theirs = Shard(model, codec), [Shard(model, codec)] if others.size else []
    mine.embed(own, 0)
    for each in theirs:
        each.embed(others, 0)
    parts = [(others.shape[1], each.encode()) for each in theirs]  # of the first block: contents do not matter
    while not mine.done:
        mine.encode()
        mine.query()
        mine.attend(parts)


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
    notes = Notebook(asked.out)
    inner = Stage.run

    def run(stage: Stage, *inputs: Array) -> list[Array]:
        began_s = time.thread_time()
        outputs = inner(stage, *inputs)
        notes.add(stage_kind(stage, *inputs), time.thread_time() - began_s)
        return outputs

    Stage.run = run  # type: ignore[method-assign, assignment]
    parts = (case.split(":") for case in asked.cases.split(",") if case)
    wanted = [(codec, int(own), int(others)) for codec, own, others in parts]
    _run(Model.load(asked.model, SessionSettings(threads=1, prepack=True)), wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
