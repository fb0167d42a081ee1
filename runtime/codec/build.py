"""Which class serves which kind of codec: the place to add one."""

from typing import assert_never

from runtime.codec.affine import AffineCodec
from runtime.codec.base import Codec, Load
from runtime.codec.indexed import IndexedCodec
from runtime.codec.raw import RawCodec
from runtime.plan import CodecKind, CodecSpec


def build(spec: CodecSpec, model_width: int, load: Load) -> Codec:
    """A codec for a model of width `model_width`; `load` opens the verified graphs it may have. Raises StageError."""
    match spec.kind:
        case CodecKind.F32 | CodecKind.F16:
            return RawCodec(spec)
        case CodecKind.INT8 | CodecKind.INT4:
            return AffineCodec(spec)
        case CodecKind.CODEBOOK | CodecKind.TRANSFORM:
            return IndexedCodec(spec, model_width, load)
        case _:
            assert_never(spec.kind)
