"""Codecs that predict: one request's payloads, block after block, on the sender and on every receiver."""

import numpy as np
import pytest

from runtime.codec.base import Part
from runtime.codec.indexed import IndexedCodec
from runtime.codec.stream import Stream
from runtime.errors import CodecError
from runtime.model import Model
from runtime.shard import Shard

SIZES = {3: 4, 5: 2, 9: 5}  # content tokens by number of the board
PREDICTING = ("ptc16", "pvq5", "ptc8x2", "placed12")
PLACES = {3: 0, 5: 4, 9: 11}  # first tokens, in a picture of 16; ours are those from the sixth to the tenth


def listening(model: Model, name: str) -> Stream:
    """A board's view of the others."""
    return Stream(model.codec(name), 6, PLACES)


def spoken(model: Model, name: str) -> list[dict[int, Part]]:
    """Payloads of three blocks by the number of their board: random values that resemble each other over the blocks."""
    codec = model.codec(name)
    rng = np.random.default_rng(2)
    streams = {number: Stream(codec, PLACES[number]) for number in SIZES}
    tokens = {
        number: rng.standard_normal((2, size, codec.spec.width)).astype(np.float32) for number, size in SIZES.items()
    }
    return [
        {n: (SIZES[n], bytes(streams[n].encode(tokens[n] * np.float32(1 + block / 4), block))) for n in SIZES}
        for block in range(3)
    ]


@pytest.mark.parametrize("places", [PLACES, None])
def test_the_state_starts_from_the_places_of_the_tokens(tiny: Model, places: dict[int, int] | None) -> None:
    codec = tiny.codec("placed12")
    assert isinstance(codec, IndexedCodec)
    rng = np.random.default_rng(2)
    own = rng.standard_normal((2, 5, codec.spec.width)).astype(np.float32)
    stream = Stream(codec, 6, places)
    stream.encode(own, 0)
    parts = spoken(tiny, "placed12")[0]
    where = np.array([0, 1, 2, 3, 4, 5, 11, 12, 13, 14, 15])
    wanted = codec.decode_after([*parts.values()], codec.start(where, 2), block=0, batch=2)[0]
    np.testing.assert_allclose(heard(stream, parts, 0), wanted, atol=1e-5)
    assert np.abs(wanted - codec.decode([*parts.values()], block=0, batch=2)).max() > 0.1


def heard(stream: Stream, parts: dict[int, Part], block: int) -> np.ndarray:
    return stream.decode([*parts.values()], [*parts], block=block, batch=2)


@pytest.mark.parametrize("name", PREDICTING)
def test_boards_together_are_boards_one_by_one(tiny: Model, name: str) -> None:
    together, alone = listening(tiny, name), {number: listening(tiny, name) for number in SIZES}
    for block, parts in enumerate(spoken(tiny, name)):
        singly = [heard(alone[number], {number: part}, block) for number, part in parts.items()]
        np.testing.assert_allclose(heard(together, parts, block), np.concatenate(singly, axis=1), atol=1e-5)


@pytest.mark.parametrize("name", PREDICTING)
def test_blocks_before_matter(tiny: Model, name: str) -> None:
    codec, rounds = tiny.codec(name), spoken(tiny, name)
    stream = listening(tiny, name)
    for block, parts in enumerate(rounds):
        values = heard(stream, parts, block)
    assert isinstance(codec, IndexedCodec)
    assert np.abs(values - codec.decode([*rounds[2].values()], block=2, batch=2)).max() > 0.01


@pytest.mark.parametrize("name", PREDICTING)
@pytest.mark.parametrize("lost", SIZES)
def test_a_lost_board_does_not_change_what_the_others_said(tiny: Model, name: str, lost: int) -> None:
    rounds = spoken(tiny, name)
    whole, without = listening(tiny, name), listening(tiny, name)
    edges = np.cumsum([0, *SIZES.values()])
    place = [*SIZES].index(lost)
    gone = np.arange(edges[place], edges[place + 1])
    for block, parts in enumerate(rounds):
        wanted = heard(whole, parts, block)
        if block:
            parts = {number: part for number, part in parts.items() if number != lost}  # noqa: PLW2901
            wanted = np.delete(wanted, gone, axis=1)
        found = heard(without, parts, block)
        np.testing.assert_allclose(found[:, : wanted.shape[1]], wanted, atol=1e-5)
        assert found.shape[1] == sum(SIZES.values())  # what the lost board said before foretells the rest


@pytest.mark.parametrize("name", PREDICTING)
def test_what_was_said_before_foretells_a_lost_board_better_than_nothing(tiny: Model, name: str) -> None:
    rounds = spoken(tiny, name)
    whole, without, late = (listening(tiny, name) for _ in range(3))
    wanted = [heard(whole, parts, block) for block, parts in enumerate(rounds)]
    heard(without, rounds[0], 0)
    others = {number: rounds[1][number] for number in (3, 5)}
    foretold = heard(without, others, 1)[:, 6:]
    # The mean of all tokens is what a board would guess that had never heard of these.
    unheard = wanted[1].mean(axis=(0, 1))
    assert np.square(foretold - wanted[1][:, 6:]).mean() < np.square(unheard - wanted[1][:, 6:]).mean()
    # Lost before it said anything: its tokens are not there at all.
    assert heard(late, {number: rounds[0][number] for number in (3, 5)}, 0).shape[1] == 6
    assert heard(late, others, 1).shape[1] == 6


