"""One tiny model with every kind of codec, exported once: random weights, 16 tokens, width 32, three blocks."""

from pathlib import Path

import numpy as np
import pytest

from runtime.model import Model
from runtime.settings import SessionSettings
from tools.export.calibration import Calibration
from tools.export.codec_entry import Source
from tools.export.codecs import Tuned
from tools.export.predictive import Predictive
from tools.export.random_vit import TINY, random_tensors
from tools.export.transform import fit_transform
from tools.export.vit import export_model

CODECS = (
    "f32",
    "f16",
    "int8",
    "int4",
    "f32-input",
    "vq4x16",
    "vq8x20",
    "vq8x16-normed",
    "astra-g4",
    "tc24",
    "ptc16",
    "pvq5",
    "ptc8x2",
)


def placed(name: str) -> Tuned:
    """A codec, made up, that predicts from the places of tokens: of its state's 11 values 3 tell of them."""
    rng = np.random.default_rng(6)
    values = rng.standard_normal((2000, 2 * TINY.width)).astype(np.float32)
    start = np.pad(rng.standard_normal((TINY.tokens, 3)), ((0, 0), (8, 0))).astype(np.float32)
    basis = np.linalg.qr(rng.standard_normal((2 * TINY.width, 8)))[0].astype(np.float32)
    blocks = [
        Predictive(
            prediction=rng.standard_normal((11, 2 * TINY.width)).astype(np.float32) / 3,
            ahead=np.zeros(2 * TINY.width, dtype=np.float32),
            inner=fit_transform(values, 12),
            basis=basis,
            centre=np.zeros(2 * TINY.width, dtype=np.float32),
        )
        for _ in range(TINY.blocks)
    ]
    return Tuned(name=name, source=Source.KV, blocks=tuple(blocks), data=f"{name}.bin", start=start)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = np.random.default_rng(4).integers(0, 256, (60, TINY.tokens, TINY.row_bytes), dtype=np.uint8)
    return export_model(
        random_tensors(TINY, seed=4),
        TINY,
        name="tiny",
        labels=["a", "b", "c", "d", "e"],
        out=tmp_path_factory.mktemp("models") / "tiny",
        codecs=CODECS,
        tuned=[placed("placed12")],
        calibration=Calibration(rows=rows, vectors=960, seed=4),
    )


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Model:
    return Model.load(tiny_folder, SessionSettings(threads=1))
