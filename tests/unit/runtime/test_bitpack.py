"""Bit streams: any widths come back as they went in, and the bits lie where the format says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.codec.bitpack import bit_layout, pack, unpack

WIDTHS = st.lists(st.integers(1, 16), min_size=1, max_size=20)


def round_trip(widths: tuple[int, ...], rows: int, seed: int) -> None:
    layout = bit_layout(widths)
    rng = np.random.default_rng(seed)
    columns = [rng.integers(0, 1 << width, rows, dtype=np.int32) for width in widths]
    indices = np.stack(columns, axis=1) if rows else np.empty((0, len(widths)), dtype=np.int32)
    packed = pack(indices, layout)
    assert len(packed) == (rows * sum(widths) + 7) // 8
    found = unpack([(np.frombuffer(packed, dtype=np.uint8), rows)], layout)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, indices)


@settings(deadline=None, max_examples=150)
@given(WIDTHS, st.integers(0, 30), st.integers(0, 2**32 - 1))
def test_mixed_widths_come_back(widths: list[int], rows: int, seed: int) -> None:
    round_trip(tuple(widths), rows, seed)


@settings(deadline=None, max_examples=60)
@given(WIDTHS | st.integers(1, 16).map(lambda width: [width] * 3), st.lists(st.integers(0, 9), min_size=1, max_size=4))
def test_several_streams_come_back_one_behind_the_other(widths: list[int], rows: list[int]) -> None:
    layout, rng = bit_layout(tuple(widths)), np.random.default_rng(len(rows))
    most = 1 << np.array(widths)
    boards = [rng.integers(0, most, (count, len(widths)), dtype=np.int32) for count in rows]
    streams = [(np.frombuffer(pack(board, layout), dtype=np.uint8), len(board)) for board in boards]
    np.testing.assert_array_equal(unpack(streams, layout), np.concatenate(boards))


@pytest.mark.parametrize("width", range(1, 17))
def test_equal_widths_come_back(width: int) -> None:
    for count, rows in ((1, 1), (3, 5), (8, 16), (7, 0)):
        round_trip((width,) * count, rows, seed=width)


@settings(deadline=None, max_examples=60)
@given(WIDTHS, st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_bits_stand_most_significant_first_and_rows_follow_without_gaps(
    widths: list[int], rows: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    indices = np.stack([rng.integers(0, 1 << width, rows, dtype=np.int32) for width in widths], axis=1)
    text = "".join(f"{int(index):0{width}b}" for row in indices for index, width in zip(row, widths, strict=True))
    text += "0" * (-len(text) % 8)
    expected = int(text, 2).to_bytes(len(text) // 8, "big")
    assert pack(indices, bit_layout(tuple(widths))) == expected


@pytest.mark.parametrize("width", [8, 16])
def test_whole_byte_widths_use_the_same_format_as_all_others(width: int) -> None:
    indices = np.array([[1, 2**width - 1, 77]], dtype=np.int32)
    expected = b"".join(int(index).to_bytes(width // 8, "big") for index in indices[0])
    assert pack(indices, bit_layout((width,) * 3)) == expected
