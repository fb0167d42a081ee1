"""Messages of a trace <-> fields: every range and length stands here."""

import struct

from peer.errors import BadFrame
from peer.protocol.fields import Field, Fields
from peer.protocol.readers import Kind, read_peer, single
from peer.protocol.span import MAX_SPANS, Span, SpanKind
from peer.protocol.trace_messages import Spans, SpansRequest, TraceMessage
from peer.protocol.types import MAX_BOARDS, RequestId

_U32, _U63, _U64 = (1 << 32) - 1, (1 << 63) - 1, (1 << 64) - 1
_LATEST_US = 1 << 50  # 35 years of uptime; beyond, seconds as floats would not keep a microsecond
_SPAN = struct.Struct(">BBHHQI")  # attempt, kind, block, origin, start and duration in microseconds


def trace_fields(message: TraceMessage) -> list[Field]:
    """A message's kind and fields, less the body of an answer."""
    sender = bytes.fromhex(message.sender)
    start: list[Field] = [sender, message.sequence, message.request, message.asked_us]
    match message:
        case SpansRequest():
            return [Kind.SPANS_REQUEST, *start]
        case Spans():
            return [Kind.SPANS, *start, message.received_us, message.sent_us]


def spans_body(message: Spans) -> bytes:
    """The spans of an answer, at most MAX_SPANS of them: the latest."""
    return b"".join(
        _SPAN.pack(
            attempt, span.kind, span.block, span.origin, _us(span.start_s), min(_us(span.end_s - span.start_s), _U32)
        )
        for attempt, span in message.spans[-MAX_SPANS:]
    )


def _us(seconds: float) -> int:
    return min(max(0, round(seconds * 1e6)), _LATEST_US)


def _sequence(fields: Fields) -> int:
    return fields.integer("sequence", low=0, high=_U32)


def _request(fields: Fields) -> RequestId:
    return RequestId(fields.integer("request", low=0, high=_U64))


def _clock(name: str, fields: Fields) -> int:
    return fields.integer(name, low=0, high=_U63)


def _spans_request(fields: Fields, second: bytes | None) -> TraceMessage:
    single(second)
    sender, sequence, request = read_peer(fields), _sequence(fields), _request(fields)
    return SpansRequest(sender=sender, sequence=sequence, request=request, asked_us=_clock("asked_us", fields))


def _spans(fields: Fields, second: bytes | None) -> TraceMessage:
    sender, sequence, request = read_peer(fields), _sequence(fields), _request(fields)
    asked_us, received_us, sent_us = (_clock(name, fields) for name in ("asked_us", "received_us", "sent_us"))
    body = fields.body(second)
    if len(body) % _SPAN.size or len(body) > MAX_SPANS * _SPAN.size:
        raise BadFrame("field spans is not a whole number of records, or holds too many")
    return Spans(
        sender=sender,
        sequence=sequence,
        request=request,
        asked_us=asked_us,
        received_us=received_us,
        sent_us=sent_us,
        spans=tuple(_span(record) for record in _SPAN.iter_unpack(body)),
    )


def _span(record: tuple[int, ...]) -> tuple[int, Span]:
    attempt, kind, block, origin, start_us, duration_us = record
    if kind >= len(SpanKind) or origin >= MAX_BOARDS or start_us > _LATEST_US:
        raise BadFrame("field spans holds something that is no span")
    return attempt, Span(SpanKind(kind), block, origin, start_us / 1e6, (start_us + duration_us) / 1e6)


READ_TRACE = {
    Kind.SPANS_REQUEST: _spans_request,
    Kind.SPANS: _spans,
}
