"""Who is here: hellos to seeds, pings to members, silence turned into suspect and then dead.

Pure: `handle(event, now) -> effects`. Members are found through static seeds; what a board says of itself counts only
for itself. Legal changes of a member's status:

    alive         no sign of life for suspect_s, or its data link broke      -> suspect
    suspect,dead  any message of its current incarnation                     -> alive, or incompatible as before
    suspect       no sign of life for dead_s                                 -> dead
    *             Hello of the same or a higher incarnation                  -> alive
    *             Goodbye of its current incarnation                         -> left
    left          Hello of the same incarnation                              -> left
    incompatible  silent for dead_s                                          -> dead
    *             Hello of another protocol version, or without common model -> incompatible
"""

from collections import Counter
from dataclasses import dataclass, replace

from peer.protocol.control_events import (
    Address,
    ControlEffect,
    ControlEvent,
    ControlReceived,
    LeaveRequested,
    LinkBroke,
    Publish,
    SendControl,
    TimerDue,
)
from peer.protocol.dials import Dials
from peer.protocol.messages import ControlMessage, Goodbye, Hello, Ping, Pong, Stranger
from peer.protocol.types import Endpoint, Incarnation, Member, ModelId, PeerId, Status, View

__all__ = [
    "Address",
    "ControlEffect",
    "ControlEvent",
    "ControlReceived",
    "LeaveRequested",
    "LinkBroke",
    "Membership",
    "Pace",
    "Publish",
    "SendControl",
    "TimerDue",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Timing of membership, seconds."""

    ping_s: float = 1.0
    suspect_s: float = 3.0
    dead_s: float = 6.0
    hello_first_s: float = 0.2  # to a silent seed or a dead member; doubles up to hello_last_s
    hello_last_s: float = 5.0


MAX_MEMBERS = 256  # strangers cannot make the list grow without end


@dataclass(slots=True)
class _Contact:
    """Private state beside a member's public record."""

    heard_at: float
    ping_at: float
    sequence: int = 0
    pinged_at: float | None = None  # None: no Pong is awaited


class Membership:
    """The membership machine of one board."""

    def __init__(self, *, me: Member, seeds: tuple[Address, ...], pace: Pace, now: float) -> None:
        self.counters: Counter[str] = Counter()
        self._me = me
        self._pace = pace
        self._members: dict[PeerId, Member] = {me.peer: replace(me, since_s=now)}
        self._contacts: dict[PeerId, _Contact] = {}
        own = Address(host=me.endpoint.host, port=me.endpoint.control_port)
        self._leaving = False
        self._dials = Dials(
            seeds=tuple(seed for seed in seeds if seed != own),
            first_s=pace.hello_first_s,
            last_s=pace.hello_last_s,
            now=now,
        )

    def view(self) -> View:
        return View(self_id=self._me.peer, members=dict(self._members))

    def set_speed(self, speed: float) -> None:
        """What this board measured of itself; travels with its pings."""
        self._me = replace(self._me, speed=speed)
        self._members[self._me.peer] = replace(self._members[self._me.peer], speed=speed)

    def deadline(self) -> float | None:
        """Local monotonic time at which a TimerDue is wanted, or None."""
        if self._leaving:
            return None
        greeting_at = self._dials.deadline(self._silent)
        times = [] if greeting_at is None else [greeting_at]
        times += [c.ping_at for peer, c in self._contacts.items() if self._pinged(peer)]
        return min(times, default=None)

    def handle(self, event: ControlEvent, now: float) -> list[ControlEffect]:
        """The one mutating entry."""
        before = self._facts()
        match event:
            case ControlReceived():
                effects = self._received(event.message, event.source, now)
            case LinkBroke(peer=peer):
                effects = self._link_broke(peer, now)
            case TimerDue():
                effects = self._timer(now)
            case LeaveRequested():
                goodbye = Goodbye(sender=self._me.peer, incarnation=self._me.incarnation)
                effects = [self._to(peer, goodbye) for peer in self._contacts]
                self._leaving = True  # from here on nothing is said that could bring this board back
        if self._facts() != before:
            effects.append(Publish(view=self.view()))
        return effects

    def check(self) -> None:
        """Invariants, for tests."""
        assert self._members[self._me.peer].status is Status.ALIVE
        assert len(self._members) <= MAX_MEMBERS + 1
        assert self._contacts.keys() <= self._members.keys() - {self._me.peer}
        assert all(self._members[peer].status is not Status.LEFT for peer in self._contacts)
        for member in self._members.values():
            assert member.status is not Status.ALIVE or self._standing(member.models) is Status.ALIVE

    def _facts(self) -> dict[PeerId, tuple[object, ...]]:
        return {m.peer: (m.status, m.incarnation, m.endpoint, m.models, m.name) for m in self._members.values()}

    def _received(self, message: ControlMessage, source: str, now: float) -> list[ControlEffect]:
        if message.sender == self._me.peer:
            return self._mirror(message)
        match message:
            case Hello():
                return self._hello(message, source, now)
            case Stranger():
                self._stranger(message, now)
            case Ping():
                if self._heard(message.sender, message.incarnation, now):
                    if message.speed:
                        self._update(message.sender, speed=message.speed)
                    if self._leaving:
                        return []
                    pong = Pong(sender=self._me.peer, incarnation=self._me.incarnation, sequence=message.sequence)
                    return [self._to(message.sender, pong)]
            case Pong():
                contact = self._contacts.get(message.sender)
                heard = self._heard(message.sender, message.incarnation, now)
                if not heard or contact is None or contact.pinged_at is None:
                    return []
                if message.sequence == contact.sequence:
                    self._update(message.sender, rtt_s=now - contact.pinged_at)
                    contact.pinged_at = None  # a second copy of the answer measures nothing
            case Goodbye():
                member = self._members.get(message.sender)
                if member is not None and message.incarnation == member.incarnation:
                    self._set(message.sender, Status.LEFT, "said goodbye", now)
        return []

    def _mirror(self, message: ControlMessage) -> list[ControlEffect]:
        """A message under our own id: our own address is among the seeds, or another board has a copy of our state."""
        if isinstance(message, Hello) and message.incarnation != self._me.incarnation:
            self.counters["own_id_seen_elsewhere"] += 1
        if isinstance(message, Hello) and message.incarnation == self._me.incarnation:
            self._dials.mirrored(self._me.peer, self._me.endpoint.control_port)
        return []

    def _hello(self, hello: Hello, source: str, now: float) -> list[ControlEffect]:
        known = self._members.get(hello.sender)
        if known is not None and hello.incarnation < known.incarnation:
            self.counters["old_incarnations"] += 1
            return []
        if not self._room_for(hello.sender, now):
            return []
        if known is not None and known.status is Status.LEFT and hello.incarnation == known.incarnation:
            return []
        endpoint = replace(hello.endpoint, host=hello.endpoint.host or source)
        models = frozenset(hello.models)
        status = self._standing(models)
        keep = known is not None and known.status is status
        self._members[hello.sender] = Member(
            peer=hello.sender,
            name=hello.name,
            endpoint=endpoint,
            incarnation=hello.incarnation,
            status=status,
            reason="" if status is Status.ALIVE else self._model_mismatch(models),
            models=models,
            rtt_s=known.rtt_s if known else None,
            speed=known.speed if known else None,
            since_s=known.since_s if known is not None and keep else now,
        )
        contact = self._contacts.setdefault(hello.sender, _Contact(heard_at=now, ping_at=now))
        contact.heard_at = now
        address = Address(host=endpoint.host, port=endpoint.control_port)
        self._dials.answered(address, hello.sender, now)
        if hello.answer or self._leaving:
            return []
        return [SendControl(to=address, message=self._own_hello(answer=True))]

    def _room_for(self, peer: PeerId, now: float) -> bool:
        """Whether `peer` can be listed; of a full list, whoever is gone for longest makes room."""
        if peer in self._members or len(self._members) <= MAX_MEMBERS:
            return True
        gone = [
            member
            for member in self._members.values()
            if member.status is Status.DEAD or (member.peer not in self._contacts and member.peer != self._me.peer)
        ]
        if not gone:
            self.counters["members_refused"] += 1
            return False
        oldest = min(gone, key=lambda member: member.since_s).peer
        self._dials.released(oldest, now)
        self._contacts.pop(oldest, None)
        del self._members[oldest]
        return True

    def _standing(self, models: frozenset[ModelId]) -> Status:
        """What a board is that answers and holds `models`."""
        return Status.ALIVE if not self._me.models or models & self._me.models else Status.INCOMPATIBLE

    def _model_mismatch(self, theirs: frozenset[ModelId]) -> str:
        def short(models: frozenset[ModelId]) -> str:
            return ",".join(sorted(model[:12] for model in models)) or "none"

        mine = short(self._me.models)
        return f"holds models {short(theirs)}, this board {mine}; give both the same model folder"

    def _stranger(self, message: Stranger, now: float) -> None:
        if not self._room_for(message.sender, now):
            return
        reason = f"speaks protocol {message.version}; install the same release of tokenring on both boards"
        known = self._members.get(message.sender)
        self._members[message.sender] = Member(
            peer=message.sender,
            name=message.name,
            endpoint=known.endpoint if known else Endpoint(host="", control_port=1, data_port=1),
            incarnation=known.incarnation if known else Incarnation(0),
            status=Status.INCOMPATIBLE,
            reason=reason,
            since_s=known.since_s if known is not None and known.status is Status.INCOMPATIBLE else now,
        )
        self._contacts.pop(message.sender, None)
        self._dials.released(message.sender, now)

    def _heard(self, peer: PeerId, incarnation: Incarnation, now: float) -> bool:
        """A sign of life of the incarnation that is known; a newer one has to say Hello first."""
        member, contact = self._members.get(peer), self._contacts.get(peer)
        if member is None or contact is None or incarnation != member.incarnation:
            self.counters["unknown_senders"] += 1
            return False
        contact.heard_at = now
        if member.status is Status.SUSPECT or member.status is Status.DEAD:
            status = self._standing(member.models)
            reason = "" if status is Status.ALIVE else self._model_mismatch(member.models)
            self._set(peer, status, reason, now)
        return True

    def _link_broke(self, peer: PeerId, now: float) -> list[ControlEffect]:
        member, contact = self._members.get(peer), self._contacts.get(peer)
        if member is None or contact is None or member.status is not Status.ALIVE:
            return []
        self._set(peer, Status.SUSPECT, "its data link broke", now)
        # Without a fresh sign of life it is dead after as long as a silent board takes from suspect to dead.
        contact.heard_at = min(contact.heard_at, now - self._pace.suspect_s)
        return [self._ping(peer, contact, now)]

    def _timer(self, now: float) -> list[ControlEffect]:
        effects: list[ControlEffect] = []
        if self._leaving:
            return effects
        hello = self._own_hello(answer=False)
        effects += [SendControl(to=address, message=hello) for address in self._dials.due(self._silent, now)]
        for peer, contact in self._contacts.items():
            if not self._pinged(peer):
                continue
            silent_s = now - contact.heard_at
            status = self._members[peer].status
            if silent_s >= self._pace.dead_s:
                self._set(peer, Status.DEAD, f"silent for {silent_s:.1f} s", now)
                continue
            if silent_s >= self._pace.suspect_s and status is Status.ALIVE:
                self._set(peer, Status.SUSPECT, f"silent for {silent_s:.1f} s", now)
            if now >= contact.ping_at:
                effects.append(self._ping(peer, contact, now))
        return effects

    def _ping(self, peer: PeerId, contact: _Contact, now: float) -> ControlEffect:
        contact.sequence = (contact.sequence + 1) % (1 << 32)
        contact.pinged_at = now
        contact.ping_at = now + self._pace.ping_s
        ping = Ping(
            sender=self._me.peer,
            incarnation=self._me.incarnation,
            sequence=contact.sequence,
            speed=self._me.speed or 0.0,
        )
        return self._to(peer, ping)

    def _silent(self, peer: PeerId) -> bool:
        """Members that have to be greeted: suspect or dead, but not who left."""
        return self._members[peer].status in (Status.SUSPECT, Status.DEAD)

    def _pinged(self, peer: PeerId) -> bool:
        return self._members[peer].status in (Status.ALIVE, Status.SUSPECT, Status.INCOMPATIBLE)

    def _own_hello(self, *, answer: bool) -> Hello:
        me = self._me
        return Hello(
            sender=me.peer,
            incarnation=me.incarnation,
            name=me.name,
            endpoint=me.endpoint,
            models=tuple(sorted(me.models)),
            answer=answer,
        )

    def _to(self, peer: PeerId, message: ControlMessage) -> SendControl:
        endpoint = self._members[peer].endpoint
        return SendControl(to=Address(host=endpoint.host, port=endpoint.control_port), message=message)

    def _update(self, peer: PeerId, *, rtt_s: float | None = None, speed: float | None = None) -> None:
        member = self._members[peer]
        self._members[peer] = replace(
            member,
            rtt_s=member.rtt_s if rtt_s is None else rtt_s,
            speed=member.speed if speed is None else speed,
        )

    def _set(self, peer: PeerId, status: Status, reason: str, now: float) -> None:
        member = self._members[peer]
        if member.status is not status:
            self._members[peer] = replace(member, status=status, reason=reason, since_s=now)
            if status is Status.LEFT:
                self._contacts.pop(peer, None)
                self._dials.released(peer, now)
