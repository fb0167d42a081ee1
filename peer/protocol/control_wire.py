"""Membership messages <-> fields: who is here, who vouches for whom, and what the cluster agreed on."""

import struct

from peer.errors import BadFrame
from peer.protocol.fields import Field, Fields
from peer.protocol.messages import (
    Goodbye,
    Hello,
    Message,
    Peers,
    Ping,
    PingRequest,
    Pong,
    Profile,
    Removed,
    Rumour,
    Stranger,
    TokenRotated,
    Vouch,
)
from peer.protocol.profile_wire import MAX_PROFILE_BYTES, pack_profile, unpack_profile
from peer.protocol.readers import MAX_MODELS, Kind, read_incarnation, read_peer, single
from peer.protocol.types import (
    HIGHEST_PORT,
    MAX_ADDRESSES,
    MODEL_ID_BYTES,
    PUBLIC_KEY_BYTES,
    Address,
    Endpoint,
    ModelId,
    Status,
    peer_id,
)

_U32 = (1 << 32) - 1
_RUMOURS = (Status.ALIVE, Status.SUSPECT, Status.DEAD)
_PORT = struct.Struct(">HB")
TOKEN_BYTES = 32
_Known = Goodbye | Peers | Ping | PingRequest | Pong | Profile | Removed | Rumour | TokenRotated | Vouch


def control_fields(message: Hello | Stranger | _Known) -> list[Field]:
    """A membership message's kind and fields."""
    match message:
        case Hello(endpoint=e):
            models = bytes.fromhex("".join(message.models[:MAX_MODELS]))
            fields: list[Field] = [Kind.HELLO, bytes.fromhex(message.sender), message.name, message.public_key]
            return [*fields, message.incarnation, e.host, e.port, models, message.answer]
        case Ping():
            return [*_from(Kind.PING, message), message.sequence, message.speed]
        case Pong():
            return [*_from(Kind.PONG, message), message.sequence, message.stuck_ms]
        case PingRequest():
            return [*_from(Kind.PING_REQUEST, message), bytes.fromhex(message.target), message.sequence]
        case Vouch():
            return [*_from(Kind.VOUCH, message), bytes.fromhex(message.target), message.sequence]
        case Rumour():
            about: list[Field] = [bytes.fromhex(message.about), message.about_incarnation]
            return [*_from(Kind.RUMOUR, message), *about, _RUMOURS.index(message.status)]
        case Goodbye():
            return _from(Kind.GOODBYE, message)
        case Peers():
            hosts = [(address.port, address.host.encode()) for address in message.addresses[:MAX_ADDRESSES]]
            places = b"".join(_PORT.pack(port, len(host)) + host for port, host in hosts)
            return [*_from(Kind.PEERS, message), places]
        case TokenRotated():
            return [*_from(Kind.TOKEN_ROTATED, message), message.generation, message.token]
        case Removed():
            return [*_from(Kind.REMOVED, message), bytes.fromhex(message.about), message.revoked]
        case Profile():
            return [*_from(Kind.PROFILE, message), pack_profile(message.profile)]
        case Stranger():
            raise TypeError("a Stranger is only ever received")


def _from(kind: Kind, message: _Known) -> list[Field]:
    return [kind, bytes.fromhex(message.sender), message.incarnation]


def _sequence(fields: Fields) -> int:
    return fields.integer("sequence", low=0, high=_U32)


def _hello(fields: Fields, second: bytes | None) -> Message:
    single(second)
    sender, name = read_peer(fields), fields.text("name", limit=64)
    public_key = fields.blob("public_key", low=PUBLIC_KEY_BYTES, high=PUBLIC_KEY_BYTES)
    if peer_id(public_key) != sender:
        raise BadFrame("a board's id is not the fingerprint of its key")
    incarnation = read_incarnation(fields)
    endpoint = Endpoint(host=fields.text("host", limit=255), port=fields.integer("port", low=1, high=HIGHEST_PORT))
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
    single(second)
    return Ping(
        sender=read_peer(fields),
        incarnation=read_incarnation(fields),
        sequence=_sequence(fields),
        speed=fields.number("speed", low=0.0, high=1e12),
    )


def _pong(fields: Fields, second: bytes | None) -> Message:
    single(second)
    return Pong(
        sender=read_peer(fields),
        incarnation=read_incarnation(fields),
        sequence=_sequence(fields),
        stuck_ms=fields.integer("stuck_ms", low=0, high=_U32),
    )


def _ping_request(fields: Fields, second: bytes | None) -> Message:
    single(second)
    sender, incarnation, target = read_peer(fields), read_incarnation(fields), read_peer(fields)
    return PingRequest(sender=sender, incarnation=incarnation, target=target, sequence=_sequence(fields))


def _vouch(fields: Fields, second: bytes | None) -> Message:
    single(second)
    sender, incarnation, target = read_peer(fields), read_incarnation(fields), read_peer(fields)
    return Vouch(sender=sender, incarnation=incarnation, target=target, sequence=_sequence(fields))


def _rumour(fields: Fields, second: bytes | None) -> Message:
    single(second)
    return Rumour(
        sender=read_peer(fields),
        incarnation=read_incarnation(fields),
        about=read_peer(fields),
        about_incarnation=read_incarnation(fields),
        status=_RUMOURS[fields.integer("status", low=0, high=len(_RUMOURS) - 1)],
    )


def _goodbye(fields: Fields, second: bytes | None) -> Message:
    single(second)
    return Goodbye(sender=read_peer(fields), incarnation=read_incarnation(fields))


def _peers(fields: Fields, second: bytes | None) -> Message:
    single(second)
    sender, incarnation = read_peer(fields), read_incarnation(fields)
    places = fields.blob("addresses", high=MAX_ADDRESSES * (_PORT.size + 255))
    addresses: list[Address] = []
    at = 0
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
    single(second)
    sender, incarnation = read_peer(fields), read_incarnation(fields)
    return TokenRotated(
        sender=sender,
        incarnation=incarnation,
        generation=fields.integer("generation", low=0, high=_U32),
        token=fields.blob("token", low=TOKEN_BYTES, high=TOKEN_BYTES),
    )


def _removed(fields: Fields, second: bytes | None) -> Message:
    single(second)
    sender, incarnation, about = read_peer(fields), read_incarnation(fields), read_peer(fields)
    return Removed(sender=sender, incarnation=incarnation, about=about, revoked=fields.flag("revoked"))


def _profile(fields: Fields, second: bytes | None) -> Message:
    single(second)
    sender, incarnation = read_peer(fields), read_incarnation(fields)
    profile = unpack_profile(fields.blob("profile", high=MAX_PROFILE_BYTES))
    return Profile(sender=sender, incarnation=incarnation, profile=profile)


READ_CONTROL = {
    Kind.HELLO: _hello,
    Kind.PING: _ping,
    Kind.PONG: _pong,
    Kind.PING_REQUEST: _ping_request,
    Kind.VOUCH: _vouch,
    Kind.RUMOUR: _rumour,
    Kind.GOODBYE: _goodbye,
    Kind.PEERS: _peers,
    Kind.TOKEN_ROTATED: _token_rotated,
    Kind.REMOVED: _removed,
    Kind.PROFILE: _profile,
}
