"""What this machine allows a ring at most: an undivided run over one board's part of it, without a network.

    python -m tools.bench.machine_bound [--boards 2,4,8] [--codec tc53] [--sleep 0] [--matrix-unit] [--repeat 9]

ViT-Base/16 with random weights, 197 tokens, float32 and int8, one thread. A board's part: all of its stages over its
tokens, encoding and taking the others' codes included, its own codes standing in for theirs. Processor time of the
stages, the cases taken in turns. With `--sleep S` this process sleeps S times a stage's time after each, as an emulated
board that is S + 1 times slower does: what the figures then are above those of `--sleep 0` is the emulation's doing.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from runtime.arrays import U8, Array
from runtime.codec.base import Codec
from runtime.memory import keep_freed
from runtime.model import Model
from runtime.settings import SessionSettings
from runtime.shard import Shard
from runtime.stage import Stage
from tools.testbed.models import CODECS, make
from tools.testbed.plain_core import go_without_matrix_unit

NAMES = ("vit-base-197", "vit-base-197-int8")


class Stopwatch:
    """Processor time of every stage that runs."""

    def __init__(self, sleep: float) -> None:
        self.spent_s = 0.0
        inner = Stage.run

        def run(stage: Stage, *inputs: Array) -> list[Array]:
            began_s = time.thread_time()
            outputs = inner(stage, *inputs)
            took_s = time.thread_time() - began_s
            self.spent_s += took_s
            if sleep:
                time.sleep(sleep * took_s)
            return outputs

        Stage.run = run  # type: ignore[method-assign, assignment]

    def time(self, run: Callable[[], object]) -> float:
        """Of the stages in one run, seconds."""
        self.spent_s = 0.0
        run()
        return self.spent_s


def part(model: Model, codec: Codec, rows: U8, boards: int) -> Callable[[], None]:
    """One board's part of a request."""
    tokens = model.plan.geometry.tokens // boards

    def run() -> None:
        shard = Shard(model, codec)
        shard.embed(rows[:, :tokens], 0)
        while not shard.done:
            payload = shard.encode()
            shard.query()
            shard.attend([(tokens, payload)] * (boards - 1))

    return run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boards", type=lambda text: [int(n) for n in text.split(",")], default=[2, 4, 8])
    parser.add_argument("--codec", default="tc53")
    parser.add_argument("--sleep", type=float, default=0.0)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--models", type=Path, default=Path("runs/models"))
    parser.add_argument("--matrix-unit", action="store_true", help="with AMX where there is one; boards have none")
    asked = parser.parse_args()
    if not asked.matrix_unit:
        go_without_matrix_unit()
    keep_freed()  # as compute processes do
    watch = Stopwatch(asked.sleep)
    for name in NAMES:
        folder = make(name, asked.models / "all", tuple(CODECS.split(",")))
        model = Model.load(folder, SessionSettings(threads=1, prepack=True))
        geometry, codec = model.plan.geometry, model.codec(asked.codec)
        rows = np.random.default_rng(1).integers(0, 256, (1, geometry.tokens, geometry.row_bytes), dtype=np.uint8)
        cases: dict[int, Callable[[], object]] = {1: partial(model.whole, rows)}
        cases |= {boards: part(model, codec, rows, boards) for boards in asked.boards}
        times: dict[int, list[float]] = {boards: [] for boards in cases}
        for _ in range(asked.repeat):
            for boards, case in cases.items():
                times[boards].append(1e3 * watch.time(case))
        alone = statistics.median(times[1])
        for boards, found in times.items():
            middle = statistics.median(found)
            print(f"{name:20} on {boards}: {middle:7.1f} ms a board, {alone / middle:.2f} times", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
