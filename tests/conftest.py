"""One tiny model with every kind of codec, exported once: random weights, 16 tokens, width 32, three blocks."""

from pathlib import Path

import numpy as np
import pytest

from runtime.model import Model
from runtime.settings import SessionSettings
from tools.export.calibration import Calibration
from tools.export.random_vit import TINY, random_tensors
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
        calibration=Calibration(rows=rows, vectors=960, seed=4),
    )


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Model:
    return Model.load(tiny_folder, SessionSettings(threads=1))
