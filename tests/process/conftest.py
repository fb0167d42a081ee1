"""A ring of real daemons around one random model, and the pictures that go through it."""

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from peer.local_ring import LocalBoards, LocalRing, local_ring
from tools.export.calibration import Calibration
from tools.export.random_vit import random_tensors
from tools.export.vit import export_model
from tools.export.weights import VitShape

# 64 tokens and enough width that the float32 sums differ between splits; random weights, so nothing is smoothed away.
SHAPE = VitShape(image=32, patch=4, width=64, blocks=3, heads=4, mlp=128, classes=10)
CODECS = (
    "f32",
    "f16",
    "int8",
    "int4",
    "f32-input",
    "vq8x16",
    "vq8x16-normed",
    "astra-g4",
    "tc64",
    "ptc32",
    "pvq5",
    "ptc32x2",
)


SHIPPED = Path(__file__).parents[2] / "models_onnx/vit-cifar10"


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models: `random`, exported from seeded weights, and the trained one that ships."""
    rows = np.random.default_rng(7).integers(0, 256, (40, SHAPE.tokens, SHAPE.row_bytes), dtype=np.uint8)
    folder = tmp_path_factory.mktemp("models")
    export_model(
        random_tensors(SHAPE, seed=7),
        SHAPE,
        name="random",
        labels=[f"class-{i}" for i in range(SHAPE.classes)],
        out=folder / "random",
        codecs=CODECS,
        calibration=Calibration(rows=rows, vectors=2048, seed=7),
    )
    shutil.copytree(SHIPPED, folder / SHIPPED.name)
    return folder


@pytest.fixture(scope="session")
def ring_of_eight(random_model: Path) -> Iterator[LocalRing]:
    with local_ring(LocalBoards(count=8, threads=1, models=random_model), timeout_s=90) as ring:
        yield ring


@pytest.fixture(scope="session")
def pictures() -> list[bytes]:
    """Eight PNG files of the model's own size: what arrives at the embedding is then exactly their pixels."""
    rng = np.random.default_rng(11)
    files = []
    for _ in range(8):
        coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        out = io.BytesIO()
        Image.fromarray(coarse).resize((32, 32), Image.Resampling.BICUBIC).save(out, "PNG")
        files.append(out.getvalue())
    return files
