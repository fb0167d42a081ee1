"""int8 and int4: symmetric integers with one f16 scale per group of values.

A group's scale is max|x| / 127 (or / 7), rounded UP to an f16, so no value is clipped and the error of an element is at
most scale / 2 (times 1 + 2^-16 for the arithmetic in f32, and values below 2^-40 may become zeros). Payload: all scales
[B, T, W/group], then all integers [B, T, W]; int4 stores two per byte, the first in the high nibble, as q + 8 with q in
-7..7.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from runtime.arrays import F32, U8
from runtime.codec.base import Part, Payload, checked_shape, opened
from runtime.errors import CodecError
from runtime.plan import CodecKind, CodecSpec

# Rounding to f16 takes away at most 2^-11 of a normal number and 2^-25 of a small one: so much is added before it.
_HALF_F16_STEP = np.float32(2.0**-25)
_F16_SMALLEST = np.float32(2.0**-24)
_F16_LIMIT = np.float32(65504.0)
_F16_INFINITY = 0x7C00  # as integers, every smaller f16 pattern is a finite number with a plus sign


class AffineCodec:
    """Training-free integer codes (ASTRA's baseline): a quarter and an eighth of f32."""

    def __init__(self, spec: CodecSpec) -> None:
        self.spec = spec
        self._int4 = spec.kind is CodecKind.INT4
        self._top = np.float32(7.0 if self._int4 else 127.0)
        self._up = np.float32((1 + 1.01 * 2.0**-11) / float(self._top))
        self._groups = spec.width // spec.group

    def encode(self, values: F32, block: int) -> Payload:
        """See `Codec`. The range ends where a scale would exceed f16: 65504 * 127 (int8) or * 7 (int4)."""
        batch, tokens, _ = checked_shape(self.spec, values)
        grouped = values.reshape(batch * tokens, self._groups, self.spec.group)  # f32 [B T, groups, group]
        payload = np.empty(self.spec.payload_bytes(block, tokens, batch), dtype=np.uint8)
        split = 2 * batch * tokens * self._groups
        scales = payload[:split].view("<f2").reshape(batch * tokens, self._groups)
        scales[...] = self._scales(grouped, block)
        inverse = np.float32(1) / np.maximum(scales, _F16_SMALLEST, dtype=np.float32)  # under a scale of 0 all are 0
        scaled = grouped * inverse[..., None]
        body = payload[split:]
        if self._int4:
            nibbles = np.rint(scaled, out=scaled).reshape(-1, 2)
            nibbles += np.float32(8)
            pairs = nibbles.astype(np.uint8)
            np.bitwise_or(pairs[:, 0] << 4, pairs[:, 1], out=body)
        else:
            np.rint(scaled, out=body.view(np.int8).reshape(scaled.shape), casting="unsafe")
        return payload.data

    def check(self, payload: Payload, *, block: int, batch: int, tokens: int) -> None:
        """See `Codec`."""
        self._open(payload, block=block, batch=batch, tokens=tokens)

    def decode(self, parts: Sequence[Part], *, block: int, batch: int) -> F32:
        """See `Codec`."""
        tokens_in_all = sum(tokens for tokens, _ in parts)
        remote = np.empty((batch, tokens_in_all, self._groups, self.spec.group), dtype=np.float32)
        at = 0
        for tokens, payload in parts:
            scales, integers = self._open(payload, block=block, batch=batch, tokens=tokens)
            part = remote[:, at : at + tokens]
            scale = scales.astype(np.float32).reshape(batch, tokens, self._groups, 1)
            np.multiply(integers.reshape(part.shape), scale, out=part)
            at += tokens
        return remote.reshape(batch, tokens_in_all, self.spec.width)

    def _scales(self, grouped: F32, block: int) -> F32:
        """f32 [B T, groups] that round to f16 numbers of at least max|x| / top each; zero stays zero."""
        scales = _largest_magnitudes(grouped)
        scales *= self._up
        scales += _HALF_F16_STEP
        if scales.size and not np.maximum.reduce(scales, axis=None) < _F16_LIMIT:  # so is NaN
            raise CodecError(
                self.spec.name,
                f"the values of block {block} are not finite or too large",
                "verify the model on this board",
            )
        return scales

    def _open(
        self, payload: Payload, *, block: int, batch: int, tokens: int
    ) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.int8]]:
        """Checked scales f16 [B T groups] and integers i8 [B T W]."""
        data = opened(self.spec, payload, block=block, batch=batch, tokens=tokens)
        count = batch * tokens * self._groups
        patterns = data[: 2 * count].view("<u2")
        integers = self._integers(data[2 * count :])
        if count == 0:
            return patterns.view("<f2"), integers
        if np.maximum.reduce(patterns) >= _F16_INFINITY:
            raise CodecError(self.spec.name, "a scale in a payload is negative, infinite or NaN")
        if np.minimum.reduce(integers) < -self._top:
            raise CodecError(self.spec.name, f"an integer in a payload lies below {-int(self._top)}")
        if not np.minimum.reduce(patterns) and integers.reshape(count, self.spec.group)[patterns == 0].any():
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
