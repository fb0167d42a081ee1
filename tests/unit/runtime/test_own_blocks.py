"""Blocks that a transform codec brings along give what decoding first and the model's own blocks give."""

import numpy as np
import pytest

from runtime.model import Model
from runtime.plan import Yields
from runtime.shard import Shard


def classes(model: Model, codec: str, cuts: tuple[int, ...], batch: int, lost_from: int = 9) -> np.ndarray:
    """Class tokens of every board, f32 [boards, B, D]; board 0 is not heard from block `lost_from` on."""
    geometry = model.plan.geometry
    rng = np.random.default_rng(5)
    rows = rng.integers(0, 256, (batch, geometry.tokens, geometry.row_bytes), dtype=np.uint8)
    edges = list(zip((0, *cuts), (*cuts, geometry.tokens), strict=True))
    places = {number: start for number, (start, _) in enumerate(edges)}
    shards = [Shard(model, model.codec(codec), places) for _ in edges]
    for shard, (start, stop) in zip(shards, edges, strict=True):
        shard.embed(np.ascontiguousarray(rows[:, start:stop]), start)
    while not shards[0].done:
        parts = [(stop - start, bytes(s.encode())) for s, (start, stop) in zip(shards, edges, strict=True)]
        for index, shard in enumerate(shards):
            heard = [o for o in range(len(shards)) if o != index and (o or shard.block < lost_from)]
            shard.attend([parts[other] for other in heard], heard)
    return np.stack([shard.cls for shard in shards])


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("cuts", [(), (5,), (2, 9)])
@pytest.mark.parametrize("name", ["tc24", "ptc16", "pvq5", "ptc8x2", "placed12"])
def test_own_blocks_give_what_decoding_first_gives(
    tiny: Model, monkeypatch: pytest.MonkeyPatch, name: str, cuts: tuple[int, ...], batch: int
) -> None:
    codec = tiny.codec(name)
    assert codec.spec.yields is Yields.KV
    assert len(tiny.own_attend(codec)) == tiny.plan.geometry.blocks
    fused = classes(tiny, name, cuts, batch)
    monkeypatch.setattr(Model, "own_attend", lambda *_: ())
    np.testing.assert_allclose(fused, classes(tiny, name, cuts, batch), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("lost_from", [1, 2])
@pytest.mark.parametrize("name", ["ptc16", "pvq5", "ptc8x2", "placed12"])
def test_own_blocks_foretell_a_lost_board_alike(
    tiny: Model, monkeypatch: pytest.MonkeyPatch, name: str, lost_from: int
) -> None:
    fused = classes(tiny, name, (5, 9), 2, lost_from)
    assert not np.allclose(fused[1:], classes(tiny, name, (5, 9), 2)[1:], rtol=1e-3, atol=1e-3)
    monkeypatch.setattr(Model, "own_attend", lambda *_: ())
    np.testing.assert_allclose(fused, classes(tiny, name, (5, 9), 2, lost_from), rtol=1e-4, atol=1e-4)


def test_codecs_without_blocks_of_their_own_use_the_models(tiny: Model) -> None:
    assert tiny.own_attend(tiny.codec("f32")) == ()
