"""Put into a model's manifest what each codec costs in accuracy, so that boards can choose one by it.

    python -m tools.evaluate.record --model models_onnx/vit-cifar10 --rows runs/vit-cifar10.jsonl

Percentage points on four boards with even shares, against the undivided network, of all test pictures that were
measured. Gives the model a new identity: record before it is handed out. `peerctl infer --within POINTS` goes by it.
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

BOARDS = 4


def points_lost(rows: Sequence[Row]) -> dict[str, float]:
    """Points by the name of the codec, of the rows with most pictures."""
    whole = undivided(rows)
    if not whole:
        return {}
    most = max(whole)
    return {
        row.codec: round(whole[most].accuracy - row.accuracy, 2)
        for row in rows
        if row.codec and (row.boards, row.split, row.lost, row.images) == (BOARDS, Split.EVEN.value, False, most)
    }


def main() -> None:
    """Parse the command line and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rows", type=Path, nargs="+", required=True)
    given = parser.parse_args()
    rows = matching([row for path in given.rows for row in read_rows(path)], read_plan(given.model))
    lost = points_lost(rows)
    if not lost:
        raise BadInput(f"no row of {BOARDS} boards is of this model", "evaluate it first")
    set_points_lost(given.model, lost)
    print(f"{given.model}: {', '.join(f'{name} {points:g}' for name, points in lost.items())}")


if __name__ == "__main__":
    sys.exit(run(main))
