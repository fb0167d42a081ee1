"""Messages <-> frames: what is sent, and of what comes the version and the kind; `readers` checks the fields.

A message is one frame, a flat msgpack array [version, kind, fields...]; a body over INLINE_BYTES (float32 tensors,
images) travels as a second, raw frame whose length the first one announces.
"""

import struct

from peer.errors import BadFrame, FrameTooLarge, UnknownVersion
from peer.protocol.bulk_messages import FetchChunk, FetchRefused, FetchRequest
from peer.protocol.bulk_wire import READ_BULK, bulk_fields
from peer.protocol.control_wire import READ_CONTROL, control_fields
from peer.protocol.fields import MAX_TEXT_BYTES, Field, Fields, pack, unpack
from peer.protocol.messages import (
    Assign,
    Cancel,
    Codes,
    Echo,
    Errand,
    Failed,
    Feature,
    Message,
    Sound,
    Stranger,
)
from peer.protocol.readers import LONGEST_US, PATIENCE, READ, SHARD, TIMES, Kind, read_codes, read_peer
from peer.protocol.trace_messages import Spans, SpansRequest
from peer.protocol.trace_wire import READ_TRACE, spans_body, trace_fields
from peer.protocol.types import MAX_BODY_BYTES

PROTOCOL_VERSION = 1
INLINE_BYTES = 32 * 1024
MAX_FRAMES = 2
_CODES_FIELDS = 8
_CODES_START = [PROTOCOL_VERSION, int(Kind.CODES)]


def encode(message: Message, version: int = PROTOCOL_VERSION) -> list[bytes]:
    """Message -> one frame, or two where the body is large. `version` differs only in tests of mixed versions."""
    body: bytes | None = None
    match message:
        case Codes(request=request, attempt=attempt, epoch=epoch, block=block, origin=origin, body=body):
            fields: list[Field] = [version, Kind.CODES, request, attempt, epoch, block, origin]
        case Assign():
            shards = b"".join(SHARD.pack(bytes.fromhex(s.peer), s.tokens.start, s.tokens.stop) for s in message.shards)
            fields = [version, Kind.ASSIGN, message.request, message.attempt, message.epoch]
            fields += [bytes.fromhex(message.model), message.codec, message.exchange, message.batch]
            fields += [message.coordinator, shards, message.deadline_ms, message.input_kind]
            fields += [PATIENCE.pack(message.round_ms, message.degrade_ms, message.degrade_from)]
            body = message.body
        case Feature(timing=t, traffic=f, body=body):
            fields = [version, Kind.FEATURE, message.request, message.attempt, message.epoch, message.origin]
            times = (t.prepare_us, t.compute_us, t.encode_us, t.decode_us, t.wait_us)
            fields += [_indices(message.lost), TIMES.pack(*(min(time, LONGEST_US) for time in times))]
            fields += [f.payload_bytes, f.wire_bytes, f.messages]
        case Failed():
            fields = [version, Kind.FAILED, message.request, message.attempt, message.epoch, message.origin]
            fields += [message.reason, _indices(message.missing), _line(message.detail)]
        case Cancel():
            fields = [version, Kind.CANCEL, message.request, message.attempt, message.epoch]
        case Spans() | SpansRequest():
            fields = [version, *trace_fields(message)]
            body = spans_body(message) if isinstance(message, Spans) else None
        case Errand(body=body):
            fields = [version, Kind.ERRAND, message.request, message.attempt, message.epoch]
            fields += [bytes.fromhex(message.asker), bytes.fromhex(message.model), message.batch]
            fields += [message.deadline_ms, message.input_kind]
        case Sound(body=body):
            fields = [version, Kind.SOUND, bytes.fromhex(message.sender), message.sequence]
        case Echo():
            fields = [version, Kind.ECHO, bytes.fromhex(message.sender), message.sequence, message.busy]
        case FetchChunk(body=body):
            fields = [version, *bulk_fields(message)]
        case FetchRequest() | FetchRefused():
            fields = [version, *bulk_fields(message)]
        case _ as membership:
            fields = [version, *control_fields(membership)]
    if body is None:
        return [pack(fields)]
    if len(body) <= INLINE_BYTES:
        return [pack([*fields, body])]
    return [pack([*fields, len(body)]), body]


def decode(frames: list[bytes]) -> Message:
    """Frames -> Message. Raises only RemoteProtocolError: BadFrame, FrameTooLarge or UnknownVersion."""
    if not 1 <= len(frames) <= MAX_FRAMES:
        raise BadFrame(f"a message has {len(frames)} frames instead of one or two")
    second = frames[1] if len(frames) > 1 else None
    if second is not None and len(second) > MAX_BODY_BYTES:
        raise FrameTooLarge(f"a body of {len(second)} bytes is over the limit of {MAX_BODY_BYTES}")
    values = unpack(frames[0])
    # By type as well: True equals 1, and is no version.
    if len(values) == _CODES_FIELDS and values[:2] == _CODES_START and type(values[0]) is type(values[1]) is int:
        return read_codes(values, second)
    fields = Fields(values)
    version = fields.integer("version", low=0, high=(1 << 32) - 1)
    number = fields.integer("kind", low=0, high=(1 << 16) - 1)
    if version != PROTOCOL_VERSION:
        if number == Kind.HELLO:
            # The first fields of a Hello keep their places in every version, so that such a board can be listed.
            return Stranger(sender=read_peer(fields), version=version, name=fields.text("name", limit=64))
        raise UnknownVersion(f"a peer speaks protocol {version}, this board {PROTOCOL_VERSION}; upgrade the older one")
    try:
        kind = Kind(number)
    except ValueError:
        raise BadFrame(f"a message has the unknown kind {number}") from None
    read = READ.get(kind) or READ_CONTROL.get(kind) or READ_BULK.get(kind) or READ_TRACE.get(kind)
    if read is None:
        raise BadFrame("a code message has too few or too many fields")
    message = read(fields, second)
    fields.end()
    return message


def _indices(shards: tuple[int, ...]) -> bytes:
    return struct.pack(f">{len(shards)}H", *shards)


def _line(text: str) -> str:
    """What a field of text can carry: a report that its reader refuses for one odd character helps nobody."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    return printable.encode()[:MAX_TEXT_BYTES].decode(errors="ignore")
