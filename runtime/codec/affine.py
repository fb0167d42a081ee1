"""int8 and int4: symmetric integers with one f16 scale per group of values.

A group's scale is max|x| / 127 (or / 7), rounded UP to the next f16, so no value is clipped and the error of an element
is at most scale / 2 (times 1 + 2^-16 for the arithmetic in f32). Payload: all scales [B, T, W/group], then all integers
[B, T, W]; int4 stores two per byte, the first in the high nibble, as q + 8 with q in -7..7.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from runtime.arrays import F32, U8
from runtime.codec.base import Part, Payload, checked_values, opened
from runtime.errors import CodecError
from runtime.plan import CodecKind, CodecSpec

_F16_INFINITY = 0x7C00  # as integers, every smaller f16 pattern is a finite number with a plus sign


class AffineCodec:
    """Training-free integer codes (ASTRA's baseline): a quarter and an eighth of f32."""

    def __init__(self, spec: CodecSpec) -> None:
        self.spec = spec
        self._int4 = spec.kind is CodecKind.INT4
        self._top = np.float32(7.0 if self._int4 else 127.0)
        self._groups = spec.width // spec.group

    def encode(self, values: F32, block: int) -> Payload:
        """See `Codec`. The range ends where a scale would exceed f16: 65504 * 127 (int8) or * 7 (int4)."""
        batch, tokens, _ = checked_values(self.spec, values, block).shape
        grouped = values.reshape(batch * tokens, self._groups, self.spec.group)  # f32 [B T, groups, group]
        scales = self._scales(grouped, block)  # f16 [B T, groups]
        scale = scales.astype(np.float32)
        inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
        scaled = grouped * inverse[..., None]
        np.rint(scaled, out=scaled)
        if self._int4:
            scaled += np.float32(8)
        payload = bytearray(self.spec.payload_bytes(block, tokens, batch))
        payload[: scales.nbytes] = scales.tobytes()
        body = np.frombuffer(payload, dtype=np.uint8, offset=scales.nbytes)
        if self._int4:
            nibbles = scaled.reshape(-1, 2).astype(np.uint8)
            np.bitwise_or(nibbles[:, 0] << 4, nibbles[:, 1], out=body)
        else:
            np.copyto(body.view(np.int8), scaled.reshape(-1), casting="unsafe")
        return payload

    def check(self, payload: Payload, *, block: int, batch: int, tokens: int) -> None:
        """See `Codec`."""
        self._open(payload, block=block, batch=batch, tokens=tokens)

    def decode(self, parts: Sequence[Part], *, block: int, batch: int) -> F32:
        """See `Codec`."""
        remote = np.empty((batch, sum(tokens for tokens, _ in parts), self.spec.width), dtype=np.float32)
        shape = (batch, remote.shape[1], self._groups, self.spec.group)
        at = 0
        for tokens, payload in parts:
            scales, integers = self._open(payload, block=block, batch=batch, tokens=tokens)
            part = remote.reshape(shape)[:, at : at + tokens]
            part[...] = integers.reshape(part.shape)
            part *= scales.astype(np.float32).reshape(*part.shape[:3], 1)
            at += tokens
        return remote

    def _scales(self, grouped: F32, block: int) -> npt.NDArray[np.float16]:
        largest = _largest_magnitudes(grouped)
        wanted = largest / self._top
        if wanted.size and wanted.max() > np.float32(65504.0):
            raise CodecError(self.spec.name, f"the values of block {block} are too large", "choose the codec f32")
        scales = wanted.astype("<f2")
        short = scales < wanted
        scales.view("<u2")[short] += 1  # the next larger f16; never infinity, as 65504 itself is not short
        return scales

    def _open(
        self, payload: Payload, *, block: int, batch: int, tokens: int
    ) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.int8]]:
        """Checked scales f16 [B T groups] and integers i8 [B T W]."""
        data = opened(self.spec, payload, block=block, batch=batch, tokens=tokens)
        count = batch * tokens * self._groups
        patterns = np.frombuffer(data, dtype="<u2", count=count)
        if count and int(patterns.max()) >= _F16_INFINITY:
            raise CodecError(self.spec.name, "a scale in a payload is negative, infinite or NaN")
        integers = self._integers(data[2 * count :])
        if count and int(integers.min()) < -int(self._top):
            raise CodecError(self.spec.name, f"an integer in a payload lies below {-int(self._top)}")
        if count and int(patterns.min()) == 0 and integers.reshape(count, self.spec.group)[patterns == 0].any():
            raise CodecError(self.spec.name, "a payload holds values under a scale of zero")
        return patterns.view("<f2"), integers

    def _integers(self, body: U8) -> npt.NDArray[np.int8]:
        if not self._int4:
            return body.view(np.int8)
        integers = np.empty((body.size, 2), dtype=np.uint8)
        np.right_shift(body, 4, out=integers[:, 0])
        np.bitwise_and(body, 15, out=integers[:, 1])
        return integers.reshape(-1).view(np.int8) - np.int8(8)


def _largest_magnitudes(grouped: F32) -> F32:
    """max|x| over the last axis: f32 [rows, groups, group] -> [rows, groups].

    numpy reduces short inner axes slowly; halving the axis until it is odd is four times as fast for groups of 64.
    """
    magnitudes = np.abs(grouped)
    while magnitudes.shape[-1] % 2 == 0:
        half = magnitudes.shape[-1] // 2
        magnitudes = np.maximum(magnitudes[..., :half], magnitudes[..., half:])
    result: F32 = magnitudes[..., 0] if magnitudes.shape[-1] == 1 else magnitudes.max(axis=-1)
    return result
