"""What every codec owes: exact sizes, shapes, order, its stated error, and a refusal of everything else."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.arrays import F32
from runtime.codec.base import Codec, Part
from runtime.errors import CodecError
from runtime.model import Model
from runtime.plan import Source, Yields
from tests.conftest import CODECS

relaxed = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(params=CODECS)
def codec(request: pytest.FixtureRequest, tiny: Model) -> Codec:
    return tiny.codec(request.param)


def source_values(model: Model, codec: Codec, *, batch: int, tokens: int, block: int = 0, seed: int = 1) -> F32:
    """What a board would encode in `block` for random pictures, f32 [B, T, W]."""
    geometry = model.plan.geometry
    rows = np.random.default_rng(seed).integers(0, 256, (batch, tokens, geometry.row_bytes), dtype=np.uint8)
    x, h, kv = model.embed.run(rows, np.zeros(1, dtype=np.int64))
    remote = np.zeros((batch, 0, 2 * geometry.width), dtype=np.float32)
    for number in range(block):
        x, h, kv = model.attend[number].run(x, model.query[number].run(h)[0], kv, remote)
    return {Source.KV: kv, Source.INPUT: x, Source.NORMED: h}[codec.spec.source][:, 1:]


def decoded_width(model: Model, codec: Codec) -> int:
    return model.plan.geometry.width * (2 if codec.spec.yields is Yields.KV else 1)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("block", [0, 2])
def test_a_payload_has_the_promised_size_and_decodes_to_the_promised_shape(
    tiny: Model, codec: Codec, batch: int, block: int
) -> None:
    values = source_values(tiny, codec, batch=batch, tokens=5, block=block)
    payload = codec.encode(values, block)
    assert len(payload) == codec.spec.payload_bytes(block, 5, batch)
    assert codec.spec.payload_bytes(block, 5, batch) == -(-batch * 5 * codec.spec.bits_per_token(block) // 8)
    codec.check(payload, block=block, batch=batch, tokens=5)
    decoded = codec.decode([(5, payload)], block=block, batch=batch)
    assert decoded.shape == (batch, 5, decoded_width(tiny, codec))
    assert decoded.dtype == np.float32
    assert np.isfinite(decoded).all()


def test_payloads_are_joined_in_the_order_given(tiny: Model, codec: Codec) -> None:
    values = source_values(tiny, codec, batch=2, tokens=9)
    cuts = ((0, 2), (2, 3), (3, 9))
    parts: list[Part] = [(stop - start, codec.encode(values[:, start:stop], 0)) for start, stop in cuts]
    together = codec.decode([(9, codec.encode(values, 0))], block=0, batch=2)
    np.testing.assert_allclose(codec.decode(parts, block=0, batch=2), together, atol=1e-6)


def test_no_payload_decodes_to_no_tokens(tiny: Model, codec: Codec) -> None:
    assert codec.decode([], block=0, batch=2).shape == (2, 0, decoded_width(tiny, codec))


def test_any_buffer_at_any_address_is_accepted(tiny: Model, codec: Codec) -> None:
    payload = bytes(codec.encode(source_values(tiny, codec, batch=1, tokens=4), 0))
    expected = codec.decode([(4, payload)], block=0, batch=1)
    shifted = memoryview(bytearray(b"x" + payload))[1:]
    for same in (bytearray(payload), memoryview(payload), shifted):
        codec.check(same, block=0, batch=1, tokens=4)
        np.testing.assert_array_equal(codec.decode([(4, same)], block=0, batch=1), expected)


def test_a_payload_of_any_other_size_is_refused(tiny: Model, codec: Codec) -> None:
    payload = bytes(codec.encode(source_values(tiny, codec, batch=1, tokens=4), 0))
    for wrong in (b"", payload[:-1], payload + b"\0", payload[: len(payload) // 2], 2 * payload):
        with pytest.raises(CodecError, match="bytes"):
            codec.decode([(4, wrong)], block=0, batch=1)
        with pytest.raises(CodecError, match="bytes"):
            codec.check(wrong, block=0, batch=1, tokens=4)


@relaxed
@given(data=st.data())
def test_random_bytes_are_refused_or_decode_to_finite_values(tiny: Model, codec: Codec, data: st.DataObject) -> None:
    block, tokens = data.draw(st.integers(0, 2)), data.draw(st.integers(1, 3))
    size = codec.spec.payload_bytes(block, tokens, 2)
    payload = data.draw(st.binary(min_size=size, max_size=size))
    try:
        codec.check(payload, block=block, batch=2, tokens=tokens)
    except CodecError:
        with pytest.raises(CodecError):
            codec.decode([(tokens, payload)], block=block, batch=2)
    else:
        assert np.isfinite(codec.decode([(tokens, payload)], block=block, batch=2)).all()


def test_values_that_are_not_finite_or_not_of_the_codecs_shape_are_not_encoded(tiny: Model, codec: Codec) -> None:
    values = source_values(tiny, codec, batch=1, tokens=4).copy()
    with pytest.raises(CodecError, match="shape"):
        codec.encode(values[:, :, :-1], 0)
    with pytest.raises(CodecError, match="shape"):
        codec.encode(values[0], 0)
    for bad in (np.nan, np.inf, -np.inf):
        values[0, 1, 2] = bad
        with pytest.raises(CodecError, match="finite"):
            codec.encode(values, 0)


def test_encoding_leaves_its_input_alone(tiny: Model, codec: Codec) -> None:
    values = source_values(tiny, codec, batch=2, tokens=4)
    before = values.copy()
    codec.encode(values, 0)
    np.testing.assert_array_equal(values, before)
