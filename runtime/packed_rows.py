"""Patch rows made smaller without loss, for the way to a board behind a narrow link.

Each pixel less the one to its left (in the first column, above it), green taken from red and blue first, then Huffman
coded (RFC 1951, no matches: photographs have none worth the search). A lossy file of the crop would be smaller,
and not exact.
"""

import math
import zlib

import numpy as np

from runtime.arrays import U8
from runtime.errors import CodecError

_WINDOW_BITS = -15  # raw deflate


def pack_rows(rows: bytes, row_bytes: int) -> bytes:
    """Whole rows of 3 p² bytes (row, column, channel) -> bytes that `unpack_rows` takes; perhaps more than before."""
    pixels = np.frombuffer(rows, dtype=np.uint8).reshape(-1, *_patch(row_bytes)).copy()
    pixels[..., 0] -= pixels[..., 1]
    pixels[..., 2] -= pixels[..., 1]
    left = pixels.copy()
    left[:, :, 1:] -= pixels[:, :, :-1]
    left[:, 1:, 0] -= pixels[:, :-1, 0]
    press = zlib.compressobj(1, zlib.DEFLATED, _WINDOW_BITS, 9, zlib.Z_HUFFMAN_ONLY)
    return press.compress(left.tobytes()) + press.flush()


def unpack_rows(packed: bytes, *, row_bytes: int, rows: int) -> U8:
    """The inverse, u8 [rows, row_bytes]. Never makes more than that of it; raises CodecError for anything else."""
    size, press = rows * row_bytes, zlib.decompressobj(_WINDOW_BITS)
    try:
        data = press.decompress(packed, size + 1)
    except zlib.error as exc:
        raise CodecError("input", "packed patch rows are damaged") from exc
    if len(data) != size or not press.eof or press.unused_data:
        raise CodecError("input", f"packed patch rows are not the {size} bytes that are due")
    left = np.frombuffer(data, dtype=np.uint8).reshape(-1, *_patch(row_bytes)).copy()
    left[:, :, 0] = np.add.accumulate(left[:, :, 0], axis=1, dtype=np.uint8)
    pixels: U8 = np.add.accumulate(left, axis=2, dtype=np.uint8)
    pixels[..., 0] += pixels[..., 1]
    pixels[..., 2] += pixels[..., 1]
    return pixels.reshape(rows, row_bytes)


def _patch(row_bytes: int) -> tuple[int, int, int]:
    side = math.isqrt(row_bytes // 3)
    return side, side, 3
