"""Messages <-> frames. Version, limits and the type of every field are checked here and nowhere else.

A message is one frame, a flat msgpack array [version, kind, fields...]; a body over INLINE_BYTES (float32 tensors,
images) travels as a second, raw frame whose length the first one announces.
"""

import enum
import struct

from peer.errors import BadFrame, FrameTooLarge, UnknownVersion
from peer.protocol.fields import MAX_BODY_BYTES, MAX_TEXT_BYTES, Field, Fields, body_of, pack, unpack
from peer.protocol.messages import (
    Assign,
    Cancel,
    Codes,
    Failed,
    Feature,
    Goodbye,
    Hello,
    Message,
    Peers,
    Ping,
    PingRequest,
    Pong,
    Removed,
    Rumour,
    Stranger,
    TokenRotated,
    Vouch,
)
from peer.protocol.types import (
    MAX_BATCH,
    MAX_BOARDS,
    MODEL_ID_BYTES,
    PEER_ID_BYTES,
    PUBLIC_KEY_BYTES,
    Address,
    Endpoint,
    Epoch,
    Exchange,
    FailureReason,
    Incarnation,
    InputKind,
    ModelId,
    PeerId,
    RequestId,
    Shard,
    Status,
    Timing,
    TokenRange,
    Traffic,
    peer_id,
)

PROTOCOL_VERSION = 1
INLINE_BYTES = 32 * 1024
MAX_FRAMES = 2
MAX_MODELS = 64
_U16, _U32, _U64 = (1 << 16) - 1, (1 << 32) - 1, (1 << 64) - 1
_CODES_FIELDS = 8
_RUMOURS = (Status.ALIVE, Status.SUSPECT, Status.DEAD)
_PORT = struct.Struct(">HB")
MAX_ADDRESSES = 64
_Signed = Ping | Pong | PingRequest | Vouch | Rumour | Goodbye | Peers | TokenRotated | Removed
_SHARD = struct.Struct(f">{PEER_ID_BYTES}sII")


class Kind(enum.IntEnum):
    """Second field of every message."""

    HELLO = 1
    PING = 2
    PONG = 3
    GOODBYE = 4
    PING_REQUEST = 5
    VOUCH = 6
    RUMOUR = 7
    PEERS = 8
    TOKEN_ROTATED = 9
    REMOVED = 10
    ASSIGN = 16
    CODES = 17
    FEATURE = 18
    FAILED = 19
    CANCEL = 20


