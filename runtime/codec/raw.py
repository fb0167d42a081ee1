"""f32 and f16: the values themselves, little-endian.

Error per element: f32 none; f16 at most 2^-11 of the value (2^-25 absolute below 2^-14); beyond 65504 it saturates.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from runtime.arrays import F32
from runtime.codec.base import Part, Payload, check_finite, checked_shape, opened
from runtime.errors import CodecError
from runtime.plan import CodecKind, CodecSpec

_F16_MAX = np.float32(65504.0)
# Magnitude bits, and the first pattern that is NaN or infinity: payloads are judged as integers, no float is touched.
_MAGNITUDE = {2: np.uint16(0x7FFF), 4: np.uint32(0x7FFFFFFF)}
_INFINITY = {2: 0x7C00, 4: 0x7F800000}


class RawCodec:
    """Exact exchange (f32), and half of its bytes (f16)."""

    def __init__(self, spec: CodecSpec) -> None:
        self.spec = spec
        self._dtype = np.dtype("<f2" if spec.kind is CodecKind.F16 else "<f4")

    def encode(self, values: F32, block: int) -> Payload:
        """See `Codec`. f32 of one picture is not copied."""
        checked_shape(self.spec, values)
        check_finite(self.spec, values, block)
        if self._dtype.itemsize == 2:
            return np.clip(values, -_F16_MAX, _F16_MAX).astype(self._dtype).tobytes()
        return np.ascontiguousarray(values, dtype=self._dtype).data.cast("B") if values.size else b""

    def check(self, payload: Payload, *, block: int, batch: int, tokens: int) -> None:
        """See `Codec`."""
        self._open(payload, block=block, batch=batch, tokens=tokens)

    def decode(self, parts: Sequence[Part], *, block: int, batch: int) -> F32:
        """See `Codec`. f32 from a single board is a view of its payload."""
        opened_parts = [self._open(payload, block=block, batch=batch, tokens=tokens) for tokens, payload in parts]
        if len(opened_parts) == 1 and self._dtype.itemsize == 4 and opened_parts[0].flags.aligned:
            return opened_parts[0].astype(np.float32, copy=False)
        remote = np.empty((batch, sum(tokens for tokens, _ in parts), self.spec.width), dtype=np.float32)
        at = 0
        for part in opened_parts:
            remote[:, at : at + part.shape[1]] = part
            at += part.shape[1]
        return remote

    def _open(self, payload: Payload, *, block: int, batch: int, tokens: int) -> npt.NDArray[np.floating]:
        data = opened(self.spec, payload, block=block, batch=batch, tokens=tokens)
        size = self._dtype.itemsize
        unsigned = np.frombuffer(data, dtype=f"<u{size}")
        if unsigned.size and int((unsigned & _MAGNITUDE[size]).max()) >= _INFINITY[size]:
            raise CodecError(self.spec.name, "a payload holds NaN or infinity")
        return unsigned.view(self._dtype).reshape(batch, tokens, self.spec.width)
