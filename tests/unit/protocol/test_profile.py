"""Profiles: straight lines between measured points, and bytes that are believed only when every number is sound."""

import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_cases import COUNTS, times
from protocol_cases import SAMPLES

from peer.errors import BadFrame
from peer.protocol.messages import Profile
from peer.protocol.profile import BoardProfile, alike, line_between, line_through
from peer.protocol.profile_wire import MAX_PROFILE_BYTES, MAX_PROFILED, pack_profile, unpack_profile
from peer.protocol.types import ModelId

TOLD = SAMPLES["profile"]
assert isinstance(TOLD, Profile)
PROFILE = TOLD.profile
SECONDS = st.floats(2**-20, 100.0, width=32)


@settings(deadline=None)
@given(ys=st.lists(SECONDS, min_size=2, max_size=8), between=st.floats(0.0, 1.0))
def test_lines_go_through_what_was_measured_and_never_leave_it_in_between(ys: list[float], between: float) -> None:
    xs = [float(2**i) for i in range(len(ys))]
    for x, y in zip(xs, ys, strict=True):
        assert line_through(xs, ys, x) == pytest.approx(y)
    x = xs[-2] + between * (xs[-1] - xs[-2])
    assert min(ys[-2:]) * (1 - 1e-9) <= line_through(xs, ys, x) <= max(ys[-2:]) * (1 + 1e-9)
    assert line_through(xs, ys, 1e6) >= 0.0


def test_a_board_is_read_off_between_its_points_and_beyond_them() -> None:
    board = times(0.25, fixed=0.2)
    for tokens in (1, 10, 49, 100, 196, 392):
        assert board.at(tokens).query_s == pytest.approx(0.025 * (0.2 + 0.8 * tokens / 196))
    assert board.codec(0) is not None
    assert board.codec(7) is None


@settings(deadline=None)
@given(few_s=SECONDS, many_s=SECONDS)
def test_noise_makes_no_line_that_pays_for_tokens(few_s: float, many_s: float) -> None:
    line = line_between(8, few_s, 64, many_s)
    assert line.fixed_s >= 0
    assert line.token_s >= 0
    assert line.at(64) == pytest.approx(many_s, abs=max(0.0, many_s - few_s) * 64 / 56)
    assert line.at(0) == 0.0


def test_only_what_differs_is_news() -> None:
    one = BoardProfile(rate=1e7, models=(times(0.25),))
    assert alike(one, replace(one, free_bytes=7), 0.1)
    assert alike(one, replace(one, models=(times(0.26),)), 0.1)
    assert not alike(one, replace(one, models=(times(0.3),)), 0.1)
    assert not alike(one, replace(one, rate=None), 0.1)
    assert not alike(one, replace(one, rate=2e7), 0.1)
    assert not alike(one, replace(one, models=()), 0.1)


@settings(deadline=None)
@given(
    rate=st.none() | st.floats(1.0, 1e12),
    free=st.none() | st.integers(1, (1 << 64) - 1),
    blocks=st.lists(SECONDS, max_size=MAX_PROFILED),
)
def test_a_profile_comes_back_as_it_went(rate: float | None, free: int | None, blocks: list[float]) -> None:
    models = tuple(replace(times(block_s), model=ModelId(f"{i:064x}")) for i, block_s in enumerate(blocks))
    blob = pack_profile(BoardProfile(rate=rate, free_bytes=free, models=models))
    assert len(blob) <= MAX_PROFILE_BYTES
    back = unpack_profile(blob)
    assert (back.rate, back.free_bytes) == (rate, free)
    assert [m.model for m in back.models] == [m.model for m in models]
    assert [p.tokens for m in back.models for p in m.points] == list(COUNTS) * len(models)
    assert pack_profile(back) == blob


@settings(deadline=None)
@given(cut=st.integers(0, 10_000))
def test_a_piece_of_a_profile_is_none(cut: int) -> None:
    blob = pack_profile(PROFILE)
    with pytest.raises(BadFrame):
        unpack_profile(blob[: cut % len(blob)])
    with pytest.raises(BadFrame):
        unpack_profile(blob + b"\0" * (1 + cut % 7))


@settings(deadline=None)
@given(at=st.integers(0, 10_000), bits=st.integers(1, 255))
def test_damaged_bytes_are_a_profile_or_a_bad_frame(at: int, bits: int) -> None:
    blob = bytearray(pack_profile(PROFILE))
    blob[at % len(blob)] ^= bits
    try:
        back = unpack_profile(bytes(blob))
    except BadFrame:
        return
    assert all(0 <= point.attend_s <= 3600 for model in back.models for point in model.points)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 3601.0])
def test_times_out_of_range_are_refused(value: float) -> None:
    blob = pack_profile(PROFILE)
    wanted = struct.pack(">f", PROFILE.models[0].points[1].attend_s)
    assert blob.count(wanted) == 1
    with pytest.raises(BadFrame, match="out of range"):
        unpack_profile(blob.replace(wanted, struct.pack(">f", value)))


def test_what_takes_no_time_ascends_not_or_stands_twice_is_refused() -> None:
    (model,) = PROFILE.models
    first, second = model.points
    lazy = replace(first, query_s=0.0, attend_s=0.0)
    for points in ((second, first), (first, first), (lazy, second)):
        with pytest.raises(BadFrame):
            unpack_profile(pack_profile(BoardProfile(models=(replace(model, points=points),))))
    for models in ((model, model), (replace(model, whole_s=0.0),), (replace(model, codecs=model.codecs * 2),)):
        with pytest.raises(BadFrame):
            unpack_profile(pack_profile(BoardProfile(models=models)))
    with pytest.raises(BadFrame, match="version 2"):
        unpack_profile(b"\2" + pack_profile(PROFILE)[1:])