def encode(message: Message, version: int = PROTOCOL_VERSION) -> list[bytes]:
    """Message -> one frame, or two where the body is large. `version` differs only in tests of mixed versions."""
    body: bytes | None = None
    match message:
        case Codes(request=request, attempt=attempt, epoch=epoch, block=block, origin=origin, body=body):
            fields: list[Field] = [version, Kind.CODES, request, attempt, epoch, block, origin]
        case Assign():
            shards = b"".join(_SHARD.pack(bytes.fromhex(s.peer), s.tokens.start, s.tokens.stop) for s in message.shards)
            fields = [version, Kind.ASSIGN, message.request, message.attempt, message.epoch]
            fields += [bytes.fromhex(message.model), message.codec, message.exchange, message.batch]
            fields += [message.coordinator, shards, message.deadline_ms, message.input_kind]
            body = message.body
        case Feature(timing=t, traffic=f, body=body):
            fields = [version, Kind.FEATURE, message.request, message.attempt, message.epoch, message.origin]
            fields += [t.prepare_us, t.compute_us, t.encode_us, t.decode_us, t.wait_us]
            fields += [f.payload_bytes, f.wire_bytes, f.messages]
        case Failed():
            missing = struct.pack(f">{len(message.missing)}H", *message.missing)
            fields = [version, Kind.FAILED, message.request, message.attempt, message.epoch, message.origin]
            fields += [message.reason, missing, message.detail[:200]]
        case Cancel():
            fields = [version, Kind.CANCEL, message.request, message.attempt, message.epoch]
        case Hello(endpoint=e):
            fields = [version, Kind.HELLO, bytes.fromhex(message.sender), message.name, message.public_key]
            fields += [message.incarnation, e.host, e.port, bytes.fromhex("".join(message.models)), message.answer]
        case Ping():
            fields = [*_from(version, Kind.PING, message), message.sequence, message.speed]
        case Pong():
            fields = [*_from(version, Kind.PONG, message), message.sequence, message.stuck_ms]
        case PingRequest():
            fields = [*_from(version, Kind.PING_REQUEST, message), bytes.fromhex(message.target), message.sequence]
        case Vouch():
            fields = [*_from(version, Kind.VOUCH, message), bytes.fromhex(message.target), message.sequence]
        case Rumour():
            fields = [*_from(version, Kind.RUMOUR, message), bytes.fromhex(message.about)]
            fields += [message.about_incarnation, _RUMOURS.index(message.status)]
        case Goodbye():
            fields = _from(version, Kind.GOODBYE, message)
        case Peers():
            places = b"".join(_PORT.pack(a.port, len(a.host.encode())) + a.host.encode() for a in message.addresses)
            fields = [*_from(version, Kind.PEERS, message), places]
        case TokenRotated():
            fields = [*_from(version, Kind.TOKEN_ROTATED, message), message.token]
        case Removed():
            fields = [*_from(version, Kind.REMOVED, message), bytes.fromhex(message.about), message.revoked]
        case Stranger():
            raise TypeError("a Stranger is only ever received")
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
    if len(values) == _CODES_FIELDS and values[0] == PROTOCOL_VERSION and values[1] == Kind.CODES:
        return _codes(values, second)
    fields = Fields(values)
    version = fields.integer("version", low=0, high=_U32)
    number = fields.integer("kind", low=0, high=_U16)
    if version != PROTOCOL_VERSION:
        if number == Kind.HELLO:
            # The first fields of a Hello keep their places in every version, so that such a board can be listed.
            return Stranger(sender=_peer(fields), version=version, name=fields.text("name", limit=64))
        raise UnknownVersion(f"a peer speaks protocol {version}, this board {PROTOCOL_VERSION}; upgrade the older one")
    try:
        kind = Kind(number)
    except ValueError:
        raise BadFrame(f"a message has the unknown kind {number}") from None
    read = _READ.get(kind)
    if read is None:
        raise BadFrame("a code message has too few or too many fields")
    message = read(fields, second)
    fields.end()
    return message


def _peer(fields: Fields) -> PeerId:
    return PeerId(fields.blob("sender", low=PEER_ID_BYTES, high=PEER_ID_BYTES).hex())


def _incarnation(fields: Fields) -> Incarnation:
    return Incarnation(fields.integer("incarnation", low=0, high=_U64))


def _request(fields: Fields) -> RequestId:
    return RequestId(fields.integer("request", low=0, high=_U64))


def _attempt(fields: Fields) -> int:
    return fields.integer("attempt", low=0, high=255)


def _epoch(fields: Fields) -> Epoch:
    return Epoch(fields.integer("epoch", low=0, high=_U32))


def _origin(fields: Fields) -> int:
    return fields.integer("origin", low=0, high=MAX_BOARDS - 1)


def _single(second: bytes | None) -> None:
    if second is not None:
        raise BadFrame("a message that has no body came with a second frame")


def _from(version: int, kind: Kind, message: _Signed) -> list[Field]:
    return [version, kind, bytes.fromhex(message.sender), message.incarnation]


def _sequence(fields: Fields) -> int:
    return fields.integer("sequence", low=0, high=_U32)


def _hello(fields: Fields, second: bytes | None) -> Message:
    _single(second)
    sender, name = _peer(fields), fields.text("name", limit=64)
    public_key = fields.blob("public_key", low=PUBLIC_KEY_BYTES, high=PUBLIC_KEY_BYTES)
    if peer_id(public_key) != sender:
        raise BadFrame("a board's id is not the fingerprint of its key")
    incarnation = _incarnation(fields)
    # Three ports in a row are a board's: its door, membership, tensors.
    endpoint = Endpoint(host=fields.text("host", limit=255), port=fields.integer("port", low=1, high=_U16 - 2))
    digests = fields.blob("models", high=MAX_MODELS * MODEL_ID_BYTES)
    if len(digests) % MODEL_ID_BYTES:
        raise BadFrame("field models is not a whole number of digests")
    models = [ModelId(digests[i : i + MODEL_ID_BYTES].hex()) for i in range(0, len(digests), MODEL_ID_BYTES)]
    return Hello(
        sender=sender,
        public_key=public_key,
        name=name,
        incarnation=incarnation,
        endpoint=endpoint,
        models=tuple(models),
        answer=fields.flag("answer"),
    )


