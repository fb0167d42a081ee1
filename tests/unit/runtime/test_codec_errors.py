"""How far each codec may be off, and the payloads each one must refuse."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.arrays import F32
from runtime.codec.affine import AffineCodec
from runtime.codec.base import Codec, opened
from runtime.codec.raw import RawCodec
from runtime.errors import CodecError
from runtime.model import Model
from runtime.plan import CodecKind, CodecSpec, ErrorBound, Source, Yields

WIDTH = 12


def fixed_codec(kind: CodecKind, group: int = 0) -> Codec:
    spec = CodecSpec(
        name=kind.value,
        kind=kind,
        source=Source.KV,
        yields=Yields.KV,
        width=WIDTH,
        group=group,
        error=ErrorBound(kind="exact", value=0.0),
    )
    return AffineCodec(spec) if group else RawCodec(spec)


def values(seed: int, exponent: int) -> F32:
    """f32 [2, 3, WIDTH] whose groups differ by orders of magnitude."""
    rng = np.random.default_rng(seed)
    spread = 10.0 ** rng.integers(-4, 2, (2, 3, WIDTH // 4)).repeat(4, axis=2)
    return (rng.standard_normal((2, 3, WIDTH)) * spread * 2.0**exponent).astype(np.float32)


def there_and_back(codec: Codec, array: F32) -> F32:
    return codec.decode([(array.shape[1], codec.encode(array, 0))], block=0, batch=array.shape[0])


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(-40, 10), st.sampled_from([1, 2, 3, 4, 6, 12]), st.booleans())
def test_integer_codes_are_off_by_half_a_scale_at_most(seed: int, exponent: int, group: int, four_bits: bool) -> None:
    codec = fixed_codec(CodecKind.INT4 if four_bits else CodecKind.INT8, group)
    array = values(seed, exponent)
    payload = bytes(codec.encode(array, 0))
    count = array.size // group
    scales = np.frombuffer(payload, dtype="<f2", count=count).astype(np.float32)
    largest = np.abs(array).reshape(count, group).max(axis=1)
    assert (scales * np.float32(7 if four_bits else 127) >= largest * np.float32(1 - 2**-22) - np.float32(2**-39)).all()
    decoded = codec.decode([(3, payload)], block=0, batch=2)
    error = np.abs(decoded - array).reshape(count, group)
    assert (error <= (scales * np.float32(0.5 * (1 + 2**-16)) + np.float32(2**-40))[:, None]).all()


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(-30, 30))
def test_half_floats_are_off_by_their_rounding_and_saturate(seed: int, exponent: int) -> None:
    array = values(seed, exponent)
    kept = np.clip(array, -65504, 65504)
    error = np.abs(there_and_back(fixed_codec(CodecKind.F16), array) - kept)
    assert (error <= np.maximum(np.abs(kept) * 2.0**-11, 2.0**-25)).all()


def test_full_floats_are_exact_and_a_single_picture_is_not_copied() -> None:
    codec = fixed_codec(CodecKind.F32)
    array = values(1, 0)
    np.testing.assert_array_equal(there_and_back(codec, array), array)
    one = array[:1]
    payload = codec.encode(one, 0)
    assert isinstance(payload, memoryview)
    assert np.shares_memory(np.frombuffer(payload, dtype=np.uint8), one)


def test_zeros_stay_zeros_and_values_beyond_the_range_are_not_encoded() -> None:
    for kind in (CodecKind.INT8, CodecKind.INT4):
        codec = fixed_codec(kind, 4)
        assert not there_and_back(codec, np.zeros((1, 2, WIDTH), dtype=np.float32)).any()
        with pytest.raises(CodecError, match="too large"):
            codec.encode(np.full((1, 2, WIDTH), 1e30, dtype=np.float32), 0)


@pytest.mark.parametrize("pattern", [0x7C00, 0x7E01, 0xFC00, 0x8000, 0xBC00], ids=["inf", "nan", "-inf", "-0", "-1"])
@pytest.mark.parametrize("kind", [CodecKind.INT8, CodecKind.INT4])
def test_a_scale_that_is_no_finite_positive_number_is_refused(kind: CodecKind, pattern: int) -> None:
    codec = fixed_codec(kind, 4)
    payload = bytearray(codec.encode(values(2, 0), 0))
    payload[2:4] = pattern.to_bytes(2, "little")
    with pytest.raises(CodecError, match="scale"):
        codec.decode([(3, payload)], block=0, batch=2)


@pytest.mark.parametrize("kind", [CodecKind.INT8, CodecKind.INT4])
def test_values_under_a_scale_of_zero_and_the_unused_lowest_integer_are_refused(kind: CodecKind) -> None:
    codec = fixed_codec(kind, 4)
    payload = bytearray(codec.encode(values(2, 0), 0))
    payload[0:2] = b"\0\0"
    with pytest.raises(CodecError, match="scale of zero"):
        codec.decode([(3, payload)], block=0, batch=2)
    payload = bytearray(codec.encode(values(2, 0), 0))
    payload[-1] = 0x80 if kind is CodecKind.INT8 else 0x00
    with pytest.raises(CodecError, match="below"):
        codec.check(payload, block=0, batch=2, tokens=3)


@pytest.mark.parametrize("pattern", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("kind", "dtype"), [(CodecKind.F16, "<f2"), (CodecKind.F32, "<f4")])
def test_a_float_that_is_not_finite_is_refused(kind: CodecKind, dtype: str, pattern: float) -> None:
    codec = fixed_codec(kind)
    array = values(3, 0).astype(dtype)
    array[1, 2, -1] = pattern
    with pytest.raises(CodecError, match="NaN or infinity"):
        codec.decode([(3, array.tobytes())], block=0, batch=2)


def test_an_index_beyond_the_codebook_is_refused(tiny: Model) -> None:
    codec = tiny.codec("vq8x20")  # 20 codes in 5 bits, 40 bits per token
    payload = bytearray(codec.spec.payload_bytes(0, 3, 1))
    codec.check(payload, block=0, batch=1, tokens=3)
    payload[0] = 20 << 3
    with pytest.raises(CodecError, match="20"):
        codec.decode([(3, payload)], block=0, batch=1)


def test_padding_bits_of_a_codebook_payload_are_refused() -> None:
    spec = CodecSpec(
        name="vq",
        kind=CodecKind.CODEBOOK,
        source=Source.KV,
        yields=Yields.KV,
        width=WIDTH,
        groups=3,
        codes=8,
        error=ErrorBound(kind="relative-rms", value=0.1),
    )
    assert spec.payload_bytes(0, 1, 1) == 2  # 9 bits
    opened(spec, b"\xff\x80", block=0, batch=1, tokens=1)
    with pytest.raises(CodecError, match="padding"):
        opened(spec, b"\xff\xc0", block=0, batch=1, tokens=1)
