"""Messages <-> bytes: the bytes of protocol version 1 are pinned, other versions are listed or refused by name."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol_cases import SAMPLES

from peer.errors import BadFrame, FrameTooLarge, UnknownVersion
from peer.protocol import wire
from peer.protocol.messages import Assign, Codes, Failed, Feature, Hello, Message, Stranger
from peer.protocol.readers import MAX_MODELS, Kind
from peer.protocol.types import (
    MAX_BATCH,
    MAX_BOARDS,
    MAX_BODY_BYTES,
    Epoch,
    Exchange,
    FailureReason,
    InputKind,
    ModelId,
    PeerId,
    RequestId,
    Shard,
    Timing,
    TokenRange,
    Traffic,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "wire_v1.json"
U16, U32, U64 = (1 << 16) - 1, (1 << 32) - 1, (1 << 64) - 1


def test_the_bytes_of_version_1_do_not_change() -> None:
    golden = json.loads(GOLDEN.read_text(encoding="ascii"))
    assert {name: [frame.hex() for frame in wire.encode(message)] for name, message in SAMPLES.items()} == golden


@pytest.mark.parametrize("name", SAMPLES)
def test_pinned_bytes_decode_to_the_message(name: str) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="ascii"))
    assert wire.decode([bytes.fromhex(frame) for frame in golden[name]]) == SAMPLES[name]


def test_every_kind_is_pinned() -> None:
    kinds = {wire.encode(message)[0][2] for message in SAMPLES.values()}
    # From FETCH on they travel on a port of their own, with a reader of their own.
    assert kinds == {int(kind) for kind in Kind if kind < Kind.FETCH}


@pytest.mark.parametrize("size", [0, 1, 255, 256, wire.INLINE_BYTES, wire.INLINE_BYTES + 1, 1 << 20])
@pytest.mark.parametrize("name", ["assign", "codes", "feature"])
def test_bodies_of_any_size_travel(name: str, size: int) -> None:
    message = SAMPLES[name]
    assert isinstance(message, Assign | Codes | Feature)
    message = replace(message, body=bytes(size))
    frames = wire.encode(message)
    assert len(frames) == (1 if size <= wire.INLINE_BYTES else 2)
    assert wire.decode(frames) == message


@pytest.mark.parametrize("size", [0, 1, 31, 32, 255, 256, 32 * 1024, 32 * 1024 + 1, 65_535, 65_536, 1 << 20])
@pytest.mark.parametrize("value", [0, 1])
def test_a_code_message_costs_at_most_64_bytes_more_than_its_codes(size: int, value: int) -> None:
    message = Codes(
        request=RequestId(value * U64),
        attempt=value * 255,
        epoch=Epoch(value * U32),
        block=value * U16,
        origin=value * (MAX_BOARDS - 1),
        body=bytes(size),
    )
    frames = wire.encode(message)
    assert sum(len(frame) for frame in frames) - size <= 64
    assert wire.decode(frames) == message


@settings(deadline=None, max_examples=200)
@given(
    request=st.integers(0, U64),
    attempt=st.integers(0, 255),
    epoch=st.integers(0, U32),
    block=st.integers(0, U16),
    origin=st.integers(0, MAX_BOARDS - 1),
    body=st.binary(max_size=600),
)
def test_codes_round_trip(*, request: int, attempt: int, epoch: int, block: int, origin: int, body: bytes) -> None:
    message = Codes(
        request=RequestId(request), attempt=attempt, epoch=Epoch(epoch), block=block, origin=origin, body=body
    )
    assert wire.decode(wire.encode(message)) == message
    assert sum(map(len, wire.encode(message))) <= len(body) + 64


@settings(deadline=None, max_examples=100)
@given(detail=st.text(max_size=700))
def test_whatever_a_failure_says_its_report_arrives(detail: str) -> None:
    failed = SAMPLES["failed"]
    assert isinstance(failed, Failed)
    arrived = wire.decode(wire.encode(replace(failed, detail=detail)))
    assert arrived == replace(failed, detail=arrived.detail)  # type: ignore[union-attr]


@pytest.mark.parametrize("detail", ["two\nlines", "\x00\x1b[31m", "é" * 600, "\U0001f600" * 600, "\ud800 lone", ""])
def test_odd_texts_are_made_readable(detail: str) -> None:
    failed = SAMPLES["failed"]
    assert isinstance(failed, Failed)
    arrived = wire.decode(wire.encode(replace(failed, detail=detail)))
    assert isinstance(arrived, Failed)
    assert arrived.detail.isprintable()
    assert len(arrived.detail.encode()) <= 512
    assert arrived.detail[:1] == detail[:1].replace("\x00", " ").replace("\ud800", " ")


def test_more_models_than_a_hello_holds_do_not_silence_a_board() -> None:
    hello = SAMPLES["hello"]
    assert isinstance(hello, Hello)
    many = replace(hello, models=tuple(ModelId(f"{i:064x}") for i in range(MAX_MODELS + 9)))
    arrived = wire.decode(wire.encode(many))
    assert isinstance(arrived, Hello)
    assert arrived.models == many.models[:MAX_MODELS]


def test_the_largest_assignment_fits() -> None:
    shards = tuple(
        Shard(peer=PeerId(f"{i + 1:016x}"), tokens=TokenRange(start=i, stop=i + 1)) for i in range(MAX_BOARDS)
    )
    message = Assign(
        request=RequestId(U64),
        attempt=255,
        epoch=Epoch(U32),
        model=ModelId("ff" * 32),
        codec="c" * 64,
        exchange=Exchange.RING,
        batch=MAX_BATCH,
        coordinator=MAX_BOARDS - 1,
        shards=shards,
        deadline_ms=U32,
        round_ms=5_000,
        degrade_ms=0,
        degrade_from=6,
        input_kind=InputKind.FILE,
        body=bytes(wire.INLINE_BYTES),
    )
    assert wire.decode(wire.encode(message)) == message


def test_the_largest_reports_fit() -> None:
    failed = SAMPLES["failed"]
    feature = SAMPLES["feature"]
    assert isinstance(failed, Failed)
    assert isinstance(feature, Feature)
    messages: list[Message] = [
        replace(failed, missing=tuple(range(MAX_BOARDS)), reason=FailureReason.BAD_PAYLOAD, detail="d" * 512),
        replace(
            feature,
            lost=tuple(range(MAX_BOARDS)),
            timing=Timing(prepare_us=U32, compute_us=U32, encode_us=U32, decode_us=U32, wait_us=U32),
            traffic=Traffic(payload_bytes=U64, wire_bytes=U64, messages=U32),
        ),
    ]
    for message in messages:
        assert wire.decode(wire.encode(message)) == message
    longer = replace(feature, timing=Timing(wait_us=U64))  # a board that was asleep for days reports 71 minutes
    assert wire.decode(wire.encode(longer)) == replace(feature, timing=Timing(wait_us=U32))


@pytest.mark.parametrize("version", [0, 2, 127, 128, U32])
def test_a_hello_of_another_version_lists_a_stranger(version: int) -> None:
    hello = SAMPLES["hello"]
    assert isinstance(hello, Hello)
    expected = Stranger(sender=hello.sender, version=version, name=hello.name)
    frames = wire.encode(hello, version)
    assert wire.decode(frames) == expected
    # Whatever a later version puts behind the first fields: it is not looked at.
    longer = bytes([frames[0][0] + 1]) + frames[0][1:] + b"\xc3"
    assert wire.decode([longer]) == expected


@pytest.mark.parametrize("name", [name for name in SAMPLES if name != "hello"])
def test_other_messages_of_another_version_are_refused_by_name(name: str) -> None:
    with pytest.raises(UnknownVersion, match="speaks protocol 2, this board 1; upgrade"):
        wire.decode(wire.encode(SAMPLES[name], 2))


def test_a_stranger_is_never_sent() -> None:
    with pytest.raises(TypeError):
        wire.encode(Stranger(sender=PeerId("00" * 8), version=2, name="x"))


@pytest.mark.parametrize("frames", [[], [b""], [b"\x90"], [b"", b""], [b"a"] * 3])
def test_frames_of_no_message_are_refused(frames: list[bytes]) -> None:
    with pytest.raises(BadFrame):
        wire.decode(frames)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_second_frame_nobody_announced_is_refused(name: str) -> None:
    with pytest.raises(BadFrame):
        wire.decode([*wire.encode(SAMPLES[name]), b"more"])


def test_a_second_frame_has_the_announced_length() -> None:
    codes = SAMPLES["codes"]
    assert isinstance(codes, Codes)
    first, second = wire.encode(replace(codes, body=bytes(40_000)))
    for frames in ([first], [first, second[:-1]], [first, second + b"x"], [first, b""]):
        with pytest.raises(BadFrame):
            wire.decode(frames)


def test_a_body_over_the_limit_is_refused() -> None:
    codes = SAMPLES["codes"]
    assert isinstance(codes, Codes)
    with pytest.raises(FrameTooLarge):
        wire.decode(wire.encode(replace(codes, body=bytes(MAX_BODY_BYTES + 1))))