def _ping(fields: Fields, second: bytes | None) -> Message:
    _single(second)
    return Ping(
        sender=_peer(fields),
        incarnation=_incarnation(fields),
        sequence=_sequence(fields),
        speed=fields.number("speed", low=0.0, high=1e12),
    )


def _pong(fields: Fields, second: bytes | None) -> Message:
    _single(second)
    return Pong(
        sender=_peer(fields),
        incarnation=_incarnation(fields),
        sequence=_sequence(fields),
        stuck_ms=fields.integer("stuck_ms", low=0, high=_U32),
    )


def _ping_request(fields: Fields, second: bytes | None) -> Message:
    _single(second)
    sender, incarnation, target = _peer(fields), _incarnation(fields), _peer(fields)
    return PingRequest(sender=sender, incarnation=incarnation, target=target, sequence=_sequence(fields))


def _vouch(fields: Fields, second: bytes | None) -> Message:
    _single(second)
    sender, incarnation, target = _peer(fields), _incarnation(fields), _peer(fields)
    return Vouch(sender=sender, incarnation=incarnation, target=target, sequence=_sequence(fields))


def _rumour(fields: Fields, second: bytes | None) -> Message:
    _single(second)
    return Rumour(
        sender=_peer(fields),
        incarnation=_incarnation(fields),
        about=_peer(fields),
        about_incarnation=_incarnation(fields),
        status=_RUMOURS[fields.integer("status", low=0, high=len(_RUMOURS) - 1)],
    )


def _goodbye(fields: Fields, second: bytes | None) -> Message:
    _single(second)
    return Goodbye(sender=_peer(fields), incarnation=_incarnation(fields))


def _peers(fields: Fields, second: bytes | None) -> Message:
    _single(second)
    sender, incarnation = _peer(fields), _incarnation(fields)
    places = fields.blob("addresses", high=MAX_ADDRESSES * (_PORT.size + 255))
    addresses, at = [], 0
    while at < len(places):
        if len(places) - at < _PORT.size or len(addresses) >= MAX_ADDRESSES:
            raise BadFrame("field addresses is cut short or too long")
        port, length = _PORT.unpack_from(places, at)
        at += _PORT.size
        host = places[at : at + length]
        at += length
        if len(host) != length or not host or not port or not host.isascii() or not host.decode().isprintable():
            raise BadFrame("field addresses holds something that is no address")
        addresses.append(Address(host=host.decode(), port=port))
    return Peers(sender=sender, incarnation=incarnation, addresses=tuple(addresses))


def _token_rotated(fields: Fields, second: bytes | None) -> Message:
    _single(second)
    sender, incarnation = _peer(fields), _incarnation(fields)
    return TokenRotated(sender=sender, incarnation=incarnation, token=fields.blob("token", low=32, high=32))


def _removed(fields: Fields, second: bytes | None) -> Message:
    _single(second)
    sender, incarnation, about = _peer(fields), _incarnation(fields), _peer(fields)
    return Removed(sender=sender, incarnation=incarnation, about=about, revoked=fields.flag("revoked"))


def _shards(blob: bytes) -> tuple[Shard, ...]:
    if not blob or len(blob) % _SHARD.size:
        raise BadFrame("field shards is not a whole number of records")
    shards = tuple(
        Shard(peer=PeerId(peer.hex()), tokens=TokenRange(start=start, stop=stop))
        for peer, start, stop in _SHARD.iter_unpack(blob)
    )
    at = 0
    for shard in shards:
        if shard.tokens.start != at or shard.tokens.stop <= at:
            raise BadFrame("the shards of an assignment are not contiguous, or one is empty")
        at = shard.tokens.stop
    if len({shard.peer for shard in shards}) != len(shards):
        raise BadFrame("an assignment names one board twice")
    return shards


