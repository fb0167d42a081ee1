"""From checked fields to the messages of a request, one reader per kind: every range and length stands here."""

import enum
import struct

from peer.errors import BadFrame
from peer.protocol.fields import MAX_TEXT_BYTES, Fields, body_of
from peer.protocol.messages import Assign, Cancel, Codes, Echo, Errand, Failed, Feature, Message, Sound
from peer.protocol.types import (
    MAX_BATCH,
    MAX_BOARDS,
    MODEL_ID_BYTES,
    PEER_ID_BYTES,
    Epoch,
    Exchange,
    FailureReason,
    Incarnation,
    InputKind,
    ModelId,
    PeerId,
    RequestId,
    Shard,
    Timing,
    TokenRange,
    Traffic,
)

MAX_MODELS = 64
_U16, _U32, _U64 = (1 << 16) - 1, (1 << 32) - 1, (1 << 64) - 1
SHARD = struct.Struct(f">{PEER_ID_BYTES}sII")
PATIENCE = struct.Struct(">IIH")  # milliseconds of a round, and below which codes are done without; from which block
TIMES = struct.Struct(">5I")  # microseconds
LONGEST_US = _U32  # 71 minutes


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
    PROFILE = 11
    ASSIGN = 16
    CODES = 17
    FEATURE = 18
    FAILED = 19
    CANCEL = 20
    SPANS_REQUEST = 21
    SPANS = 22
    ERRAND = 23
    SOUND = 24
    ECHO = 25
    FETCH = 32
    CHUNK = 33
    NO_CHUNK = 34


def read_peer(fields: Fields) -> PeerId:
    return PeerId(fields.blob("sender", low=PEER_ID_BYTES, high=PEER_ID_BYTES).hex())


def read_incarnation(fields: Fields) -> Incarnation:
    return Incarnation(fields.integer("incarnation", low=0, high=_U64))


def _request(fields: Fields) -> RequestId:
    return RequestId(fields.integer("request", low=0, high=_U64))


def _attempt(fields: Fields) -> int:
    return fields.integer("attempt", low=0, high=255)


def _epoch(fields: Fields) -> Epoch:
    return Epoch(fields.integer("epoch", low=0, high=_U32))


def _origin(fields: Fields) -> int:
    return fields.integer("origin", low=0, high=MAX_BOARDS - 1)


def _indices(name: str, fields: Fields) -> tuple[int, ...]:
    blob = fields.blob(name, high=2 * MAX_BOARDS)
    if len(blob) % 2:
        raise BadFrame(f"field {name} is not a whole number of indices")
    return struct.unpack(f">{len(blob) // 2}H", blob)


def single(second: bytes | None) -> None:
    if second is not None:
        raise BadFrame("a message that has no body came with a second frame")


def _shards(blob: bytes) -> tuple[Shard, ...]:
    if not blob or len(blob) % SHARD.size:
        raise BadFrame("field shards is not a whole number of records")
    shards = tuple(
        Shard(peer=PeerId(peer.hex()), tokens=TokenRange(start=start, stop=stop))
        for peer, start, stop in SHARD.iter_unpack(blob)
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
    shards = _shards(fields.blob("shards", high=MAX_BOARDS * SHARD.size))
    if coordinator >= len(shards):
        raise BadFrame("an assignment's coordinator is none of its boards")
    deadline_ms = fields.integer("deadline_ms", low=0, high=_U32)
    kind = InputKind(fields.integer("input_kind", low=0, high=len(InputKind) - 1))
    patience = PATIENCE.unpack(fields.blob("patience", low=PATIENCE.size, high=PATIENCE.size))
    round_ms, degrade_ms, degrade_from = patience
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
        deadline_ms=deadline_ms,
        input_kind=kind,
        round_ms=round_ms,
        degrade_ms=degrade_ms,
        degrade_from=degrade_from,
        body=fields.body(second),
    )


def read_codes(values: list[object], second: bytes | None) -> Codes:
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
    lost = _indices("lost", fields)
    prepare, compute, encode, decode, wait = TIMES.unpack(fields.blob("timing", low=TIMES.size, high=TIMES.size))
    timing = Timing(prepare_us=prepare, compute_us=compute, encode_us=encode, decode_us=decode, wait_us=wait)
    traffic = Traffic(
        payload_bytes=fields.integer("payload_bytes", low=0, high=_U64),
        wire_bytes=fields.integer("wire_bytes", low=0, high=_U64),
        messages=fields.integer("messages", low=0, high=_U32),
    )
    body = fields.body(second)
    return Feature(
        request=request,
        attempt=attempt,
        epoch=epoch,
        origin=origin,
        lost=lost,
        timing=timing,
        traffic=traffic,
        body=body,
    )


def _failed(fields: Fields, second: bytes | None) -> Message:
    single(second)
    request, attempt, epoch, origin = _request(fields), _attempt(fields), _epoch(fields), _origin(fields)
    reason = FailureReason(fields.integer("reason", low=1, high=len(FailureReason)))
    missing = _indices("missing", fields)
    return Failed(
        request=request,
        attempt=attempt,
        epoch=epoch,
        origin=origin,
        reason=reason,
        missing=missing,
        detail=fields.text("detail", limit=MAX_TEXT_BYTES),
    )


def _errand(fields: Fields, second: bytes | None) -> Message:
    return Errand(
        request=_request(fields),
        attempt=_attempt(fields),
        epoch=_epoch(fields),
        asker=read_peer(fields),
        model=ModelId(fields.blob("model", low=MODEL_ID_BYTES, high=MODEL_ID_BYTES).hex()),
        batch=fields.integer("batch", low=1, high=MAX_BATCH),
        deadline_ms=fields.integer("deadline_ms", low=0, high=_U32),
        input_kind=InputKind(fields.integer("input_kind", low=0, high=len(InputKind) - 1)),
        body=fields.body(second),
    )


def _sound(fields: Fields, second: bytes | None) -> Message:
    sender, sequence = read_peer(fields), fields.integer("sequence", low=0, high=_U32)
    return Sound(sender=sender, sequence=sequence, body=fields.body(second))


def _echo(fields: Fields, second: bytes | None) -> Message:
    single(second)
    sender, sequence = read_peer(fields), fields.integer("sequence", low=0, high=_U32)
    return Echo(sender=sender, sequence=sequence, busy=fields.flag("busy"))


def _cancel(fields: Fields, second: bytes | None) -> Message:
    single(second)
    return Cancel(request=_request(fields), attempt=_attempt(fields), epoch=_epoch(fields))


READ = {
    Kind.ASSIGN: _assign,
    Kind.FEATURE: _feature,
    Kind.FAILED: _failed,
    Kind.CANCEL: _cancel,
    Kind.ERRAND: _errand,
    Kind.SOUND: _sound,
    Kind.ECHO: _echo,
}
