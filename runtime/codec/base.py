"""What every codec does, and the parts of it that all codecs share.

A payload holds the content tokens of one board for one block and all pictures of a batch, in [B, T, ...] order. Its
size follows from (codec, block, tokens, batch) alone (`CodecSpec.payload_bytes`): it has no header and cannot lie about
its length. Payloads are hostile: `decode` checks them wholly before any arithmetic or graph sees a value.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import numpy as np

from runtime.arrays import F32, U8, Array
from runtime.errors import CodecError
from runtime.plan import CodecSpec, StageSpec

Payload: TypeAlias = bytes | bytearray | memoryview
Part: TypeAlias = tuple[int, Payload]  # content tokens, payload


class Codec(Protocol):
    """Encodes and decodes for one model. Thread-compatible: one thread at a time."""

    @property
    def spec(self) -> CodecSpec:
        """What the manifest says about this codec."""

    def encode(self, values: F32, block: int) -> Payload:
        """`values` f32 [B, T, W] of `block` -> payload. It may be a view of `values`: do not change them later.

        Raises CodecError for NaN, infinity, or values beyond the codec's range.
        """

    def check(self, payload: Payload, *, block: int, batch: int, tokens: int) -> None:
        """Raise CodecError unless `decode` would accept this payload."""

    def decode(self, parts: Sequence[Part], *, block: int, batch: int) -> F32:
        """Payloads of other boards -> f32 [B, R, W'], their tokens in the order given; R may be 0.

        W' is 2D if the codec yields keys and values, D if it yields block inputs. Raises CodecError.
        """


class Graph(Protocol):
    """A loaded graph, as codecs see it (`runtime.stage.Stage`)."""

    def run(self, *inputs: Array) -> list[Array]:
        """Run on `inputs` in their declared order."""


Load: TypeAlias = Callable[[StageSpec], Graph]


def opened(spec: CodecSpec, payload: Payload, *, block: int, batch: int, tokens: int) -> U8:
    """The payload's bytes as u8 [n], once their number is right and padding bits are zero. Raises CodecError."""
    size = payload.nbytes if isinstance(payload, memoryview) else len(payload)
    bits = batch * tokens * spec.bits_per_token(block)
    if size != (bits + 7) // 8:
        raise CodecError(spec.name, f"a payload of {size} bytes came where {(bits + 7) // 8} are due")
    data = np.frombuffer(payload, dtype=np.uint8)
    if bits % 8 and int(data[-1]) & ((1 << (8 - bits % 8)) - 1):
        raise CodecError(spec.name, "the padding at the end of a payload is not zero")
    return data


def checked_shape(spec: CodecSpec, values: F32) -> tuple[int, int, int]:
    """[B, T, W] of `values` if they are f32 of the codec's width. Raises CodecError."""
    if values.ndim != 3 or values.shape[2] != spec.width or values.dtype != np.float32:
        raise CodecError(spec.name, f"cannot encode {values.dtype.name} values of shape {values.shape}")
    return values.shape


def check_finite(spec: CodecSpec, values: F32, block: int) -> None:
    """Raise CodecError for NaN and infinity: what this board must not send, as every other board would refuse it."""
    if not np.isfinite(np.add.reduce(values, axis=None, dtype=np.float32)):  # NaN and infinity survive every sum
        raise CodecError(spec.name, f"the values of block {block} are not finite", "verify the model on this board")
