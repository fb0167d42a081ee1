"""Indices of 1 to 16 bits <-> a stream of bits, most significant bit first, padded with zeros only at its very end.

A row is one token's indices; every row has the same widths. Widths of 8 and 16 bits throughout are plain casts; all
others go through numpy's packbits, which works on whole rows at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from runtime.arrays import I32, U8

_CELL = 16  # bits of the intermediate integers: the widest index


@dataclass(frozen=True, slots=True, kw_only=True)
class BitLayout:
    """Widths of a row's indices, and where their bits stand in a row of 16-bit cells."""

    widths: tuple[int, ...]
    row_bits: int
    uniform: int  # the width if all are equal, else 0
    columns: npt.NDArray[np.intp]  # [row_bits]: cell bit that each stream bit comes from
    place: I32  # [uniform]: value of each bit of an index; empty unless uniform


def bit_layout(widths: tuple[int, ...]) -> BitLayout:
    """Prepare `pack` and `unpack` for rows of these widths, each 1..16."""
    uniform = widths[0] if len(set(widths)) == 1 else 0
    cells = [np.arange(_CELL * (i + 1) - width, _CELL * (i + 1)) for i, width in enumerate(widths)]
    return BitLayout(
        widths=widths,
        row_bits=sum(widths),
        uniform=uniform,
        columns=np.concatenate(cells).astype(np.intp),
        place=(1 << np.arange(uniform - 1, -1, -1)).astype(np.int32),
    )


def pack(indices: I32, layout: BitLayout) -> bytes:
    """i32 [rows, N] -> ceil(rows * row_bits / 8) bytes. Bits above an index's width are dropped."""
    if layout.uniform == 8:
        return indices.astype(np.uint8).tobytes()
    cells = indices.astype(">u2")
    if layout.uniform == _CELL:
        return cells.tobytes()
    bits = np.unpackbits(cells.view(np.uint8), axis=1)  # u8 [rows, 16 N]
    return np.packbits(bits.take(layout.columns, axis=1)).tobytes()


def unpack(streams: Sequence[tuple[U8, int]], layout: BitLayout) -> I32:
    """The inverse of `pack` for several streams (u8 [ceil(rows * row_bits / 8)], rows) -> i32 [all rows, N].

    All at once: a call to numpy costs more than the few hundred indices that a board sends.
    """
    count, rows = len(layout.widths), sum(each for _, each in streams)
    if layout.uniform in (8, _CELL):
        data = np.concatenate([data for data, _ in streams])
        return data.view(np.uint8 if layout.uniform == 8 else ">u2").reshape(rows, count).astype(np.int32)
    parts = [np.unpackbits(data, count=each * layout.row_bits) for data, each in streams]
    bits = parts[0] if len(parts) == 1 else np.concatenate(parts)
    if layout.uniform:
        # A product with the bits' place values, in integers: in f32, faster for thousands of indices, BLAS was seen to
        # warn of invalid values where there are none.
        values: I32 = bits.reshape(rows * count, layout.uniform).astype(np.int32) @ layout.place
        return values.reshape(rows, count)
    cells = np.zeros((rows, _CELL * count), dtype=np.uint8)
    cells[:, layout.columns] = bits.reshape(rows, layout.row_bits)
    return np.packbits(cells, axis=1).view(">u2").astype(np.int32)
