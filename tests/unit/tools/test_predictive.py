"""Codes that predict from block to block: graphs against numpy, and what prediction is worth."""

from pathlib import Path

import numpy as np
import pytest

from runtime.settings import SessionSettings
from runtime.stage import Stage
from tools.export import predictive
from tools.export.calibration import stage_spec
from tools.export.predictive import Predictive, fit_predictive, share_bits
from tools.export.tensor_file import TensorFile
from tools.export.transform import fit_transform
from tools.export.weights import Affine

RNG = np.random.default_rng(3)
STATE = 8
NORMED = (RNG.standard_normal((3000, 16)) @ RNG.standard_normal((16, 16))).astype(np.float32)
KV = Affine(weight=RNG.standard_normal((16, 32)).astype(np.float32), bias=np.arange(32, dtype=np.float32))
VALUES = NORMED @ KV.weight + KV.bias
KINDS = {"transform": {"bits": 20}, "transform of many bits": {"bits": 130}, "codebook": {"codes": 32}}


def blank(count: int) -> np.ndarray:
    return np.zeros((count, STATE), dtype=np.float32)


def two_blocks(kind: str) -> tuple[Predictive, Predictive, np.ndarray]:
    """Codecs of two blocks, the second of which codes a slightly changed token; the state between them."""
    first = fit_predictive(VALUES, blank(len(VALUES)), **KINDS[kind])
    state = first.after(first.nearest(VALUES, blank(len(VALUES))), blank(len(VALUES)))
    return first, fit_predictive(VALUES, state, **KINDS[kind]), state


@pytest.mark.parametrize("kind", KINDS)
def test_graphs_equal_numpy(tmp_path: Path, kind: str) -> None:
    _, fit, state = two_blocks(kind)
    store = TensorFile(tmp_path / "data.bin")
    graphs = [predictive.encode_graph("e", fit, store, KV), predictive.decode_graph("d", fit, store)]
    store.close()
    for graph in graphs:
        graph.write(tmp_path)
    encode, decode = (Stage(tmp_path, stage_spec(graph), SessionSettings(prepack=True)) for graph in graphs)
    indices, following = encode.run(NORMED[:40].reshape(2, 20, 16), state[:40].reshape(2, 20, STATE))
    wanted = fit.nearest(VALUES[:40], state[:40])
    assert (indices.reshape(40, -1) == wanted).mean() > 0.98  # a value on a threshold may fall to either side
    indices = indices.reshape(40, -1).astype(np.int32)
    np.testing.assert_allclose(following.reshape(40, STATE), fit.after(indices, state[:40]), rtol=1e-3, atol=1e-3)
    values, again = decode.run(indices.reshape(2, 20, -1), state[:40].reshape(2, 20, STATE))
    np.testing.assert_allclose(again, following, atol=1e-5)
    np.testing.assert_allclose(
        values.reshape(40, 32), fit.rebuild(fit.after(indices, state[:40])), rtol=1e-3, atol=1e-2
    )


@pytest.mark.parametrize("kind", ["transform", "codebook"])
def test_the_second_block_gains_from_the_first(kind: str) -> None:
    first, second, state = two_blocks(kind)
    errors = []
    for fit, before in ((first, blank(len(VALUES))), (second, state)):
        rebuilt = fit.rebuild(fit.after(fit.nearest(VALUES, before), before))
        errors.append(float(np.square(rebuilt - VALUES).mean()))
    assert errors[1] < 0.7 * errors[0]


def test_without_a_past_it_is_the_plain_transform() -> None:
    nothing = np.zeros((len(VALUES), 16), dtype=np.float32)
    fit = fit_predictive(VALUES, nothing, bits=20)
    plain = fit_transform(VALUES, 20)
    rebuilt = fit.rebuild(fit.after(fit.nearest(VALUES, nothing), nothing))
    np.testing.assert_allclose(rebuilt, plain.rebuild(plain.nearest(VALUES)), rtol=1e-3, atol=1e-2)


def test_a_codebooks_bits_are_what_its_name_says_on_average() -> None:
    assert share_bits(7, 6) == (8, 7, 7, 7, 7, 6)
    assert share_bits(5, 3) == (5, 5, 5)
    for blocks in (4, 12, 24):
        assert sum(share_bits(7, blocks)) == 7 * blocks
    with pytest.raises(ValueError, match="2 bits per block or more"):
        share_bits(1, 6)
