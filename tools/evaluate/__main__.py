"""Test accuracy of a model folder, whole and divided over boards, for each of its codecs.

    python -m tools.evaluate --model models_onnx/vit-cifar10 --data FOLDER --limit 2000 --json runs/evaluation.json

Boards are emulated in one process through the runtime that real boards use: every board has its own shard of tokens,
encodes its payload, and decodes those of all others; class tokens are averaged, then the head runs. FOLDER holds
cifar10-test.tar.gz. With --set-default the manifest's default codec becomes the one with the fewest bits that loses at
most --tolerance points on every number of boards.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from runtime.model import Model
from runtime.shard import Shard
from runtime.stage import SessionSettings
from tools.export.manifest import set_default_codec
from tools.train.cifar import I64, load_split
from tools.train.patches import U8, patch_rows

BATCH = 100
BOARDS = (2, 4, 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Accuracy of one codec on one number of boards."""

    codec: str
    bits: int  # per content token, mean over blocks
    boards: int
    accuracy: float  # share of right answers
    agreement: float  # share of answers equal to the undivided network's


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """All scores of a model folder."""

    model: str
    model_id: str
    images: int
    whole: float
    scores: tuple[Score, ...]

    def loss(self, codec: str) -> float:
        """Points of accuracy (0..100) that a codec loses against the whole network on its worst number of boards."""
        return max(100 * (self.whole - score.accuracy) for score in self.scores if score.codec == codec)


def divided(model: Model, codec: str, rows: U8, boards: int) -> I64:
    """Predicted labels [n] of patch rows [n, tokens, row_bytes] on `boards` emulated boards with even ranges."""
    tokens = model.plan.geometry.tokens
    cuts = [tokens * board // boards for board in range(boards + 1)]
    shards = [Shard(model, model.codec(codec)) for _ in range(boards)]
    for shard, start, stop in zip(shards, cuts, cuts[1:], strict=False):
        shard.embed(np.ascontiguousarray(rows[:, start:stop]), start)
    while not shards[0].done:
        payloads = [(stop - start, shard.encode()) for shard, start, stop in zip(shards, cuts, cuts[1:], strict=False)]
        for number, shard in enumerate(shards):
            shard.attend([payload for other, payload in enumerate(payloads) if other != number])
    logits = model.head(np.mean([shard.cls for shard in shards], axis=0, dtype=np.float32))
    return logits.argmax(axis=1)


def evaluate(model: Model, rows: U8, labels: I64, *, codecs: Sequence[str], boards: Sequence[int]) -> Evaluation:
    """Every codec on every number of boards; prints each score as it comes."""
    batches = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    whole = np.concatenate([model.whole(batch).argmax(axis=1) for batch in batches])
    print(f"{'whole':16} accuracy {(whole == labels).mean():.4f} on {len(labels)} images", flush=True)
    scores = []
    for name in codecs:
        spec = model.codec(name).spec
        blocks = model.plan.geometry.blocks
        bits = round(sum(spec.bits_per_token(block) for block in range(blocks)) / blocks)
        for count in boards:
            began_at = time.monotonic()
            answers = np.concatenate([divided(model, name, batch, count) for batch in batches])
            score = Score(
                codec=name,
                bits=bits,
                boards=count,
                accuracy=float((answers == labels).mean()),
                agreement=float((answers == whole).mean()),
            )
            scores.append(score)
            print(
                f"{name:16} {bits:6} bits, {count} boards: accuracy {score.accuracy:.4f}, "
                f"agreement {score.agreement:.4f} ({time.monotonic() - began_at:.1f} s)",
                flush=True,
            )
    return Evaluation(
        model=model.plan.name,
        model_id=model.plan.model_id,
        images=len(labels),
        whole=float((whole == labels).mean()),
        scores=tuple(scores),
    )


def cheapest(evaluation: Evaluation, tolerance: float) -> str:
    """The codec with the fewest bits that loses at most `tolerance` points; the one that loses least if none does."""
    bits = {score.codec: score.bits for score in evaluation.scores}
    good = [codec for codec in bits if evaluation.loss(codec) <= tolerance]
    return min(good, key=bits.__getitem__) if good else min(bits, key=evaluation.loss)


def main() -> None:
    """Parse the command line, evaluate, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    parser.add_argument("--limit", type=int, default=2000, help="test images, evenly spread over the classes")
    parser.add_argument("--codecs", help="comma-separated; all of the model's by default")
    parser.add_argument("--boards", default=",".join(map(str, BOARDS)))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tolerance", type=float, default=1.0, help="points of accuracy")
    parser.add_argument("--set-default", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model = Model.load(options.model, SessionSettings(threads=options.threads, prepack=True))
    test = load_split(data=options.data, cache=options.cache, name="cifar10", split="test")
    every = max(1, len(test.labels) // options.limit)
    rows = patch_rows(np.ascontiguousarray(test.images[::every]), model.plan.geometry.patch)
    codecs = options.codecs.split(",") if options.codecs else [codec.name for codec in model.plan.codecs]
    boards = [int(count) for count in options.boards.split(",")]
    evaluation = evaluate(model, rows, test.labels[::every], codecs=codecs, boards=boards)
    choice = cheapest(evaluation, options.tolerance)
    print(f"fewest bits within {options.tolerance} points: {choice}")
    if options.json is not None:
        options.json.write_text(json.dumps(asdict(evaluation), indent=1) + "\n")
    if options.set_default:
        set_default_codec(options.model, choice)
        print(f"{options.model}: the default codec is {choice}")


if __name__ == "__main__":
    main()
