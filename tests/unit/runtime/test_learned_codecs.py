"""Learned codecs: the nearest code is chosen, and fresh pictures stay near the calibrated error."""

import numpy as np
import pytest

from runtime.arrays import F32
from runtime.codec.base import Codec
from runtime.codec.bitpack import bit_layout, pack
from runtime.model import Model
from runtime.plan import Source, Yields


def block_values(model: Model, source: Source, seed: int) -> F32:
    """What a codec of this source encodes in block 0, of random pictures."""
    rng = np.random.default_rng(seed)
    geometry = model.plan.geometry
    rows = rng.integers(0, 256, (20, geometry.tokens, geometry.row_bytes), dtype=np.uint8)
    x, h, kv = model.embed.run(rows, np.zeros(1, dtype=np.int64))
    of = {Source.INPUT: x, Source.NORMED: h, Source.KV: kv}[source]
    return of[:, 1:].astype(np.float32, copy=False)


def decode_indices(codec: Codec, indices: F32) -> F32:
    """Rows of indices [n, N] -> decoded f32 [n, W']."""
    payload = pack(indices.astype(np.int32), bit_layout(codec.spec.index_bits(0)))
    return codec.decode([(len(indices), payload)], block=0, batch=1)[0]


@pytest.mark.parametrize("name", ["vq4x16", "vq8x20", "astra-g4"])
def test_a_codebook_picks_the_nearest_code_of_every_group(tiny: Model, name: str) -> None:
    codec = tiny.codec(name)
    spec = codec.spec
    values = block_values(tiny, spec.source, seed=11)
    decoded = codec.decode([(values.shape[1], codec.encode(values, 0))], block=0, batch=len(values))
    every_code = np.repeat(np.arange(spec.codes)[:, None], spec.groups, axis=1)
    table = decode_indices(codec, every_code).reshape(spec.codes, spec.groups, -1)  # [K, G, W/G]
    parts = values.reshape(-1, spec.groups, spec.width // spec.groups)
    distances = ((parts[:, None] - table[None]) ** 2).sum(axis=-1)  # [n, K, G]
    chosen = ((parts - decoded.reshape(parts.shape)) ** 2).sum(axis=-1)
    np.testing.assert_allclose(chosen, distances.min(axis=1), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["vq4x16", "vq8x20", "astra-g4"])
def test_what_was_decoded_is_its_own_nearest_code(tiny: Model, name: str) -> None:
    """In whichever metric a codec measures: decoded values are codes already, so coding them again moves nothing."""
    codec = tiny.codec(name)
    values = block_values(tiny, codec.spec.source, seed=12)
    once = codec.decode([(values.shape[1], codec.encode(values, 0))], block=0, batch=len(values))
    twice = codec.decode([(values.shape[1], codec.encode(once, 0))], block=0, batch=len(values))
    np.testing.assert_allclose(twice, once, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["vq4x16", "vq8x20", "astra-g4", "tc24"])
def test_fresh_pictures_stay_near_the_calibrated_error(tiny: Model, name: str) -> None:
    codec = tiny.codec(name)
    values = block_values(tiny, codec.spec.source, seed=13)
    decoded = codec.decode([(values.shape[1], codec.encode(values, 0))], block=0, batch=len(values))
    # A transform reads its components of keys and values off the normed tokens.
    values = block_values(tiny, Source.KV, seed=13) if codec.spec.yields is Yields.KV else values
    deviation = values - values.mean(axis=(0, 1))
    relative = np.sqrt(((decoded - values) ** 2).mean() / (deviation**2).mean())
    assert codec.spec.error.kind == "relative-rms"
    assert relative <= 1.4 * codec.spec.error.value
