"""Patch rows come back bit for bit, photographs shrink, and nothing hostile is unpacked."""

import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from runtime.errors import CodecError
from runtime.packed_rows import pack_rows, unpack_rows


@given(side=st.sampled_from([1, 2, 4, 16]), count=st.integers(1, 5), data=st.data())
def test_rows_come_back(side: int, count: int, data: st.DataObject) -> None:
    size = 3 * side * side
    rows = data.draw(st.binary(min_size=count * size, max_size=count * size))
    assert unpack_rows(pack_rows(rows, size), row_bytes=size, rows=count).tobytes() == rows


def test_a_photograph_shrinks() -> None:
    picture = Image.open(Path("docs/photos/rocket.jpg")).convert("RGB").resize((224, 224))
    grid = np.asarray(picture).reshape(14, 16, 14, 16, 3).transpose(0, 2, 1, 3, 4)
    rows = np.ascontiguousarray(grid).tobytes()
    assert len(pack_rows(rows, 768)) < 0.6 * len(rows)


def deflated(data: bytes) -> bytes:
    press = zlib.compressobj(9, zlib.DEFLATED, -15)
    return press.compress(data) + press.flush()


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\xff" * 40,
        deflated(bytes(47)),
        deflated(bytes(49)),
        deflated(bytes(100_000_000)),  # a bomb of 100 kB
        deflated(bytes(48)) + b"x",
        deflated(bytes(48))[:-1],
    ],
)
def test_anything_else_is_refused(packed: bytes) -> None:
    with pytest.raises(CodecError, match="packed patch rows"):
        unpack_rows(packed, row_bytes=48, rows=1)
