"""Test accuracy of a model folder, undivided and divided over boards, for each of its codecs.

    python -m tools.evaluate --model models_onnx/vit-cifar10 --data FOLDER/cifar10-test.tar.gz \\
        --out runs/vit-cifar10.jsonl

Boards are emulated in one process through the exported stages and the runtime that real boards use: every board has its
own shard of tokens, packs its payload, and attends to what comes out of the others'; class tokens are averaged, then
the head runs. --data holds one folder of pictures per class. Each row is stored as soon as it is measured and never
measured twice, so the command can be stopped and started again. With --set-default the default codec becomes the one
with the fewest bits that loses at most --tolerance points on every number of boards. `python -m tools.export.card`
writes table and plot.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from runtime.model import Model
from runtime.settings import SessionSettings
from tools.evaluate.measure import measure, prepare
from tools.evaluate.rows import Condition, Row, Split, append_row, conditions, identity, read_rows
from tools.evaluate.test_set import read_test_set
from tools.export.failure import WrongUsage, run
from tools.export.manifest import set_default_codec

BOARDS = (1, 2, 3, 4, 6, 8)
_REPORT_EVERY_S = 5.0


def cheapest(rows: Sequence[Row], tolerance: float) -> str:
    """The codec with the fewest bits that loses at most `tolerance` points; the one that loses least if none does.

    Rows of lost boards do not count. Raises WrongUsage when nothing divided was measured.
    """
    whole = {row.images: row.accuracy for row in rows if not row.codec}
    losses: dict[str, float] = {}
    for row in rows:
        if row.codec and row.boards > 1 and not row.lost and row.images in whole:
            losses[row.codec] = max(losses.get(row.codec, -100.0), whole[row.images] - row.accuracy)
    if not losses:
        raise WrongUsage("nothing was measured on two boards or more", "give --boards")
    bits = {row.codec: row.bits for row in rows}
    good = [codec for codec, loss in losses.items() if loss <= tolerance]
    return min(good, key=bits.__getitem__) if good else min(losses, key=losses.__getitem__)


def evaluate(model: Model, data: Path, wanted: Sequence[Condition], *, out: Path, limit: int, seed: int) -> list[Row]:
    """Measure what `out` does not hold yet; returns all wanted rows. Prints each, with its speed."""
    test = read_test_set(data, model.plan, limit=limit, seed=seed)
    known = {row.key: row for row in read_rows(out)}
    keys = [(identity(model.plan, each.codec), each, len(test.labels), seed) for each in wanted]
    missing = [(key, each) for key, each in zip(keys, wanted, strict=True) if key not in known]
    print(
        f"{len(test.labels)} of {test.all_images} pictures, {len(missing)} of {len(wanted)} rows to measure", flush=True
    )
    bench = prepare(model, test, seed=seed) if missing else None
    for number, (key, condition) in enumerate(missing, start=1):
        if bench is not None:
            known[key] = measure(bench, condition, _Progress(f"{number}/{len(missing)} {condition}", len(test.labels)))
            append_row(out, known[key])
            _say(known[key])
    return [known[key] for key in keys]


class _Progress:
    """A line on a terminal that is overwritten; nothing elsewhere."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total = what, total
        self._began_at = self._shown_at = time.monotonic()

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if sys.stderr.isatty() and (now - self._shown_at > _REPORT_EVERY_S or done == self._total):
            self._shown_at = now
            speed = done / max(now - self._began_at, 1e-9)
            end = "\r" if done < self._total else "\r\033[K"
            print(f"{self._what}: {done}/{self._total}, {speed:.0f} images/s", end=end, file=sys.stderr, flush=True)


def _say(row: Row) -> None:
    print(
        f"{row.condition!s:44} {row.bits:8.1f} bits {row.compression:7.1f}x  accuracy {row.accuracy:6.2f} %  "
        f"agreement {100 * row.agreeing / row.images:6.2f} %  {row.images / max(row.seconds, 0.1):5.0f} images/s",
        flush=True,
    )


def main() -> None:
    """Parse the command line, evaluate, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder or tar archive, one folder per class")
    parser.add_argument("--out", type=Path, required=True, help="rows are added to this file, a line of JSON each")
    parser.add_argument("--limit", type=int, default=0, help="test pictures, evenly spread over the classes; 0: all")
    parser.add_argument("--codecs", help="comma-separated; all of the model's by default")
    parser.add_argument("--boards", default=",".join(map(str, BOARDS)))
    parser.add_argument("--splits", default="even,uneven")
    parser.add_argument("--lost", default="4", help="numbers of boards of which one is lost; may be empty")
    parser.add_argument("--anew", default="", help="as --lost, but lost in the first third the others begin anew")
    parser.add_argument("--seed", type=int, default=1, help="of splits and losses")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tolerance", type=float, default=0.5, help="points of accuracy")
    parser.add_argument("--set-default", action="store_true")
    given = parser.parse_args()
    model = Model.load(given.model, SessionSettings(threads=given.threads, prepack=True))
    codecs = given.codecs.split(",") if given.codecs else [codec.name for codec in model.plan.codecs]
    boards, splits, lost = _choices(given.boards, given.splits, given.lost, model)
    for name in codecs:
        if model.plan.codec(name) is None:
            raise WrongUsage(f"model {model.plan.name} has no codec {name}", "correct --codecs")
    anew = _choices(given.boards, given.splits, given.anew, model)[2]
    wanted = list(conditions(codecs, boards, splits, lost=lost, single=model.plan.default_codec, anew=anew))
    rows = evaluate(model, given.data, wanted, out=given.out, limit=given.limit, seed=given.seed)
    if max(boards) > 1:
        choice = cheapest(rows, given.tolerance)
        print(f"fewest bits within {given.tolerance} points, or else the least loss: {choice}")
        if given.set_default:
            set_default_codec(given.model, choice)
            print(f"{given.model}: the default codec is {choice}")


def _choices(boards: str, splits: str, lost: str, model: Model) -> tuple[list[int], list[Split], list[int]]:
    try:
        counts, losing = ([int(part) for part in text.split(",") if part] for text in (boards, lost))
        kinds = [Split(part) for part in splits.split(",") if part]
    except ValueError as exc:
        raise WrongUsage(str(exc), "correct --boards, --splits or --lost") from exc
    most = model.plan.geometry.tokens
    if not counts or not all(1 <= count <= most for count in counts) or not all(2 <= count <= most for count in losing):
        raise WrongUsage(f"boards must be 1 to {most}, and 2 or more to lose one", "correct --boards or --lost")
    return counts, kinds, losing


if __name__ == "__main__":
    sys.exit(run(main))
