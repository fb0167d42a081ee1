"""Codec graphs against numpy, and what a model folder says about its codecs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from runtime.integrity import open_model
from runtime.plan import DType, StageSpec, TensorSpec
from runtime.settings import SessionSettings
from runtime.stage import Stage
from tools.export import codebook, transform
from tools.export.calibration import Calibration
from tools.export.codebook_fit import balanced_rotation, fit_codebook
from tools.export.codecs import parse_name
from tools.export.graph import Graph
from tools.export.random_vit import TINY, random_tensors
from tools.export.tensor_file import TensorFile
from tools.export.vit import export_model
from tools.export.weights import Affine

WIDTH = 16
RNG = np.random.default_rng(9)
MIXING = RNG.standard_normal((WIDTH, WIDTH)).astype(np.float32)
VALUES = (
    RNG.standard_normal((3000, WIDTH)).astype(np.float32) * np.linspace(2, 0.1, WIDTH, dtype=np.float32)
) @ MIXING + 1
BATCH = VALUES[:24].reshape(2, 12, WIDTH)


@pytest.fixture
def load(tmp_path: Path) -> Callable[[Callable[[TensorFile], Graph]], Stage]:
    """Write a graph with its own external data, and load it."""

    def write_and_load(make: Callable[[TensorFile], Graph]) -> Stage:
        store = TensorFile(tmp_path / "data.bin")
        graph = make(store)
        store.close()
        graph.write(tmp_path)
        ports = [
            tuple(TensorSpec(name=port.name, dtype=DType(port.dtype), shape=port.shape) for port in side)
            for side in (graph.inputs, graph.outputs)
        ]
        spec = StageSpec(name=graph.name, file=graph.file, inputs=ports[0], outputs=ports[1])
        return Stage(tmp_path, spec, SessionSettings(prepack=True))

    return write_and_load


@pytest.mark.parametrize(("groups", "codes"), [(1, 64), (4, 16), (16, 3)])
def test_codebook_graphs_equal_numpy(load: Callable[..., Stage], groups: int, codes: int) -> None:
    book = fit_codebook(VALUES, groups=groups, codes=codes, seed=1)
    (indices,) = load(lambda store: codebook.encode_graph("e", book, store)).run(BATCH)
    flat = indices.reshape(24, groups)
    np.testing.assert_array_equal(flat, book.nearest(VALUES[:24]))
    (values,) = load(lambda store: codebook.decode_graph("d", book, store)).run(indices)
    np.testing.assert_array_equal(values.reshape(24, WIDTH), book.rebuild(flat))


def test_tables_equal_projected_codes(load: Callable[..., Stage]) -> None:
    book = fit_codebook(VALUES, groups=4, codes=16, seed=1)
    kv = Affine(weight=RNG.standard_normal((WIDTH, 10)).astype(np.float32), bias=np.arange(10, dtype=np.float32))
    indices = book.nearest(VALUES[:24])
    (values,) = load(lambda store: codebook.table_decode_graph("d", book, kv, store)).run(indices[None])
    # Tables are stored as f16: relative error 2^-11 per group.
    np.testing.assert_allclose(values[0], book.rebuild(indices) @ kv.weight + kv.bias, atol=0.02)


@pytest.mark.parametrize("bits", [1, 9, 40, 64])
def test_transform_graphs_equal_numpy(load: Callable[..., Stage], bits: int) -> None:
    fit = transform.fit_transform(VALUES, bits)
    assert sum(fit.bits) == bits
    (indices,) = load(lambda store: transform.encode_graph("e", fit, store)).run(BATCH)
    flat = indices.reshape(24, -1)
    wanted = fit.nearest(VALUES[:24])
    assert (flat >= 0).all()
    assert (flat < 1 << np.array(fit.bits)).all()
    assert (flat == wanted).mean() > 0.99  # a value on a threshold may fall to either side
    (values,) = load(lambda store: transform.decode_graph("d", fit, store)).run(indices)
    np.testing.assert_allclose(values.reshape(24, WIDTH), fit.rebuild(flat), atol=1e-4)


def test_rotation_is_orthonormal_and_shares_the_variance_out() -> None:
    rotation = balanced_rotation(VALUES, 4)
    np.testing.assert_allclose(rotation.basis.T @ rotation.basis, np.eye(WIDTH), atol=1e-5)
    components = np.square((VALUES - rotation.mean) @ rotation.basis).mean(axis=0).reshape(4, -1)
    in_order = np.sort(components.ravel())[::-1].reshape(4, -1)
    spreads = [np.ptp(np.log(shares).sum(axis=1)) for shares in (components, in_order)]
    assert spreads[0] < 0.3 * spreads[1]


def test_rotated_and_residual_codebooks_err_less_than_plain_ones() -> None:
    errors = {
        name: float(np.square(book.rebuild(book.nearest(VALUES)) - VALUES).mean())
        for name, book in {
            "plain": fit_codebook(VALUES, groups=4, codes=16, seed=1),
            "rotated": fit_codebook(VALUES, groups=4, codes=16, seed=1, rotated=True),
            "residual": fit_codebook(VALUES, groups=4, codes=16, seed=1, stages=2),
        }.items()
    }
    assert errors["rotated"] < errors["plain"]
    assert errors["residual"] < errors["plain"]


def test_more_bits_less_error() -> None:
    errors = []
    for bits in (4, 16, 32, 64):
        fit = transform.fit_transform(VALUES, bits)
        errors.append(float(np.square(fit.rebuild(fit.nearest(VALUES)) - VALUES).mean()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.02 * VALUES.var()


def test_lloyd_finds_the_known_optimum_of_a_normal_variable() -> None:
    rising = np.sort(np.random.default_rng(3).standard_normal(200_000).astype(np.float32))
    levels, error = transform.lloyd(rising, 2)
    # Max (1960): levels ±0.4528, ±1.510, distortion 0.1175.
    np.testing.assert_allclose(levels, [-1.510, -0.4528, 0.4528, 1.510], atol=0.02)
    assert error == pytest.approx(0.1175, abs=0.002)


def test_model_folder_lists_every_codec(tmp_path: Path) -> None:
    names = (
        "f32",
        "f16",
        "int8",
        "int4",
        "f32-input",
        "tc20",
        "vq4x16",
        "vq2x16-normed",
        "astra-g2",
        "tc9-normed",
        "oq2x4",
        "rq2x4x3-input",
    )
    rows = RNG.integers(0, 256, (20, TINY.tokens, TINY.row_bytes), dtype=np.uint8)
    out = export_model(
        random_tensors(TINY, seed=1),
        TINY,
        name="tiny",
        labels=list("abcde"),
        out=tmp_path / "tiny",
        codecs=names,
        default_codec="tc20",
        calibration=Calibration(rows=rows),
    )
    plan = open_model(out)
    assert tuple(codec.name for codec in plan.codecs) == names
    by_name = {codec.name: codec for codec in plan.codecs}
    assert [by_name["tc20"].bits_per_token(block) for block in range(TINY.blocks)] == [20] * TINY.blocks
    assert by_name["vq4x16"].bits_per_token(0) == 16
    assert by_name["rq2x4x3-input"].bits_per_token(0) == 12
    assert by_name["rq2x4x3-input"].yields.value == "input"
    assert by_name["tc9-normed"].yields.value == "kv"
    assert by_name["f32-input"].bits_per_token(0) == 32 * TINY.width


def test_learned_codec_needs_calibration(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tc20"):
        export_model(
            random_tensors(TINY, seed=1),
            TINY,
            name="tiny",
            labels=list("abcde"),
            out=tmp_path / "tiny",
            codecs=("f32", "tc20"),
        )


@pytest.mark.parametrize("name", ["tc", "vq8", "vq8x", "vq8x1", "rq2x8", "tc0", "astra-8", "F32", ""])
def test_other_names_are_no_codecs(name: str) -> None:
    with pytest.raises(ValueError, match="is no codec"):
        parse_name(name)
