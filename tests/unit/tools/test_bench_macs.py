"""The MAC counter against the closed form of a Transformer block."""

from pathlib import Path

import pytest

from tools.bench.macs import count_macs
from tools.export.random_vit import TINY, random_tensors
from tools.export.vit import export_model
from tools.export.weights import Storage

OWN, REMOTE, WIDTH, MLP = 4, 12, TINY.width, TINY.mlp
SIZES = {"B": 1, "T": OWN, "1+T": 1 + OWN, "R": REMOTE}


@pytest.fixture(scope="module", params=Storage)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out, tensors = tmp_path_factory.mktemp("model") / "tiny", random_tensors(TINY, seed=2)
    return export_model(tensors, TINY, name="tiny", labels=list("abcde"), out=out, storage=request.param)


def test_a_middle_block_of_one_board(model: Path) -> None:
    rows, keys = 1 + OWN, 1 + OWN + REMOTE
    query = rows * WIDTH * WIDTH
    attend = rows * WIDTH * (WIDTH + 2 * MLP + 2 * WIDTH) + 2 * rows * keys * WIDTH
    assert count_macs(model / "query.0.onnx", SIZES) == query
    assert count_macs(model / "attend.0.onnx", SIZES) == attend


def test_the_last_block_asks_for_the_class_token_only(model: Path) -> None:
    keys = 1 + OWN + REMOTE
    last = TINY.blocks - 1
    assert count_macs(model / f"query.{last}.onnx", SIZES) == WIDTH * WIDTH
    assert count_macs(model / f"attend.{last}.onnx", SIZES) == WIDTH * (WIDTH + 2 * MLP) + 2 * keys * WIDTH


def test_projection_of_remote_tokens(model: Path) -> None:
    assert count_macs(model / "project.0.onnx", SIZES) == REMOTE * 2 * WIDTH * WIDTH


def test_one_board_with_all_tokens_does_the_whole_work(model: Path) -> None:
    sizes = {"B": 1, "T": TINY.tokens, "1+T": 1 + TINY.tokens, "R": 0}
    stages = ["embed", "head", *(f"{stage}.{block}" for stage in ("query", "attend") for block in range(TINY.blocks))]
    whole = count_macs(model / "whole.onnx", {"B": 1})
    assert sum(count_macs(model / f"{name}.onnx", sizes) for name in stages) == whole
