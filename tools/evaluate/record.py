"""Put into a model's manifest what each codec costs in accuracy, so that boards can choose one by it.

    python -m tools.evaluate.record --model models_onnx/vit-cifar10 --rows runs/vit-cifar10.jsonl

Percentage points with even shares, against the undivided network, for every number of boards that was measured; of more
boards never less than of fewer. Gives the model a new identity: record before it is handed out. `peerctl infer --within
POINTS` goes by it.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from runtime.integrity import read_plan
from tools.evaluate.rows import Row, Split, read_rows
from tools.evaluate.table import undivided
from tools.export.card import matching
from tools.export.failure import BadInput, run
from tools.export.manifest import set_points_lost


def points_lost(rows: Sequence[Row]) -> dict[str, dict[int, float]]:
    """Points by the name of the codec and the number of boards, of the rows with most pictures."""
    whole = undivided(rows)
    if not whole:
        return {}
    most = max(whole)
    found: dict[str, dict[int, float]] = {}
    for row in sorted(rows, key=lambda row: row.boards):
        if row.codec and row.boards > 1 and (row.split, row.lost, row.images) == (Split.EVEN.value, False, most):
            own = found.setdefault(row.codec, {})
            own[row.boards] = max(round(whole[most].accuracy - row.accuracy, 2), *own.values(), -100.0)
    return found


def main() -> None:
    """Parse the command line and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rows", type=Path, nargs="+", required=True)
    given = parser.parse_args()
    rows = matching([row for path in given.rows for row in read_rows(path)], read_plan(given.model))
    lost = points_lost(rows)
    if not lost:
        raise BadInput("no row of several boards is of this model", "evaluate it first")
    set_points_lost(given.model, lost)
    for name, own in lost.items():
        print(f"{name}: {', '.join(f'{points:g} on {boards} boards' for boards, points in own.items())}")


if __name__ == "__main__":
    sys.exit(run(main))