@pytest.mark.parametrize("name", PREDICTING)
def test_a_lost_board_is_not_heard_again(tiny: Model, name: str) -> None:
    rounds, stream = spoken(tiny, name), listening(tiny, name)
    heard(stream, rounds[0], 0)
    heard(stream, {number: rounds[1][number] for number in (3, 9)}, 1)
    with pytest.raises(CodecError, match="did not send for the block before"):
        heard(stream, rounds[2], 2)
    assert heard(stream, {number: rounds[2][number] for number in (9, 3)}, 2).shape[1] == 11


@pytest.mark.parametrize("name", PREDICTING)
def test_order_is_that_of_the_parts(tiny: Model, name: str) -> None:
    rounds = spoken(tiny, name)
    straight, turned = listening(tiny, name), listening(tiny, name)
    heard(straight, rounds[0], 0), heard(turned, rounds[0], 0)
    backwards = dict(reversed(rounds[1].items()))
    wanted = np.split(heard(straight, rounds[1], 1), np.cumsum([*SIZES.values()])[:-1], axis=1)
    np.testing.assert_allclose(heard(turned, backwards, 1), np.concatenate(wanted[::-1], axis=1), atol=1e-5)


@pytest.mark.parametrize("name", PREDICTING)
def test_a_board_that_was_not_heard_before_is_refused(tiny: Model, name: str) -> None:
    rounds, stream = spoken(tiny, name), listening(tiny, name)
    few = {3: rounds[0][3], 5: rounds[0][5]}
    heard(stream, few, 0)
    with pytest.raises(CodecError, match="did not send for the block before"):
        heard(stream, rounds[1], 1)
    assert heard(stream, {3: rounds[1][3], 5: rounds[1][5]}, 1).shape[1] == 6  # the stream is as it was
    with pytest.raises(CodecError, match="did not send for the block before"):
        heard(listening(tiny, name), rounds[1], 1)


@pytest.mark.parametrize("name", PREDICTING)
def test_a_refused_payload_leaves_the_stream_as_it_was(tiny: Model, name: str) -> None:
    rounds, stream, other = spoken(tiny, name), listening(tiny, name), listening(tiny, name)
    for each in (stream, other):
        heard(each, rounds[0], 0)
    with pytest.raises(CodecError, match="bytes"):
        heard(stream, {**rounds[1], 5: (2, b"x" * 99)}, 1)
    np.testing.assert_array_equal(heard(stream, rounds[1], 1), heard(other, rounds[1], 1))


def test_nobody_else_is_no_tokens(tiny: Model) -> None:
    stream = Stream(tiny.codec("ptc16"))
    for block in range(3):
        assert stream.decode([], [], block=block, batch=2).shape == (2, 0, 2 * tiny.plan.geometry.width)


def test_codecs_without_a_state_pass_through(tiny: Model) -> None:
    codec = tiny.codec("tc24")
    values = np.random.default_rng(0).standard_normal((1, 4, codec.spec.width)).astype(np.float32)
    stream = Stream(codec)
    payload = stream.encode(values, 1)
    assert bytes(payload) == bytes(codec.encode(values, 1))
    wanted = codec.decode([(4, payload)], block=1, batch=1)
    np.testing.assert_array_equal(stream.decode([(4, payload)], [7], block=1, batch=1), wanted)


def test_silent_blocks_follow_at_once(tiny: Model) -> None:
    codec = tiny.codec("ptc8x2")
    assert [codec.spec.silent(block) for block in range(3)] == [False, True, False]
    assert [codec.spec.bits_per_token(block) for block in range(3)] == [12, 0, 12]
    rng = np.random.default_rng(3)
    rows = rng.integers(0, 256, (2, 16, tiny.plan.geometry.row_bytes), dtype=np.uint8)
    shards = [Shard(tiny, codec) for _ in range(2)]
    for shard, start in zip(shards, (0, 8), strict=True):
        shard.embed(np.ascontiguousarray(rows[:, start : start + 8]), start)
    seen = []
    while not shards[0].done:
        parts = [(8, shard.encode()) for shard in shards]
        seen.append(shards[0].block)
        for shard, part in zip(shards, parts[::-1], strict=True):
            shard.attend([part])
    assert seen == [0, 2]


def test_a_silent_block_takes_no_bytes(tiny: Model) -> None:
    codec = tiny.codec("ptc8x2")
    with pytest.raises(CodecError, match="3 bytes came where 0 are due"):
        codec.check(b"abc", block=1, batch=1, tokens=4)
