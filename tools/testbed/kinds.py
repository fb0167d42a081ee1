"""Which work is alike on every emulated board, so that what it was found to take once holds for all of them.

A step is a run of one graph. A part is what a shard does between two messages: its steps, and the numpy and Python
around them, which unpack codes, join them and pack the next ones.
"""

from collections.abc import Callable, Hashable
from pathlib import Path

import numpy as np

from runtime.shard import Shard
from runtime.stage import Stage

PARTS = ("embed", "encode", "query", "attend")


def place_stages() -> None:
    """From here on a stage knows the folder of its model, which kinds tell."""
    Stage.__init__ = _placed(Stage.__init__)  # type: ignore[method-assign]


def _placed(inner: Callable[..., None]) -> Callable[..., None]:
    def placed(stage: Stage, folder: Path, *arguments: object) -> None:
        inner(stage, folder, *arguments)
        stage.__dict__["folder"] = folder

    return placed


def stage_kind(stage: Stage, *inputs: np.ndarray) -> Hashable:
    """The same graph in another block has the same work to do, unless its outputs are others (the last block's are).

    Of one model: weights of another type are another graph under the same name.
    """
    name = ".".join(part for part in stage.spec.name.split(".") if not part.isdecimal())
    return stage.__dict__["folder"].name, name, stage.spec.outputs, tuple(each.shape for each in inputs)


def part_kind(name: str, shard: Shard, *arguments: object) -> Hashable:
    """One of PARTS, of a model, a codec, so many pictures and tokens of one's own and of each other board.

    In which block does not matter, but for the last one, how many silent ones follow, and whether queries are there.
    """
    model, codec = shard._model, shard._codec  # noqa: SLF001 - told apart by what a shard keeps to itself
    where = model.embed.__dict__["folder"].name, codec.spec.name, name
    match name, arguments:
        case "embed", (np.ndarray() as rows, *_):
            return *where, rows.shape
        case "attend", ((list() | tuple()) as payloads, *_):
            blocks, ended = model.plan.geometry.blocks, shard.block + 1
            while ended < blocks and codec.spec.silent(ended):
                ended += 1
            others = tuple(sorted(tokens for tokens, _ in payloads))
            todo = shard._q is None, ended - shard.block, ended == blocks  # noqa: SLF001
            return *where, shard.batch, shard._tokens, others, *todo  # noqa: SLF001
    return *where, shard.batch, shard._tokens, shard.block == model.plan.geometry.blocks - 1  # noqa: SLF001
