"""What a board measures of itself ends, and means something, wherever a model's default codec is silent."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from runtime.measure import counts, measure, measure_codec
from runtime.model import Model
from runtime.settings import SessionSettings
from tools.export.calibration import Calibration
from tools.export.random_vit import TINY, random_tensors
from tools.export.vit import export_model

SHAPE = replace(TINY, blocks=4)
CODECS = ("f32", "ptc8", "ptc8x2", "ptc8x3", "ptc8x4")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    rows = np.random.default_rng(4).integers(0, 256, (30, SHAPE.tokens, SHAPE.row_bytes), dtype=np.uint8)
    folder = export_model(
        random_tensors(SHAPE, seed=4),
        SHAPE,
        name="four",
        labels=list("abcde"),
        out=tmp_path_factory.mktemp("models") / "four",
        codecs=CODECS,
        calibration=Calibration(rows=rows),
    )
    return Model.load(folder, SessionSettings(threads=1))


@pytest.mark.parametrize("name", CODECS)
def test_every_block_is_measured_once(model: Model, name: str) -> None:
    codec = model.codec(name)

    def clock(step: Callable[[], object]) -> float:
        """Every call is made, and takes a second."""
        step()
        return 1.0

    walk = measure(model, codec, clock)
    while True:
        try:
            next(walk)
        except StopIteration as end:
            times = end.value
            break
    assert [point.tokens for point in times.points] == list(counts(SHAPE.tokens))
    for point in times.points:
        assert min(point.begin_s, point.query_s + point.attend_s) > 0 <= point.last_s, point
    for _ in measure_codec(model, codec):
        pass
