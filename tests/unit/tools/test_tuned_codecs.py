"""Codecs that come with a fine-tuned checkpoint: graphs against numpy, files against their reader."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from runtime.model import Model
from runtime.settings import SessionSettings
from runtime.stage import Stage
from tests.unit.tools.hf_folders import write_calibration, write_folder, write_safetensors
from tools.evaluate.boards import divided
from tools.export import codebook, transform
from tools.export.calibration import stage_spec
from tools.export.codebook import Codebook, Rotation
from tools.export.failure import BadInput, run
from tools.export.graph import Graph
from tools.export.random_vit import TINY
from tools.export.tensor_file import TensorFile
from tools.export.transform import Transform
from tools.export.tuned import read_tuned
from tools.export.weights import Affine
from tools.import_vit import main

RNG = np.random.default_rng(11)
WIDTH = 2 * TINY.width
VALUES = RNG.standard_normal((40, WIDTH)).astype(np.float32)
KV = Affine(weight=RNG.standard_normal((WIDTH, 10)).astype(np.float32), bias=np.arange(10, dtype=np.float32))
BASIS = np.linalg.qr(RNG.standard_normal((WIDTH, WIDTH)))[0].astype(np.float32)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.fixture
def load(tmp_path: Path) -> Callable[[Callable[[TensorFile], Graph]], Stage]:
    def write_and_load(make: Callable[[TensorFile], Graph]) -> Stage:
        store = TensorFile(tmp_path / "data.bin")
        graph = make(store)
        store.close()
        graph.write(tmp_path)
        return Stage(tmp_path, stage_spec(graph), SessionSettings(prepack=True))

    return write_and_load


MEAN = floats(WIDTH)
BOOKS = {
    "residual": Codebook(codes=floats(3, 4, 8, 16).astype(np.float16)),
    "rotated": Codebook(codes=floats(1, 4, 8, 4).astype(np.float16), rotation=Rotation(mean=MEAN, basis=BASIS[:, :16])),
    "both": Codebook(codes=floats(2, 8, 4, 8).astype(np.float16), rotation=Rotation(mean=MEAN, basis=BASIS)),
}


@pytest.mark.parametrize("kind", BOOKS)
def test_codebooks_equal_numpy(load: Callable[..., Stage], kind: str) -> None:
    book = BOOKS[kind]
    wanted = book.nearest(VALUES)
    (indices,) = load(lambda store: codebook.encode_graph("e", book, store)).run(VALUES.reshape(2, 20, WIDTH))
    np.testing.assert_array_equal(indices.reshape(40, -1), wanted)
    (values,) = load(lambda store: codebook.decode_graph("d", book, store)).run(indices)
    np.testing.assert_allclose(values.reshape(40, WIDTH), book.rebuild(wanted), atol=1e-5)
    (values,) = load(lambda store: codebook.table_decode_graph("t", book, KV, store)).run(indices)
    # Tables are stored as f16.
    np.testing.assert_allclose(values.reshape(40, 10), book.rebuild(wanted) @ KV.weight + KV.bias, rtol=0.01, atol=0.1)


def test_every_residual_stage_lowers_the_error() -> None:
    book = BOOKS["residual"]
    scaled = book.codes.astype(np.float32) * np.array([1.0, 0.5, 0.25], dtype=np.float32)[:, None, None, None]
    errors = []
    for stages in (1, 2, 3):
        part = Codebook(codes=scaled[:stages].astype(np.float16))
        errors.append(float(np.square(part.rebuild(part.nearest(VALUES)) - VALUES).mean()))
    assert errors[0] > errors[1] > errors[2]


def test_bottleneck_equals_numpy(load: Callable[..., Stage]) -> None:
    bits = (1, 3, 2)
    fit = Transform(
        mean=floats(WIDTH),
        analysis=floats(WIDTH, 3) / 8,
        synthesis=floats(3, WIDTH),
        bits=bits,
        levels=tuple(np.sort(floats(1 << own)) for own in bits),
        thresholds=tuple(np.sort(floats((1 << own) - 1)) for own in bits),
        offset=floats(WIDTH),
    )
    wanted = fit.nearest(VALUES)
    (indices,) = load(lambda store: transform.encode_graph("e", fit, store)).run(VALUES.reshape(2, 20, WIDTH))
    assert (indices.reshape(40, -1) == wanted).mean() > 0.98  # a value on a threshold may fall to either side
    (values,) = load(lambda store: transform.decode_graph("d", fit, store)).run(wanted[None])
    np.testing.assert_allclose(values[0], fit.rebuild(wanted), atol=1e-4)
    (values,) = load(lambda store: transform.decode_graph("p", fit.projected(KV), store)).run(wanted[None])
    np.testing.assert_allclose(values[0], fit.rebuild(wanted) @ KV.weight + KV.bias, rtol=1e-4, atol=1e-3)


def tensors_of(name: str, fields: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    return {f"{name}.{block}.{key}": floats(*size) for block in range(TINY.blocks) for key, size in fields.items()}


def checkpoint(folder: Path) -> Path:
    """A folder with one codec of each kind and placement."""
    write_folder(folder)
    width = TINY.width
    tensors = {
        **tensors_of("rq4x8x2", {"codes": (2, 4, 8, 16)}),
        **tensors_of("oq2x8-normed", {"codes": (1, 2, 8, 16), "rotation": (width, width)}),
        **tensors_of("fs3x2", {"mean": (WIDTH,), "analysis": (WIDTH, 3), "synthesis": (3, WIDTH)}),
        **{f"fs3x2.{block}.levels": np.sort(floats(3, 4), axis=1) for block in range(TINY.blocks)},
        **{f"fs3x2.{block}.bits": np.full(3, 2, dtype=np.int32) for block in range(TINY.blocks)},
        **tensors_of("own-input", {"codes": (1, 2, 8, 16)}),
    }
    write_safetensors(folder / "codecs.safetensors", tensors)
    entries = [
        {"name": "rq4x8x2", "kind": "codebook", "source": "kv", "stages": 2},
        {"name": "oq2x8-normed", "kind": "codebook", "source": "normed", "stages": 1},
        {"name": "fs3x2", "kind": "transform", "source": "kv", "stages": 1},
        {"name": "own-input", "kind": "codebook", "source": "input", "stages": 1},
    ]
    (folder / "codecs.json").write_text(json.dumps({"codecs": entries}))
    return folder


def test_checkpoint_brings_its_codecs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, pictures = checkpoint(tmp_path / "hf"), write_calibration(tmp_path / "c.npy")
    arguments = [str(source), "--out", str(tmp_path / "m"), "--calibration", str(pictures), "--codecs", "f32"]
    monkeypatch.setattr("sys.argv", ["import_vit", *arguments, "--check", "numpy", "--default-codec", "rq4x8x2"])
    assert run(main) == 0
    model = Model.load(tmp_path / "m", SessionSettings(threads=1, prepack=True))
    bits = {codec.name: codec.bits_per_token(0) for codec in model.plan.codecs}
    wanted = {"rq4x8x1": 12, "rq4x8x2": 24, "oq2x8-normed": 6, "fs3x2": 6, "own-input": 6}
    assert bits == {"f32": 32 * WIDTH, **wanted}
    # The rates of one residual codebook share its codes.
    assert sorted(path.name for path in (tmp_path / "m").glob("rq4x8*.bin")) == ["rq4x8.bin"]
    rows = RNG.integers(0, 256, (3, TINY.tokens, TINY.row_bytes), dtype=np.uint8)
    for name in wanted:
        assert np.isfinite(divided(model, name, rows, [0, 5, 9, 16])).all()


def drop_tensor(folder: Path) -> None:
    write_safetensors(folder / "codecs.safetensors", tensors_of("rq4x8x2", {"codes": (2, 4, 8, 16)}))


def wrong_width(folder: Path) -> None:
    write_safetensors(folder / "codecs.safetensors", tensors_of("rq4x8x2", {"codes": (2, 4, 8, 8)}))


def predicting(start: tuple[int, int]) -> Callable[[Path], None]:
    """A codec that predicts, with 8 + 3 values of state and a start of this shape."""

    def write(folder: Path) -> None:
        fields = {"codes": (1, 1, 8, WIDTH), "prediction": (11, WIDTH), "ahead": (WIDTH,), "basis": (WIDTH, 8)}
        tensors = {**tensors_of("p", {**fields, "centre": (WIDTH,)}), "p.0.start": floats(*start)}
        write_safetensors(folder / "codecs.safetensors", tensors)
        entry(name="p", kind="predictive-codebook", stages=1)(folder)

    return write


def fewer_predictions(folder: Path) -> None:
    fields = {"codes": (1, 1, 8, WIDTH), "prediction": (7, WIDTH), "ahead": (WIDTH,), "basis": (WIDTH, 8)}
    write_safetensors(folder / "codecs.safetensors", tensors_of("p", {**fields, "centre": (WIDTH,)}))
    entry(name="p", kind="predictive-codebook", stages=1)(folder)


def start_of_a_plain_codec(folder: Path) -> None:
    tensors = {**tensors_of("own-input", {"codes": (1, 2, 8, 16)}), "own-input.0.start": floats(TINY.tokens, 11)}
    write_safetensors(folder / "codecs.safetensors", tensors)
    entry(name="own-input", source="input", stages=1)(folder)


def test_a_codec_may_start_from_places(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "hf")
    predicting((TINY.tokens, 11))(folder)
    (codec,) = read_tuned(folder, TINY)
    assert codec.start is not None
    assert codec.start.shape == (TINY.tokens, 11)


def entry(**changes: object) -> Callable[[Path], None]:
    base = {"name": "rq4x8x2", "kind": "codebook", "source": "kv", "stages": 2}

    def write(folder: Path) -> None:
        (folder / "codecs.json").write_text(json.dumps({"codecs": [{**base, **changes}]}))

    return write


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (drop_tensor, "is missing"),
        (wrong_width, "do not make a width of 64"),
        (predicting((TINY.tokens, 8)), "has the shape"),
        (predicting((TINY.tokens - 1, 11)), "has the shape"),
        (fewer_predictions, "state"),
        (start_of_a_plain_codec, "does not predict"),
        (entry(kind="zip"), "unknown"),
        (entry(source="air"), "unknown"),
        (entry(name="../x"), "cannot be the name"),
        (entry(name="weights"), "cannot be the name"),
        (lambda folder: (folder / "codecs.json").write_text("[]"), "no JSON object"),
        (lambda folder: (folder / "codecs.json").write_text("{}"), "no list"),
        (lambda folder: (folder / "codecs.json").unlink(), "one is missing"),
    ],
)
def test_damaged_codecs_are_refused(tmp_path: Path, damage: Callable[[Path], None], text: str) -> None:
    folder = checkpoint(tmp_path / "hf")
    damage(folder)
    with pytest.raises(BadInput, match=text):
        read_tuned(folder, TINY)
