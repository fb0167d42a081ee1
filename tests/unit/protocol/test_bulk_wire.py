"""The messages of the bulk port as bytes: pinned, and refused where a number or a length is out of its range."""

from dataclasses import replace

import pytest

from peer.errors import BadFrame
from peer.protocol import wire
from peer.protocol.bulk_messages import (
    CHUNK_BYTES,
    MAX_FILE_BYTES,
    MAX_FILES,
    FetchChunk,
    FetchRefusal,
    FetchRefused,
    FetchRequest,
)
from peer.protocol.fields import pack, unpack
from peer.protocol.messages import Message
from peer.protocol.types import ModelId, PeerId

SENDER, MODEL = PeerId("0123456789abcdef"), ModelId("5a" * 32)
REQUEST = FetchRequest(sender=SENDER, request=7, model=MODEL, file=3, offset=CHUNK_BYTES, length=CHUNK_BYTES)
CHUNK = FetchChunk(sender=SENDER, request=7, model=MODEL, file=3, offset=4, size=9, body=b"bytes")
REFUSED = FetchRefused(sender=SENDER, request=(1 << 32) - 1, reason=FetchRefusal.BUSY)
PINNED = {
    "980120c4080123456789abcdef07c4205a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a03ce00040000ce00040000": REQUEST,  # noqa: E501
    "990121c4080123456789abcdef07c4205a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a030409c4056279746573": CHUNK,  # noqa: E501
    "950122c4080123456789abcdefceffffffff03": REFUSED,
}


def test_the_bytes_do_not_change() -> None:
    assert {b"".join(wire.encode(message)).hex(): message for message in PINNED.values()} == PINNED


@pytest.mark.parametrize("message", PINNED.values(), ids=lambda m: type(m).__name__)
def test_what_is_sent_is_what_comes(message: Message) -> None:
    assert wire.decode(wire.encode(message)) == message


def test_a_whole_part_travels_as_a_second_frame() -> None:
    chunk = replace(CHUNK, size=MAX_FILE_BYTES, body=bytes(CHUNK_BYTES))
    frames = wire.encode(chunk)
    assert len(frames) == 2
    assert wire.decode(frames) == chunk
    with pytest.raises(BadFrame):
        wire.decode([frames[0], frames[1][:-1]])


@pytest.mark.parametrize(
    ("message", "place", "value"),
    [
        (REQUEST, 3, 1 << 32),
        (REQUEST, 3, -1),
        (REQUEST, 4, b"short"),
        (REQUEST, 5, MAX_FILES + 1),
        (REQUEST, 5, "../../etc/passwd"),
        (REQUEST, 6, MAX_FILE_BYTES + 1),
        (REQUEST, 6, 0.5),
        (REQUEST, 7, 0),
        (REQUEST, 7, CHUNK_BYTES + 1),
        (CHUNK, 7, 8),  # the part would end behind the file
        (CHUNK, 7, True),
        (CHUNK, 8, bytes(CHUNK_BYTES + 1)[:33000]),
        (REFUSED, 4, 0),
        (REFUSED, 4, 5),
    ],
)
def test_a_field_out_of_its_range_is_refused(message: Message, place: int, value: int | str | bytes) -> None:
    fields = unpack(wire.encode(message)[0])
    fields[place] = value
    with pytest.raises(BadFrame):
        wire.decode([pack(fields)])  # type: ignore[arg-type]


@pytest.mark.parametrize("message", PINNED.values(), ids=lambda m: type(m).__name__)
def test_too_few_or_too_many_fields_are_refused(message: Message) -> None:
    fields = unpack(wire.encode(message)[0])
    for wrong in (fields[:-1], [*fields, 0]):
        with pytest.raises(BadFrame):
            wire.decode([pack(wrong)])  # type: ignore[arg-type]
