"""Boards that share a picture's tokens give the answer of one board, for any number of boards and any split."""

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.arrays import F32, U8
from runtime.errors import CodecError, StageError
from runtime.model import Model
from runtime.shard import Shard

TOKENS = 16


def pictures(model: Model, batch: int, seed: int = 7) -> U8:
    geometry = model.plan.geometry
    size = (batch, geometry.tokens, geometry.row_bytes)
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def divided(model: Model, rows: U8, cuts: list[int], codec: str, *, lost: int | None = None) -> F32:
    """Logits of boards that hold tokens [cuts[i], cuts[i+1]); the payloads of board `lost` never arrive."""
    ranges = list(itertools.pairwise(cuts))
    shards = [Shard(model, model.codec(codec)) for _ in ranges]
    for shard, (start, stop) in zip(shards, ranges, strict=True):
        shard.embed(rows[:, start:stop], start)
    while not shards[0].done:
        # Some boards compute queries while they wait, others leave it to attend.
        for shard in shards[::2]:
            shard.query()
        parts = [(stop - start, shard.encode()) for shard, (start, stop) in zip(shards, ranges, strict=True)]
        for number, shard in enumerate(shards):
            shard.attend([part for other, part in enumerate(parts) if other not in (number, lost)])
    kept = [shard.cls for number, shard in enumerate(shards) if number != lost]
    return model.head(np.mean(kept, axis=0, dtype=np.float32))


def even(boards: int) -> list[int]:
    return [round(i * TOKENS / boards) for i in range(boards + 1)]


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("boards", range(1, 9))
@pytest.mark.parametrize(("codec", "tolerance"), [("f32", 1e-4), ("f32-input", 1e-4), ("f16", 1e-2)])
def test_even_splits_equal_the_undivided_model(
    tiny: Model, boards: int, batch: int, codec: str, tolerance: float
) -> None:
    rows = pictures(tiny, batch)
    np.testing.assert_allclose(divided(tiny, rows, even(boards), codec), tiny.whole(rows), rtol=0, atol=tolerance)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    inner=st.sets(st.integers(1, TOKENS - 1), max_size=7),
    batch=st.sampled_from([1, 8]),
    codec=st.sampled_from([("f32", 1e-4), ("f32-input", 1e-4), ("f16", 1e-2), ("int8", 5e-2)]),
)
def test_any_split_equals_the_undivided_model(
    tiny: Model, inner: set[int], batch: int, codec: tuple[str, float]
) -> None:
    rows = pictures(tiny, batch, seed=len(inner))
    found = divided(tiny, rows, [0, *sorted(inner), TOKENS], codec[0])
    np.testing.assert_allclose(found, tiny.whole(rows), rtol=0, atol=codec[1])


@pytest.mark.parametrize("codec", ["int4", "vq4x16", "vq8x20", "vq8x16-normed", "astra-g4", "tc24"])
def test_coarse_codecs_run_through_all_blocks_for_batches(tiny: Model, codec: str) -> None:
    rows = pictures(tiny, 8)
    together = divided(tiny, rows, [0, 3, 4, 16], codec)
    assert together.shape == (8, 5)
    assert np.isfinite(together).all()
    # A picture's answer does not depend on what else is in the batch.
    np.testing.assert_allclose(divided(tiny, rows[2:3], [0, 3, 4, 16], codec)[0], together[2], atol=2e-2)


def test_better_codecs_come_closer_to_the_undivided_model(tiny: Model) -> None:
    rows = pictures(tiny, 8)
    whole = tiny.whole(rows)
    error = {
        codec: np.abs(divided(tiny, rows, even(4), codec) - whole).max() for codec in ("f32", "f16", "int8", "int4")
    }
    assert error["f32"] <= error["f16"] <= error["int8"] <= error["int4"]


def test_one_board_alone_needs_no_payload_and_a_lost_board_is_left_out(tiny: Model) -> None:
    rows = pictures(tiny, 2)
    np.testing.assert_allclose(divided(tiny, rows, [0, TOKENS], "vq4x16"), tiny.whole(rows), atol=1e-4)
    degraded = divided(tiny, rows, even(4), "f32", lost=2)
    assert np.isfinite(degraded).all()
    assert np.abs(degraded - tiny.whole(rows)).max() > 1e-4


def test_a_hostile_payload_leaves_the_shard_where_it_was(tiny: Model) -> None:
    rows = pictures(tiny, 1)
    mine, other = Shard(tiny, tiny.codec("int8")), Shard(tiny, tiny.codec("int8"))
    mine.embed(rows[:, :8], 0)
    other.embed(rows[:, 8:], 8)
    payload = other.encode()
    for bad in ([(8, payload[:-1])], [(7, payload)], [(9, payload)], [(0, b"")], [(8, payload), (8, payload)]):
        with pytest.raises(CodecError):
            mine.attend(bad)
        assert mine.block == 0
    mine.attend([(8, payload)])
    assert mine.block == 1


def test_calls_out_of_order_and_foreign_rows_are_refused(tiny: Model) -> None:
    rows = pictures(tiny, 1)
    shard = Shard(tiny, tiny.codec("f32"))
    for call in (shard.encode, shard.query, lambda: shard.attend([]), lambda: shard.cls):
        with pytest.raises(StageError):
            call()
    for bad, start in (
        (rows, 1),
        (rows, -1),
        (rows[:, :0], 0),
        (rows[:0], 0),
        (rows[:, :, :-1], 0),
        (rows.astype(np.float32), 0),
        (rows[0], 0),
    ):
        with pytest.raises(StageError, match="embed"):
            shard.embed(bad, start)
    shard.embed(rows, 0)
    while not shard.done:
        shard.attend([])
    assert shard.cls.shape == (1, 32)
    with pytest.raises(StageError):
        shard.attend([])
    shard.embed(rows, 0)  # a shard may serve another request
    assert not shard.done
