"""Messages of the bulk port <-> fields: every range and length stands here."""

from peer.errors import BadFrame
from peer.protocol.bulk_messages import (
    CHUNK_BYTES,
    MAX_FILE_BYTES,
    MAX_FILES,
    BulkMessage,
    FetchChunk,
    FetchRefusal,
    FetchRefused,
    FetchRequest,
)
from peer.protocol.fields import Field, Fields
from peer.protocol.messages import Message
from peer.protocol.readers import Kind, read_peer, single
from peer.protocol.types import MODEL_ID_BYTES, ModelId

_U32 = (1 << 32) - 1


def bulk_fields(message: BulkMessage) -> list[Field]:
    """A bulk message's kind and fields, less the body of a chunk."""
    sender = bytes.fromhex(message.sender)
    match message:
        case FetchRequest():
            model = bytes.fromhex(message.model)
            return [Kind.FETCH, sender, message.request, model, message.file, message.offset, message.length]
        case FetchChunk():
            model = bytes.fromhex(message.model)
            return [Kind.CHUNK, sender, message.request, model, message.file, message.offset, message.size]
        case FetchRefused():
            return [Kind.NO_CHUNK, sender, message.request, message.reason]


def _request(fields: Fields) -> int:
    return fields.integer("request", low=0, high=_U32)


def _model(fields: Fields) -> ModelId:
    return ModelId(fields.blob("model", low=MODEL_ID_BYTES, high=MODEL_ID_BYTES).hex())


def _file(fields: Fields) -> int:
    return fields.integer("file", low=0, high=MAX_FILES)


def _offset(fields: Fields) -> int:
    return fields.integer("offset", low=0, high=MAX_FILE_BYTES)


def _fetch(fields: Fields, second: bytes | None) -> Message:
    single(second)
    sender, request, model = read_peer(fields), _request(fields), _model(fields)
    file, offset = _file(fields), _offset(fields)
    length = fields.integer("length", low=1, high=CHUNK_BYTES)
    return FetchRequest(sender=sender, request=request, model=model, file=file, offset=offset, length=length)


def _chunk(fields: Fields, second: bytes | None) -> Message:
    sender, request, model = read_peer(fields), _request(fields), _model(fields)
    file, offset = _file(fields), _offset(fields)
    size = fields.integer("size", low=0, high=MAX_FILE_BYTES)
    body = fields.body(second)
    if len(body) > CHUNK_BYTES or offset + len(body) > size:
        raise BadFrame("a part of a file is longer than a part may be, or reaches beyond its file")
    return FetchChunk(sender=sender, request=request, model=model, file=file, offset=offset, size=size, body=body)


def _no_chunk(fields: Fields, second: bytes | None) -> Message:
    single(second)
    sender, request = read_peer(fields), _request(fields)
    reason = FetchRefusal(fields.integer("reason", low=1, high=len(FetchRefusal)))
    return FetchRefused(sender=sender, request=request, reason=reason)


READ_BULK = {
    Kind.FETCH: _fetch,
    Kind.CHUNK: _chunk,
    Kind.NO_CHUNK: _no_chunk,
}
