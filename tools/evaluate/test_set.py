"""Labelled pictures: a folder or a tar archive with one folder per class.

Labels are the model's where the folders bear their names, else the index in the sorted list of folders.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from runtime.plan import ModelPlan
from tools.export.failure import BadInput
from tools.export.pictures import U8, Decoder, picture_files

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class TestSet:
    """Pictures ready for a model, in an order shuffled by a seed: batches mix the classes."""

    __test__ = False  # pytest: no test case

    rows: U8  # [n, tokens, row_bytes]
    labels: I64  # [n]
    all_images: int  # of the whole set; more than n for a subset

    @property
    def whole(self) -> bool:
        """Whether no picture was left out."""
        return len(self.labels) == self.all_images


def read_test_set(source: Path, plan: ModelPlan, *, limit: int, seed: int) -> TestSet:
    """At most `limit` pictures (0: all), evenly spread over the sorted set. Raises BadInput."""
    decoder = Decoder(spec=plan.image, geometry=plan.geometry)
    rows, names = [], []
    for name, data in picture_files(source):
        names.append(_class_of(name, source))
        rows.append(decoder.rows(name, data))
    index = _label_index(sorted(set(names)), plan.labels, source)
    labels = np.array([index[name] for name in names], dtype=np.int64)
    every = max(1, len(rows) // limit) if limit else 1
    kept = np.arange(len(rows))[::every][: limit or None]
    kept = np.random.default_rng(seed).permutation(kept)
    return TestSet(rows=np.stack([rows[place] for place in kept]), labels=labels[kept], all_images=len(rows))


def _class_of(name: str, source: Path) -> str:
    folder = PurePosixPath(name).parent.name
    if not folder:
        raise BadInput(f"{source}: picture {name} lies in no class folder", "put pictures into one folder per class")
    return folder


def _label_index(classes: Sequence[str], labels: Sequence[str], source: Path) -> dict[str, int]:
    if len(classes) < 2:
        raise BadInput(f"{source} has one class only", "put pictures into one folder per class")
    if set(classes) <= set(labels):
        return {name: labels.index(name) for name in classes}
    if len(classes) != len(labels):
        raise BadInput(
            f"{source} has {len(classes)} classes, the model {len(labels)} others", "give the model's own set"
        )
    return {name: number for number, name in enumerate(classes)}
