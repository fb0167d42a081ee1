"""Products of int8 weights against integers counted by numpy."""

import numpy as np
import pytest

from runtime.settings import SessionSettings
from runtime.stage import Stage
from tools.export.calibration import stage_spec
from tools.export.graph import GraphBuilder, Port
from tools.export.tensor_file import TensorFile
from tools.export.weights import F32, Affine, Storage

INPUTS, OUTPUTS = 24, 10
RNG = np.random.default_rng(6)
AFFINE = Affine(
    weight=RNG.standard_normal((INPUTS, OUTPUTS)).astype(np.float32),
    bias=RNG.standard_normal(OUTPUTS).astype(np.float32),
)


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    folder = tmp_path_factory.mktemp("product")
    store = TensorFile(folder / "weights.bin")
    build = GraphBuilder(store, Storage.INT8)
    build.linear("x", AFFINE, "a", output="y")
    ports = (Port(name=name, dtype="float32", shape=("B", "T", n)) for name, n in (("x", INPUTS), ("y", OUTPUTS)))
    given, result = ports
    graph = build.finish("product", [given], [result])
    store.close()
    graph.write(folder)
    return Stage(folder, stage_spec(graph), SessionSettings(threads=1, prepack=True))


def counted(values: F32) -> F32:
    """One scale per token and one per output, 127 and 63 steps from nothing to the largest value."""
    scale = np.maximum(np.abs(values).max(axis=-1, keepdims=True), np.float32(1e-12)) * np.float32(1 / 127)
    steps = np.abs(AFFINE.weight).max(axis=0) / np.float32(63)
    sums = np.rint(values / scale).astype(np.int64) @ np.rint(AFFINE.weight / steps).astype(np.int64)
    found: F32 = (sums * scale * steps + AFFINE.bias).astype(np.float32)
    return found


def test_sums_are_those_of_the_integers(product: Stage) -> None:
    sizes = np.array([1e-3, 1.0, 500.0], dtype=np.float32)[:, None, None]
    values = RNG.standard_normal((3, 7, INPUTS)).astype(np.float32) * sizes
    np.testing.assert_allclose(product.run(values)[0], counted(values), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tokens", [0, 1])
def test_few_tokens_and_such_as_are_nothing(product: Stage, tokens: int) -> None:
    found = product.run(np.zeros((2, tokens, INPUTS), dtype=np.float32))[0]
    np.testing.assert_allclose(found, np.broadcast_to(AFFINE.bias, (2, tokens, OUTPUTS)))