def _assign(fields: Fields, second: bytes | None) -> Message:
    request, attempt, epoch = _request(fields), _attempt(fields), _epoch(fields)
    model = ModelId(fields.blob("model", low=MODEL_ID_BYTES, high=MODEL_ID_BYTES).hex())
    codec = fields.text("codec", limit=64)
    exchange = Exchange(fields.integer("exchange", low=0, high=len(Exchange) - 1))
    batch = fields.integer("batch", low=1, high=MAX_BATCH)
    coordinator = fields.integer("coordinator", low=0, high=MAX_BOARDS - 1)
    shards = _shards(fields.blob("shards", high=MAX_BOARDS * _SHARD.size))
    if coordinator >= len(shards):
        raise BadFrame("an assignment's coordinator is none of its boards")
    return Assign(
        request=request,
        attempt=attempt,
        epoch=epoch,
        model=model,
        codec=codec,
        exchange=exchange,
        batch=batch,
        coordinator=coordinator,
        shards=shards,
        deadline_ms=fields.integer("deadline_ms", low=0, high=_U32),
        input_kind=InputKind(fields.integer("input_kind", low=0, high=len(InputKind) - 1)),
        body=fields.body(second),
    )


def _codes(values: list[object], second: bytes | None) -> Codes:
    """The message of every round, checked in one go: a reader that asks field by field costs three times as much."""
    _, _, request, attempt, epoch, block, origin, body = values
    if (
        type(request) is not int
        or type(attempt) is not int
        or type(epoch) is not int
        or type(block) is not int
        or type(origin) is not int
        or not 0 <= request <= _U64
        or not 0 <= attempt <= 255
        or not 0 <= epoch <= _U32
        or not 0 <= block <= _U16
        or not 0 <= origin < MAX_BOARDS
    ):
        raise BadFrame("a code message has a field of a wrong type or out of range")
    return Codes(
        request=RequestId(request),
        attempt=attempt,
        epoch=Epoch(epoch),
        block=block,
        origin=origin,
        body=body_of(body, second),
    )


def _feature(fields: Fields, second: bytes | None) -> Message:
    request, attempt, epoch, origin = _request(fields), _attempt(fields), _epoch(fields), _origin(fields)
    timing = Timing(
        prepare_us=fields.integer("prepare_us", low=0, high=_U64),
        compute_us=fields.integer("compute_us", low=0, high=_U64),
        encode_us=fields.integer("encode_us", low=0, high=_U64),
        decode_us=fields.integer("decode_us", low=0, high=_U64),
        wait_us=fields.integer("wait_us", low=0, high=_U64),
    )
    traffic = Traffic(
        payload_bytes=fields.integer("payload_bytes", low=0, high=_U64),
        wire_bytes=fields.integer("wire_bytes", low=0, high=_U64),
        messages=fields.integer("messages", low=0, high=_U32),
    )
    body = fields.body(second)
    return Feature(
        request=request, attempt=attempt, epoch=epoch, origin=origin, timing=timing, traffic=traffic, body=body
    )


def _failed(fields: Fields, second: bytes | None) -> Message:
    _single(second)
    request, attempt, epoch, origin = _request(fields), _attempt(fields), _epoch(fields), _origin(fields)
    reason = FailureReason(fields.integer("reason", low=1, high=len(FailureReason)))
    missing = fields.blob("missing", high=2 * MAX_BOARDS)
    if len(missing) % 2:
        raise BadFrame("field missing is not a whole number of indices")
    return Failed(
        request=request,
        attempt=attempt,
        epoch=epoch,
        origin=origin,
        reason=reason,
        missing=struct.unpack(f">{len(missing) // 2}H", missing),
        detail=fields.text("detail", limit=MAX_TEXT_BYTES),
    )


def _cancel(fields: Fields, second: bytes | None) -> Message:
    _single(second)
    return Cancel(request=_request(fields), attempt=_attempt(fields), epoch=_epoch(fields))


_READ = {
    Kind.HELLO: _hello,
    Kind.PING: _ping,
    Kind.PONG: _pong,
    Kind.GOODBYE: _goodbye,
    Kind.PING_REQUEST: _ping_request,
    Kind.VOUCH: _vouch,
    Kind.RUMOUR: _rumour,
    Kind.PEERS: _peers,
    Kind.TOKEN_ROTATED: _token_rotated,
    Kind.REMOVED: _removed,
    Kind.ASSIGN: _assign,
    Kind.FEATURE: _feature,
    Kind.FAILED: _failed,
    Kind.CANCEL: _cancel,
}
