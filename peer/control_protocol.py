"""The frames of the control socket, and what its two ends may say; bytes in, records out.

A frame is a u32 (big-endian) header length, a JSON object in UTF-8, and the blobs that its key "blobs" measures, one
after the other. A request carries "op"; a response {"ok": true, ...} or {"ok": false, "error": {...}}. Every length
is checked before anything is read or allocated for it. No sockets, no clock, no asyncio here.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from peer.errors import BadFrame, Busy, FrameTooLarge, LocalProtocolError, PeerError, from_report

PREFIX_BYTES = 4
MAX_REQUEST_HEADER_BYTES = 64 * 1024
# A response may list logits of 64 images or the codecs of many models.
MAX_RESPONSE_HEADER_BYTES = 16 * 1024 * 1024
MAX_BLOBS = 64
MAX_BLOB_BYTES = 32 * 1024 * 1024
MAX_BODY_BYTES = 64 * 1024 * 1024
# Names travel for messages only; a longer one is cut by the client.
MAX_INPUT_NAME = 255

_LONGEST_RETRY_S = 3600.0
_PREFIX = struct.Struct(">I")


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A parsed header: the fields as they came, unchecked beyond being a JSON object, and the blobs to read next."""

    fields: Mapping[str, Any]  # Any: JSON values; peer.records checks them
    blob_bytes: tuple[int, ...]

    @property
    def body_bytes(self) -> int:
        """Bytes that follow the header."""
        return sum(self.blob_bytes)


def encode(
    fields: Mapping[str, object], blobs: Sequence[bytes] = (), *, limit_bytes: int = MAX_RESPONSE_HEADER_BYTES
) -> list[bytes]:
    """A frame as buffers to send in order; LocalProtocolError when it would break the limits."""
    _check_blobs([len(blob) for blob in blobs], LocalProtocolError)
    content = {**fields, "blobs": [len(blob) for blob in blobs]} if blobs else dict(fields)
    try:
        header = json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")
    except (TypeError, ValueError, RecursionError) as exc:
        raise LocalProtocolError(f"a value of this message is no JSON: {exc}") from exc
    if len(header) > limit_bytes:
        raise LocalProtocolError(f"a header of {len(header)} bytes is over the limit of {limit_bytes}")
    return [_PREFIX.pack(len(header)) + header, *blobs]


def header_bytes(prefix: bytes, *, limit_bytes: int) -> int:
    """The header length that a frame's first four bytes announce; FrameTooLarge over the limit."""
    length: int = _PREFIX.unpack(prefix)[0]
    if length > limit_bytes:
        raise FrameTooLarge(
            f"a header of {length} bytes was announced, the limit is {limit_bytes}; speak peerctl's protocol"
        )
    return length


def decode_header(data: bytes) -> Header:
    """Parse a header's bytes; BadFrame or FrameTooLarge."""
    try:
        fields = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:
        raise BadFrame("the header is not JSON; speak peerctl's protocol") from exc
    if not isinstance(fields, dict):
        raise BadFrame("the header is not a JSON object; speak peerctl's protocol")
    lengths = fields.pop("blobs", [])
    if not isinstance(lengths, list) or any(type(n) is not int or n < 0 for n in lengths):
        raise BadFrame("the header's blobs are not a list of lengths")
    _check_blobs(lengths, FrameTooLarge)
    return Header(fields=fields, blob_bytes=tuple(lengths))


def error_fields(error: PeerError) -> dict[str, object]:
    """The response that reports `error`."""
    fields: dict[str, object] = {"exit": int(error.exit_code), "kind": error.kind, "message": str(error)}
    if isinstance(error, Busy):
        fields["retry_after_s"] = error.retry_after_s
    return {"ok": False, "error": fields}


def result_fields(header: Header) -> Mapping[str, Any]:  # Any: as in Header
    """A response's fields when it is a result; raises the reported error when it is one."""
    if header.fields.get("ok") is True:
        return header.fields
    error = header.fields.get("error")
    if not isinstance(error, dict):
        raise BadFrame("the daemon's answer is neither a result nor an error; is it of another version?")
    kind, message, code = (error.get(key) for key in ("kind", "message", "exit"))
    if not isinstance(kind, str) or not isinstance(message, str) or not isinstance(code, int):
        raise BadFrame("the daemon's answer is a damaged error; is it of another version?")
    after_s = error.get("retry_after_s")
    if kind == Busy.kind and isinstance(after_s, int | float) and 0 <= after_s <= _LONGEST_RETRY_S:
        raise Busy(message, float(after_s))
    raise from_report(kind, message, code)


def _check_blobs(lengths: Sequence[int], error: type[PeerError]) -> None:
    if len(lengths) > MAX_BLOBS:
        raise error(f"{len(lengths)} images in one request, the limit is {MAX_BLOBS}; send fewer at once")
    largest, total = max(lengths, default=0), sum(lengths)
    if largest > MAX_BLOB_BYTES:
        raise error(f"an image of {largest} bytes, the limit is {MAX_BLOB_BYTES}; make it smaller")
    if total > MAX_BODY_BYTES:
        raise error(f"images of {total} bytes in one request, the limit is {MAX_BODY_BYTES}; send fewer at once")


def _refuse_constant(name: str) -> float:
    raise ValueError(name)
