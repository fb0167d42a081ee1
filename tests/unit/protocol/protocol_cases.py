"""Boards, a small model and messages for the tests of the pure core."""

from dataclasses import replace

from peer.protocol.effects import Effect, Send
from peer.protocol.events import Mode, Submission
from peer.protocol.messages import (
    Assign,
    Cancel,
    Codes,
    Echo,
    Errand,
    Failed,
    Feature,
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
    Sound,
    TokenRotated,
    Vouch,
)
from peer.protocol.partition import partition
from peer.protocol.profile import BoardProfile, CodecTimes, Line, Point, StageTimes
from peer.protocol.span import Span, SpanKind
from peer.protocol.trace_messages import Spans, SpansRequest
from peer.protocol.types import (
    REFUTATION_BITS,
    Address,
    CodecFacts,
    Endpoint,
    Epoch,
    Exchange,
    FailureReason,
    Incarnation,
    InputKind,
    Member,
    ModelFacts,
    ModelId,
    PeerId,
    RequestId,
    Shard,
    Status,
    Timing,
    TokenRange,
    Traffic,
    View,
    peer_id,
)

MODEL = ModelId("ab" * 32)
BLOCKS, TOKENS, ROW_BYTES, WIDTH = 3, 16, 4, 2
FACTS = ModelFacts(
    model=MODEL,
    name="tiny",
    blocks=BLOCKS,
    tokens=TOKENS,
    row_bytes=ROW_BYTES,
    width=WIDTH,
    default_codec="plain",
    codecs={
        "plain": CodecFacts(name="plain", bits_per_token=(64, 72, 80)),
        "huge": CodecFacts(name="huge", bits_per_token=(1 << 28, 8, 8)),
    },
    labels=3,
    size_bytes=1000,
)
KEY = bytes(range(100, 132))
REQUEST = RequestId(0x0123456789ABCDEF)


def peer(index: int) -> PeerId:
    return PeerId(f"{index + 1:016x}")


def member(index: int, *, incarnation: int = 1, status: Status = Status.ALIVE, model: ModelId = MODEL) -> Member:
    return Member(
        peer=peer(index),
        name=f"board{index}",
        endpoint=Endpoint(host=f"10.0.0.{index + 1}", port=7411),
        public_key=bytes([index + 1]) * 32,
        incarnation=Incarnation(incarnation << REFUTATION_BITS),
        status=status,
        models=frozenset({model}),
    )


def view(boards: int, me: int = 0) -> View:
    return View(self_id=peer(me), members={peer(i): member(i) for i in range(boards)})


def changed(old: View, index: int, *, status: Status = Status.ALIVE, incarnation: int = 1) -> View:
    """`old` with another opinion of one board."""
    return replace(old, members={**old.members, peer(index): member(index, status=status, incarnation=incarnation)})


def submission(
    *,
    request: RequestId = REQUEST,
    boards: int | None = None,
    mode: Mode = Mode.SEQUENCE,
    exchange: Exchange = Exchange.DIRECT,
    shares: tuple[float, ...] | None = None,
    codec: str = "plain",
    batch: int = 1,
    deadline_at: float = 100.0,
    file: bytes | None = None,
    model: ModelId = MODEL,
) -> Submission:
    return Submission(
        request=request,
        model=model,
        codec=codec,
        exchange=exchange,
        mode=mode,
        boards=boards,
        shares=shares,
        batch=batch,
        deadline_at=deadline_at,
        rows=bytes(i % 251 for i in range(batch * TOKENS * ROW_BYTES)),
        file=file,
    )


def shards(boards: int) -> tuple[Shard, ...]:
    ranges = partition(TOKENS, [1.0] * boards)
    return tuple(Shard(peer=peer(i), tokens=tokens) for i, tokens in enumerate(ranges))


def assign(
    boards: int,
    *,
    exchange: Exchange = Exchange.DIRECT,
    attempt: int = 1,
    coordinator: int = 0,
    deadline_ms: int = 60_000,
    round_ms: int = 5_000,
    degrade_ms: int = 0,
    degrade_from: int = 1000,
    request: RequestId = REQUEST,
) -> Assign:
    return Assign(
        request=request,
        attempt=attempt,
        epoch=Epoch(7),
        model=MODEL,
        codec="plain",
        exchange=exchange,
        batch=1,
        coordinator=coordinator,
        shards=shards(boards),
        deadline_ms=deadline_ms,
        round_ms=round_ms,
        degrade_ms=degrade_ms,
        degrade_from=degrade_from,
        input_kind=InputKind.ROWS,
        body=b"rows",
    )


def codes_length(boards: int, origin: int, block: int) -> int:
    tokens = shards(boards)[origin].tokens.count
    return FACTS.codecs["plain"].payload_bytes(block=block, tokens=tokens, batch=1)


def codes(
    boards: int, origin: int, block: int, *, attempt: int = 1, epoch: int = 7, request: RequestId = REQUEST
) -> Codes:
    body = bytes([origin * 16 + block]) * codes_length(boards, origin, block)
    return Codes(request=request, attempt=attempt, epoch=Epoch(epoch), block=block, origin=origin, body=body)


def feature(
    origin: int, *, epoch: Epoch, attempt: int = 1, size: int = 4 * WIDTH, lost: tuple[int, ...] = ()
) -> Feature:
    return Feature(
        request=REQUEST,
        attempt=attempt,
        epoch=epoch,
        origin=origin,
        lost=lost,
        timing=Timing(),
        traffic=Traffic(),
        body=bytes([origin]) * size,
    )


