"""Emulated boards, the choice of a default codec, and the card."""

import json
from pathlib import Path

import numpy as np
import pytest

from runtime.integrity import open_model
from runtime.model import Model
from runtime.stage import SessionSettings
from tools.evaluate.__main__ import Evaluation, Score, cheapest, divided, evaluate
from tools.export.card import Facts, card, merge
from tools.export.manifest import set_default_codec
from tools.export.random_vit import TINY, random_tensors
from tools.export.vit import export_model

ROWS = np.random.default_rng(1).integers(0, 256, (6, TINY.tokens, TINY.row_bytes), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return export_model(random_tensors(TINY, seed=2), TINY, name="tiny", labels=list("abcde"), out=tmp_path / "tiny")


@pytest.mark.parametrize("boards", [1, 3, 8])
def test_exact_exchange_answers_like_the_whole_network(folder: Path, boards: int) -> None:
    model = Model.load(folder, SessionSettings(threads=1, prepack=True))
    whole = model.whole(ROWS).argmax(axis=1)
    np.testing.assert_array_equal(divided(model, "f32", ROWS, boards), whole)
    np.testing.assert_array_equal(divided(model, "f32-input", ROWS, boards), whole)


def test_evaluation_becomes_a_card(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = Model.load(folder, SessionSettings(threads=1, prepack=True))
    labels = model.whole(ROWS).argmax(axis=1)
    evaluation = evaluate(model, ROWS, labels, codecs=["f32"], boards=[2])
    assert evaluation.whole == 1.0
    assert evaluation.loss("f32") == 0.0
    assert "f32" in capsys.readouterr().out
    recipe = {"minutes": 0, "epochs": 1, "batch": 8, "threads": 1, "rate": 1e-3, "decay": 0.05, "smoothing": 0.1}
    metrics = {"epochs": 1, "steps": 9, "accuracy": 0.5, "test_images": 6, "torch": "2"}
    text = card(
        Facts(
            manifest=json.loads((folder / "manifest.json").read_text()),
            metrics={**metrics, "recipe": {**recipe, "average": 0.9, "bf16": True, "seed": 1}},
            config=TINY.config(),
            evaluations=[
                {
                    "model": "tiny",
                    "images": 6,
                    "whole": 1.0,
                    "scores": [{"codec": "f32", "bits": 2048, "boards": 2, "accuracy": 1.0, "agreement": 1.0}],
                }
            ],
            archives={"cifar10-test.tar.gz": {"sha256": "0" * 64, "bytes": 1}},
            size_bytes=1000,
        )
    )
    assert "| **f32** | 2048 | 100.00 % (100.0) |" in text


def test_the_default_is_the_cheapest_codec_within_tolerance() -> None:
    def score(codec: str, bits: int, boards: int, accuracy: float) -> Score:
        return Score(codec=codec, bits=bits, boards=boards, accuracy=accuracy, agreement=1.0)

    scores = (
        score("f32", 8192, 2, 0.70),
        score("f32", 8192, 4, 0.70),
        score("tc64", 64, 2, 0.70),
        score("tc64", 64, 4, 0.695),
        score("tc32", 32, 2, 0.70),
        score("tc32", 32, 4, 0.68),
    )
    evaluation = Evaluation(model="m", model_id="0", images=100, whole=0.70, scores=scores)
    assert cheapest(evaluation, 1.0) == "tc64"
    assert cheapest(evaluation, 3.0) == "tc32"
    assert cheapest(evaluation, -1.0) == "f32"


def test_another_default_codec_is_another_model(folder: Path) -> None:
    before = open_model(folder)
    set_default_codec(folder, "int8")
    after = open_model(folder)
    assert after.default_codec == "int8"
    assert after.model_id != before.model_id
    with pytest.raises(ValueError, match="tc9"):
        set_default_codec(folder, "tc9")


def test_evaluations_of_the_same_images_are_joined() -> None:
    one, two = ({"images": 9, "whole": 0.5, "scores": [{"codec": name}]} for name in ("f32", "f16"))
    more = {"images": 90, "whole": 0.6, "scores": [{"codec": "f32"}]}
    tables = merge([more, one, two])
    assert [[score["codec"] for score in table["scores"]] for table in tables] == [["f32", "f16"], ["f32"]]
    with pytest.raises(ValueError, match="same weights"):
        merge([one, {**two, "whole": 0.4}])
