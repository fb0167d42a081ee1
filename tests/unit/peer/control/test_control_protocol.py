"""Frames of the control socket: what is refused before anything is read for it."""

import json

import pytest

from peer.control_protocol import (
    MAX_BLOB_BYTES,
    MAX_BLOBS,
    MAX_REQUEST_HEADER_BYTES,
    decode_header,
    encode,
    error_fields,
    header_bytes,
    result_fields,
)
from peer.errors import BadFrame, FrameTooLarge, LocalProtocolError, NotEnoughBoards, PeerError, ReportedError
from peer.exit_codes import ExitCode
from peer.records import from_json, to_json
from peer.reports import InferQuery, RingReport


def test_a_frame_is_length_header_and_blobs() -> None:
    assert encode({"op": "x"}, [b"ab", b""]) == [b'\x00\x00\x00\x18{"op":"x","blobs":[2,0]}', b"ab", b""]


def test_a_decoded_header_measures_its_blobs() -> None:
    header = decode_header(b'{"op":"x","blobs":[2,0,7]}')
    assert (header.fields, header.blob_bytes, header.body_bytes) == ({"op": "x"}, (2, 0, 7), 9)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"x":NaN}',
        b'{"x":Infinity}',
        b"[" * 60_000,
        b"9" * 60_000,
        b'{"blobs":3}',
        b'{"blobs":[-1]}',
        b'{"blobs":[true]}',
        b'{"blobs":[1.5]}',
        b'{"blobs":["1"]}',
    ],
)
def test_what_is_no_header_is_a_bad_frame(data: bytes) -> None:
    with pytest.raises(BadFrame):
        decode_header(data)


@pytest.mark.parametrize(
    "blobs", [[MAX_BLOB_BYTES + 1], [MAX_BLOB_BYTES] * 3, [0] * (MAX_BLOBS + 1), [10**100]], ids=str
)
def test_announced_lengths_over_the_limits_are_refused(blobs: list[int]) -> None:
    with pytest.raises(FrameTooLarge):
        decode_header(json.dumps({"blobs": blobs}).encode())


def test_a_long_header_is_refused_by_its_prefix() -> None:
    assert header_bytes(b"\x00\x01\x00\x00", limit_bytes=MAX_REQUEST_HEADER_BYTES) == MAX_REQUEST_HEADER_BYTES
    with pytest.raises(FrameTooLarge):
        header_bytes(b"\x00\x01\x00\x01", limit_bytes=MAX_REQUEST_HEADER_BYTES)


def test_our_own_oversize_and_non_json_are_local_errors() -> None:
    with pytest.raises(LocalProtocolError):
        encode({"x": float("nan")})
    with pytest.raises(LocalProtocolError):
        encode({"x": "y" * MAX_REQUEST_HEADER_BYTES}, limit_bytes=MAX_REQUEST_HEADER_BYTES)


def test_an_error_survives_the_socket_with_type_text_and_exit_code() -> None:
    sent = NotEnoughBoards("2 of 4 boards; start more")
    header = decode_header(encode(error_fields(sent))[0][4:])
    with pytest.raises(NotEnoughBoards, match="2 of 4 boards; start more") as caught:
        result_fields(header)
    assert caught.value.exit_code is ExitCode.NOT_ENOUGH_BOARDS


@pytest.mark.parametrize(("code", "expected"), [(8, 8), (0, 4), (77, 4)])
def test_an_error_of_an_unknown_kind_keeps_its_text_and_never_means_success(code: int, expected: int) -> None:
    fields = {"ok": False, "error": {"kind": "from-the-future", "message": "m", "exit": code}}
    with pytest.raises(ReportedError, match="m") as caught:
        result_fields(decode_header(encode(fields)[0][4:]))
    assert caught.value.exit_code == expected


@pytest.mark.parametrize("answer", [{}, {"ok": 1}, {"ok": False, "error": "x"}, {"ok": False, "error": {"kind": 1}}])
def test_an_answer_of_another_shape_is_a_bad_frame(answer: dict[str, object]) -> None:
    with pytest.raises(BadFrame):
        result_fields(decode_header(encode(answer)[0][4:]))


def test_records_round_trip_and_drop_the_underscore_of_reserved_names() -> None:
    ring = RingReport(epoch=3, order=("a",), self_="a", names={"a": "n"}, model=None, tokens={"a": (0, 4)})
    value = to_json(ring)
    assert value["self"] == "a"
    assert from_json(RingReport, json.loads(json.dumps(value)) | {"newer": 1}) == ring


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": None},
        {"inputs": "ab"},
        {"inputs": [1]},
        {"boards": "4"},
        {"boards": True},
        {"boards": 1.5},
        {"deadline_s": 10**400},
        {"deadline_s": "1"},
        {"logits": 1},
        {"codec": 7},
        {"nonsense": 1},
    ],
    ids=str,
)
def test_a_request_with_a_wrong_or_unknown_field_names_it(change: dict[str, object]) -> None:
    with pytest.raises(BadFrame, match=next(iter(change))):
        from_json(InferQuery, {"inputs": ["x"], **change}, strict=True)


def test_every_error_is_one_line() -> None:
    assert str(PeerError("a\nb\t c\r\n")) == "a b c"