def failed(
    origin: int,
    *,
    epoch: Epoch,
    reason: FailureReason = FailureReason.ROUND_TIMEOUT,
    missing: tuple[int, ...] = (),
    attempt: int = 1,
) -> Failed:
    return Failed(
        request=REQUEST, attempt=attempt, epoch=epoch, origin=origin, reason=reason, missing=missing, detail="why"
    )


def names(effects: list[Effect]) -> list[str]:
    """Short words for effects: a Send is named by what it sends."""
    return [type(e.message if isinstance(e, Send) else e).__name__ for e in effects]


SAMPLES: dict[str, Message] = {
    "hello": Hello(
        sender=peer_id(KEY),
        public_key=KEY,
        incarnation=Incarnation(41),
        name="board-b",
        endpoint=Endpoint(host="192.168.1.7", port=7411),
        models=(MODEL, ModelId("0c" * 32)),
        answer=False,
    ),
    "ping": Ping(sender=peer(1), incarnation=Incarnation(41), sequence=7, speed=1234.5),
    "pong": Pong(sender=peer(2), incarnation=Incarnation(1 << 40), sequence=4_000_000_000, stuck_ms=3001),
    "ping request": PingRequest(sender=peer(1), incarnation=Incarnation(41), target=peer(2), sequence=8),
    "vouch": Vouch(sender=peer(2), incarnation=Incarnation(41 << 16), target=peer(1), sequence=8),
    "rumour": Rumour(
        sender=peer(1),
        incarnation=Incarnation(41),
        about=peer(3),
        about_incarnation=Incarnation(3 << 16 | 2),
        status=Status.SUSPECT,
    ),
    "peers": Peers(
        sender=peer(1),
        incarnation=Incarnation(41),
        addresses=(Address(host="192.168.1.7", port=7411), Address(host="fe80::7%eth0", port=40_000)),
    ),
    "token rotated": TokenRotated(sender=peer(1), incarnation=Incarnation(41), generation=3, token=bytes(range(32))),
    "removed": Removed(sender=peer(1), incarnation=Incarnation(41), about=peer(3), revoked=True),
    "goodbye": Goodbye(sender=peer(1), incarnation=Incarnation(41)),
    "assign": Assign(
        request=REQUEST,
        attempt=2,
        epoch=Epoch(0xDEADBEEF),
        model=MODEL,
        codec="int8",
        exchange=Exchange.RING,
        batch=3,
        coordinator=1,
        shards=(
            Shard(peer=peer(0), tokens=TokenRange(start=0, stop=7)),
            Shard(peer=peer(1), tokens=TokenRange(start=7, stop=16)),
        ),
        deadline_ms=29_500,
        round_ms=750,
        degrade_ms=2_000,
        degrade_from=4,
        input_kind=InputKind.ROWS,
        body=bytes(range(32)),
    ),
    "codes": Codes(
        request=REQUEST, attempt=2, epoch=Epoch(0xDEADBEEF), block=11, origin=1, body=b"\x00\x01codes\xfe\xff"
    ),
    "feature": Feature(
        request=REQUEST,
        attempt=2,
        epoch=Epoch(0xDEADBEEF),
        origin=1,
        lost=(0, 1023),
        timing=Timing(prepare_us=1, compute_us=20_000, encode_us=300, decode_us=40, wait_us=5_000_000),
        traffic=Traffic(payload_bytes=70_000, wire_bytes=71_234, messages=36),
        body=bytes(range(16)),
    ),
    "failed": Failed(
        request=REQUEST,
        attempt=2,
        epoch=Epoch(0xDEADBEEF),
        origin=0,
        reason=FailureReason.ROUND_TIMEOUT,
        missing=(1, 700),
        detail="no codes for 5 s",
    ),
    "profile": Profile(
        sender=peer(1),
        incarnation=Incarnation(41),
        profile=BoardProfile(
            rate=12.5e6,
            free_bytes=700 << 20,
            models=(
                StageTimes(
                    model=MODEL,
                    points=(
                        Point(tokens=1, begin_s=0.25, query_s=0.125, attend_s=0.5, last_s=0.375),
                        Point(tokens=16, begin_s=0.5, query_s=0.25, attend_s=2.0, last_s=0.5),
                    ),
                    whole_s=6.5,
                    head_s=0.0625,
                    codecs=(
                        CodecTimes(
                            codec=1,
                            encode=Line(fixed_s=0.25, token_s=0.0625),
                            decode=Line(fixed_s=0.125, token_s=0.03125),
                        ),
                    ),
                ),
            ),
        ),
    ),
    "errand": Errand(
        request=REQUEST,
        attempt=1,
        epoch=Epoch(0xDEADBEEF),
        asker=peer(0),
        model=MODEL,
        batch=1,
        deadline_ms=29_500,
        input_kind=InputKind.FILE,
        body=b"a picture",
    ),
    "sound": Sound(sender=peer(1), sequence=9, body=bytes(8)),
    "echo": Echo(sender=peer(2), sequence=9, busy=True),
    "cancel": Cancel(request=REQUEST, attempt=2, epoch=Epoch(0xDEADBEEF)),
    "spans request": SpansRequest(sender=peer(1), sequence=9, request=REQUEST, asked_us=123_456_789),
    "spans": Spans(
        sender=peer(2),
        sequence=9,
        request=REQUEST,
        asked_us=123_456_789,
        received_us=987_654_321_000,
        sent_us=987_654_321_400,
        spans=(
            (1, Span(SpanKind.ENCODE, 0, 1, 987_654.0, 987_654.000_25)),
            (1, Span(SpanKind.CAME, 0, 2, 987_654.001, 987_654.001)),
            (2, Span(SpanKind.ATTEND, 11, 1, 987_654.002, 987_654.009)),
        ),
    ),
}
