"""One membership machine with a few boards, and what they say to it; shared by the tests of membership."""

from random import Random

from peer.protocol.control_events import ControlEffect, ControlReceived, Knock, SendControl, TimerDue
from peer.protocol.liveness import Pace
from peer.protocol.membership import Membership
from peer.protocol.messages import (
    ControlMessage,
    Goodbye,
    Hello,
    Peers,
    Ping,
    PingRequest,
    Pong,
    Removed,
    Rumour,
    TokenRotated,
    Vouch,
)
from peer.protocol.types import Address, Endpoint, Incarnation, Lock, Member, ModelId, PeerId, Status, peer_id

MODEL, OTHER = ModelId("5a" * 32), ModelId("77" * 32)
PACE = Pace()
ALIVE, SUSPECT, DEAD, LEFT = Status.ALIVE, Status.SUSPECT, Status.DEAD, Status.LEFT
BOOT = 3 << 16  # of every board here
LATER = BOOT + 1
NEXT_BOOT = 4 << 16


def key(index: int) -> bytes:
    return index.to_bytes(32, "big")


def peer(index: int) -> PeerId:
    return peer_id(key(index))


def board(index: int = 1, incarnation: int = BOOT) -> Member:
    return Member(
        peer=peer(index),
        name=f"b{index}",
        endpoint=Endpoint(host=f"h{index}", port=7411),
        public_key=key(index),
        incarnation=Incarnation(incarnation),
        status=ALIVE,
        models=frozenset({MODEL}),
    )


def machine(*seeds: Address, remembered: tuple[Member, ...] = (), lock: Lock | None = None) -> Membership:
    return Membership(me=board(1), seeds=seeds, remembered=remembered, lock=lock, pace=PACE, rng=Random(1), now=0.0)


def hello(
    index: int, *, incarnation: int = BOOT, answer: bool = False, host: str = "", models: tuple[ModelId, ...] = (MODEL,)
) -> Hello:
    return Hello(
        sender=peer(index),
        public_key=key(index),
        incarnation=Incarnation(incarnation),
        name=f"b{index}",
        endpoint=Endpoint(host=host, port=7411),
        models=models,
        answer=answer,
    )


def ping(index: int, incarnation: int = BOOT) -> Ping:
    return Ping(sender=peer(index), incarnation=Incarnation(incarnation), sequence=5, speed=2.0)


def rumour(index: int, about: int, status: Status, incarnation: int = BOOT) -> Rumour:
    return Rumour(
        sender=peer(index),
        incarnation=Incarnation(BOOT),
        about=peer(about),
        about_incarnation=Incarnation(incarnation),
        status=status,
    )


def said(index: int) -> list[ControlMessage]:
    """One of everything a member may say."""
    who, incarnation = peer(index), Incarnation(BOOT)
    return [
        ping(index),
        Pong(sender=who, incarnation=incarnation, sequence=1, stuck_ms=0),
        PingRequest(sender=who, incarnation=incarnation, target=peer(3), sequence=1),
        Vouch(sender=who, incarnation=incarnation, target=peer(3), sequence=1),
        rumour(index, 3, DEAD),
        Goodbye(sender=who, incarnation=incarnation),
        Peers(sender=who, incarnation=incarnation, addresses=(Address(host="evil", port=7411),)),
        TokenRotated(sender=who, incarnation=incarnation, generation=9, token=bytes(32)),
        Removed(sender=who, incarnation=incarnation, about=peer(3), revoked=True),
    ]


EVERYTHING = range(len(said(2)))


def hear(
    one: Membership, message: ControlMessage, now: float = 0.0, *, key_of: int | None = None, door: bool = False
) -> list[ControlEffect]:
    """A message under its sender's key, unless another's is named, or through the door."""
    sender = None if door else message.sender if key_of is None else peer(key_of)
    source = next((f"h{i}" for i in range(1, 12) if peer(i) == message.sender), "h?")
    effects = one.handle(ControlReceived(message=message, sender=sender, source=source, door=door), now)
    one.check()
    return effects


def tick(one: Membership, now: float) -> list[ControlEffect]:
    """Every timer until `now`, none of them late."""
    effects = []
    while (at := one.deadline()) is not None and at <= now:
        effects += one.handle(TimerDue(), at)
        one.check()
    return effects


def messages(effects: list[ControlEffect], kind: type = object) -> list[ControlMessage]:
    return [e.message for e in effects if isinstance(e, SendControl | Knock) and isinstance(e.message, kind)]


def status(one: Membership, index: int) -> Status | None:
    member = one.view().members.get(peer(index))
    return member.status if member else None


def ring_of(*others: int, lock: Lock | None = None) -> Membership:
    """A machine that holds `others` alive."""
    one = machine(lock=lock)
    for index in others:
        hear(one, hello(index, answer=True))
        assert status(one, index) is ALIVE
    return one


def died_at(one: Membership, index: int) -> float:
    """When `index` is given up while all others answer every ping at once."""
    while status(one, index) is not DEAD:
        now = one.deadline()
        assert now is not None
        for effect in one.handle(TimerDue(), now):
            if isinstance(effect, SendControl) and isinstance(effect.message, Ping) and effect.to.peer != peer(index):
                hear(one, pong_of(effect), now)
    return now


def pong_of(effect: SendControl, stuck_ms: int = 0) -> Pong:
    assert isinstance(effect.message, Ping)
    return Pong(
        sender=effect.to.peer, incarnation=effect.to.incarnation, sequence=effect.message.sequence, stuck_ms=stuck_ms
    )


def pings(effects: list[ControlEffect]) -> dict[PeerId, SendControl]:
    return {e.to.peer: e for e in effects if isinstance(e, SendControl) and isinstance(e.message, Ping)}
