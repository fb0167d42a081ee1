"""Stage graphs against the undivided graph and against a forward pass in numpy."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from runtime.errors import StageError
from runtime.manifest import parse_manifest
from runtime.settings import SessionSettings
from runtime.stage import Stage
from tools.export.random_vit import TINY, random_tensors
from tools.export.reference import BlockTrace, Reference, Trace
from tools.export.vit import EVEN, export_model

BATCH = 3
ROWS = np.random.default_rng(5).integers(0, 256, (BATCH, TINY.tokens, TINY.row_bytes), dtype=np.uint8)
TENSORS = random_tensors(TINY, seed=5)


class Folder:
    """Runs graphs of a model folder by name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.plan = parse_manifest((path / "manifest.json").read_bytes())
        self._stages: dict[str, Stage] = {}

    def run(self, name: str, *inputs: np.ndarray) -> list[np.ndarray]:
        if name not in self._stages:
            spec = self.plan.stage(name)
            assert spec is not None
            self._stages[name] = Stage(self.path, spec, SessionSettings(prepack=True))
        return self._stages[name].run(*inputs)

    def divided(self, rows: np.ndarray, cuts: list[int], *, project: bool = False) -> np.ndarray:
        """Logits of boards that hold [cuts[i], cuts[i+1]) and exchange exact keys and values (or block inputs)."""
        starts = itertools.pairwise(cuts)
        boards = [self.run("embed", rows[:, a:b], np.array([a])) for a, b in starts]
        for block in range(TINY.blocks):
            following = []
            for board in boards:
                others = [other for other in boards if other is not board]
                index, stage = (0, f"project.{block}") if project else (2, "")
                empty = np.zeros((len(rows), 0, boards[0][index].shape[2]), np.float32)
                remote = np.concatenate([empty, *(other[index][:, 1:] for other in others)], axis=1)
                if project:
                    (remote,) = self.run(stage, remote)
                (q,) = self.run(f"query.{block}", board[1])
                following.append(self.run(f"attend.{block}", board[0], q, board[2], remote))
            boards = following
        return self.run("head", np.mean([board[0] for board in boards], axis=0))[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    out = tmp_path_factory.mktemp("model") / "tiny"
    return Folder(export_model(TENSORS, TINY, name="tiny", labels=list("abcde"), out=out))


@pytest.fixture(scope="module")
def trace() -> Trace:
    return Reference(TENSORS, TINY, mean=EVEN, std=EVEN).forward(ROWS)


def test_whole_equals_numpy(folder: Folder, trace: Trace) -> None:
    np.testing.assert_allclose(folder.run("whole", ROWS)[0], trace.logits, atol=1e-4)


@pytest.mark.parametrize("cuts", [[0, 16], [0, 8, 16], [0, 1, 5, 16], [0, 4, 8, 12, 16], list(range(0, 17, 2))])
@pytest.mark.parametrize("project", [False, True])
def test_exact_exchange_equals_whole(folder: Folder, cuts: list[int], project: bool) -> None:
    whole = folder.run("whole", ROWS)[0]
    np.testing.assert_allclose(folder.divided(ROWS, cuts, project=project), whole, atol=1e-4)


@pytest.mark.parametrize("start", [0, 3])
def test_embed_equals_numpy(folder: Folder, trace: Trace, start: int) -> None:
    x, h, kv = folder.run("embed", ROWS[:, start : start + 5], np.array([start]))
    first: BlockTrace = trace.blocks[0]
    held = [0, *range(1 + start, 6 + start)]
    for got, wanted in ((x, first.x), (h, first.h), (kv, first.kv)):
        np.testing.assert_allclose(got, wanted[:, held], atol=1e-4)


def test_query_of_last_block_is_the_class_token_alone(folder: Folder, trace: Trace) -> None:
    for number, block in enumerate(trace.blocks):
        (q,) = folder.run(f"query.{number}", block.h)
        kept = block.q[:, :1] if number == TINY.blocks - 1 else block.q
        np.testing.assert_allclose(q, kept, atol=1e-4)


def test_attend_hands_over_the_next_block(folder: Folder, trace: Trace) -> None:
    block, after = trace.blocks[0], trace.blocks[1]
    nothing = np.zeros((BATCH, 0, 2 * TINY.width), np.float32)
    x, h, kv = folder.run("attend.0", block.x, block.q, block.kv, nothing)
    for got, wanted in ((x, after.x), (h, after.h), (kv, after.kv)):
        np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_tokens_beyond_the_picture_are_refused(folder: Folder) -> None:
    with pytest.raises(StageError):
        folder.run("embed", ROWS[:, :5], np.array([TINY.tokens - 2]))
