"""What is measured, one row at a time, and the file that rows are kept in: a line of JSON each.

A row is known by the digests of what it was computed with. Adding codecs to a model, dropping some, or choosing another
default therefore leaves the rows of all others valid; an interrupted evaluation goes on where it stopped.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from runtime.plan import CodecSpec, ModelPlan


class Split(StrEnum):
    """How tokens are shared out."""

    EVEN = "even"
    UNEVEN = "uneven"  # random contiguous ranges of at least one token, new ones for each batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What one row measures. `codec` is "" for the undivided network."""

    codec: str
    boards: int
    split: Split = Split.EVEN
    lost: bool = False  # one random board is lost from a random block on, drawn anew for each batch
    anew: bool = False  # as boards do with --allow-degraded: where it is lost early, the others begin anew

    def __str__(self) -> str:
        if not self.codec:
            return "undivided"
        lost = (", one lost, anew if early" if self.anew else ", one lost") if self.lost else ""
        return f"{self.codec}, {self.boards} boards, {self.split}{lost}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measurement."""

    model: str
    identity: str  # of graphs and codec, see `identity`
    codec: str
    bits: float  # per content token, mean over blocks
    compression: float  # 32 * width / bits
    boards: int
    split: str
    lost: bool
    images: int
    all_images: int
    seed: int
    right: int
    agreeing: int  # answers equal to the undivided network's
    seconds: float
    anew: bool = False

    @property
    def accuracy(self) -> float:
        """Per cent."""
        return 100 * self.right / self.images

    @property
    def condition(self) -> Condition:
        """What was measured."""
        return Condition(codec=self.codec, boards=self.boards, split=Split(self.split), lost=self.lost, anew=self.anew)

    @property
    def key(self) -> tuple[str, Condition, int, int]:
        """Two rows of the same key have the same result."""
        return self.identity, self.condition, self.images, self.seed


def conditions(
    codecs: Iterable[str],
    boards: Iterable[int],
    splits: Iterable[Split],
    *,
    lost: Iterable[int],
    single: str,
    anew: Iterable[int] = (),
) -> Iterator[Condition]:
    """All rows of a table. One board needs no codec: it is measured once, through a shard of all tokens."""
    yield Condition(codec="", boards=1)
    counts = sorted(set(boards))
    if 1 in counts:
        yield Condition(codec=single, boards=1)
    for codec in codecs:
        for split in splits:
            yield from (Condition(codec=codec, boards=count, split=split) for count in counts if count > 1)
        yield from (Condition(codec=codec, boards=count, lost=True) for count in lost)
        yield from (Condition(codec=codec, boards=count, lost=True, anew=True) for count in anew)


def bits_per_token(spec: CodecSpec, blocks: int) -> float:
    """Payload bits of one content token, mean over blocks; keys and values both counted."""
    return sum(spec.bits_per_token(block) for block in range(blocks)) / blocks


def identity(plan: ModelPlan, codec: str) -> str:
    """Digest of everything that decides a row's result apart from its condition."""
    spec = plan.codec(codec)
    graphs = {stage.file for stage in plan.stages} | {"weights.bin"}
    if spec is not None:
        own = f"{spec.encode[0].split('.encode.')[0]}." if spec.encode else ""
        graphs |= {*spec.encode, *spec.decode}
        # Its own numbers; rates of one residual codebook share theirs under a name that is a part of each of theirs.
        named = {file.name for file in plan.files if own and file.name.endswith(".bin")}
        graphs |= {f"{own}bin"} & named or {name for name in named if own.startswith(name[:-4])}
    digest = hashlib.sha256()
    for file in plan.files:
        if file.name in graphs:
            digest.update(f"{file.name} {file.sha256}\n".encode())
    if spec is not None:
        digest.update(f"{spec.kind.value} {spec.group}".encode())
    return digest.hexdigest()[:16]


def read_rows(path: Path) -> list[Row]:
    """All rows of a file, none if it is not there; a line that was cut off by a crash is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(Row(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return rows


def append_row(path: Path, row: Row) -> None:
    """Add a row; it is on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cut_off = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as stream:
        stream.write(("\n" if cut_off else "") + json.dumps(asdict(row)) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
