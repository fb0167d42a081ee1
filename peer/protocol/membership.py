"""Who is here: SWIM with Lifeguard's patience, admission through the door, and a view every board derives alike.

Pure: `handle(event, now) -> effects`; randomness is injected. A board is listed after its own Hello, through the door
(it holds the cluster token) or, when it was admitted before, under its own key. What others say about it is merged by
the rule in `roster`. Life and death of a member:

    joining       its answer, or any message under its key                     -> alive
    alive         no Pong, and nobody vouches for it                           -> suspect, told to everybody
    suspect       its refutation with a higher incarnation, its Pong to us     -> alive
    suspect       Lifeguard's patience is over                                 -> dead, told to everybody
    dead          its own Hello, its refutation                                -> alive
    any           Goodbye of its current incarnation                           -> left
    any           Hello of another protocol version, or without common model   -> incompatible
    any           a person removes it                                          -> not listed, or refused for good
"""

from collections import Counter
from typing import assert_never

from peer.protocol.control_events import (
    Admit,
    AdoptToken,
    ControlEffect,
    ControlEvent,
    ControlReceived,
    Knock,
    LeaveRequested,
    LinkBroke,
    Publish,
    RemovalRequested,
    SendControl,
    Sighted,
    TimerDue,
    TokenChanged,
)
from peer.protocol.dials import Dials
from peer.protocol.liveness import Liveness, Pace
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
    Stranger,
    TokenRotated,
    Vouch,
)
from peer.protocol.probing import Chance
from peer.protocol.roster import Roster
from peer.protocol.speaker import Speaker
from peer.protocol.types import Address, Lock, Member, PeerId, Status, View, boot

MAX_TOMBSTONES = 1024
_HERE = (Status.ALIVE, Status.SUSPECT)


class Membership:
    """The membership machine of one board."""

    def __init__(
        self,
        *,
        me: Member,
        seeds: tuple[Address, ...],
        remembered: tuple[Member, ...] = (),
        lock: Lock | None = None,
        pace: Pace,
        rng: Chance,
        now: float,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.stuck_s = 0.0  # how long this board's own worker has been in its current step; the shell keeps it fresh
        self._pace = pace
        self._roster = Roster(me, now)
        self._say = Speaker(self._roster)
        self._live = Liveness(roster=self._roster, speaker=self._say, pace=pace, rng=rng, now=now)
        self._tombstones: dict[PeerId, bool] = {}
        self._lock = lock
        self._left = False
        own = Address(host=me.endpoint.host, port=me.endpoint.port)
        self._dials = Dials(own=own, seeds=seeds, first_s=pace.hello_first_s, last_s=pace.hello_last_s, now=now)
        for member in remembered:
            self._roster.remember(member)
            self._live.greet_at(member.peer, now)

    def view(self) -> View:
        return self._roster.view()

    def admitted(self) -> frozenset[bytes]:
        """Public keys that may talk to this board."""
        return self._roster.keys()

    def set_speed(self, speed: float) -> None:
        """What this board measured of itself; travels with its pings."""
        self._roster.update(self._roster.me.peer, speed=speed)

    def deadline(self) -> float | None:
        """Local monotonic time at which a TimerDue is wanted; None after leaving."""
        if self._left:
            return None
        greet_at = self._dials.deadline()
        live_at = self._live.deadline()
        return live_at if greet_at is None else min(live_at, greet_at)

    def handle(self, event: ControlEvent, now: float) -> list[ControlEffect]:
        """The one mutating entry."""
        facts, keys = self._roster.facts(), self._roster.keys()
        due_at = self.deadline()
        match event:
            case ControlReceived():
                effects = self._received(event, now)
            case Sighted(address=address):
                self._dials.hint(address, now)
                effects = []
            case LinkBroke(peer=peer):
                effects = [] if self._left else self._live.link_broke(peer, now)
            case TimerDue():
                effects = self._timer(now, late_s=0.0 if due_at is None else now - due_at)
            case LeaveRequested():
                effects = self._leave()
            case RemovalRequested():
                effects = self._remove(event.peer, revoked=event.revoked, tell=True, now=now)
            case TokenChanged(token=token):
                effects = self._change_token(token)
            case _ as never:
                assert_never(never)
        if self._roster.keys() != keys:
            # Before anything is sent: whoever answers must find the door of the control socket open.
            effects.insert(0, Admit(keys=self._roster.keys()))
        if self._roster.facts() != facts:
            effects.append(Publish(view=self.view()))
        return effects

    def check(self) -> None:
        """Invariants, for tests."""
        self._roster.check()
        self._live.check()
        assert len(self._tombstones) <= MAX_TOMBSTONES

    def _received(self, event: ControlReceived, now: float) -> list[ControlEffect]:
        message = event.message
        if message.sender == self._roster.me.peer:
            if isinstance(message, Hello) and message.incarnation != self._roster.me.incarnation:
                self.counters["own_id_seen_elsewhere"] += 1
            return []
        if isinstance(message, Stranger):
            return self._stranger(message, now)
        if isinstance(message, Hello):
            return self._hello(message, event, now)
        if event.door or (event.sender is not None and event.sender != message.sender):
            self.counters["forged"] += 1
            return []
        member = self._roster.get(message.sender)
        if member is None or boot(message.incarnation) != boot(member.incarnation):
            self.counters["unknown_senders"] += 1
            # Somebody whose key is admitted and whom we do not know as it is now: let it introduce itself.
            return [] if member is None or self._left else self._live.greet(member)
        if message.incarnation > member.incarnation:
            # Its own word, under its own key: a refutation that we missed.
            member = self._roster.update(member.peer, incarnation=message.incarnation)
        return [*self._joined(member, now), *self._known(message, member, now)]

    def _known(self, message: ControlMessage, member: Member, now: float) -> list[ControlEffect]:
        """A message of a member in its current incarnation."""
        match message:
            case Ping():
                return self._ping(message, member)
            case Pong():
                return self._live.pong(message, now)
            case PingRequest(target=target, sequence=sequence):
                return self._live.ping_for(member, target, sequence, now)
            case Vouch():
                self._live.vouched(message, now)
            case Rumour():
                return self._live.rumour(message, now)
            case Goodbye():
                self._forget(member.peer)
                self._dials.released(member.peer, now)
                self._roster.mark(member.peer, Status.LEFT, "said goodbye", now)
            case Peers(addresses=addresses):
                for address in addresses:
                    self._dials.hint(address, now)
            case TokenRotated():
                return self._token_news(message)
            case Removed(about=about, revoked=revoked):
                return self._remove(about, revoked=revoked, tell=False, now=now)
            case Hello() | Stranger():
                raise AssertionError("introductions are read before the sender is known")
            case _ as never:
                assert_never(never)
        return []

    def _hello(self, hello: Hello, event: ControlReceived, now: float) -> list[ControlEffect]:
        peer, known = hello.sender, self._roster.get(hello.sender)
        refusal = self._refusal(hello, event, known)
        if refusal is not None:
            self.counters[refusal] += 1
            return []
        self._tombstones.pop(peer, None)
        # An answer, or a word under its own key, proves that the board has let us in; a knock at our door does not.
        both_ways = hello.answer or not event.door
        fresh = known is None or boot(known.incarnation) != boot(hello.incarnation) or known.status not in _HERE
        self._enter(hello, event.source, known, fresh=fresh, both_ways=both_ways, now=now)
        member = self._roster.get(peer)
        if member is None or self._left:
            return []
        self._dials.answered(Address(host=member.endpoint.host, port=member.endpoint.port), peer, now)
        effects: list[ControlEffect] = [] if hello.answer else [self._answer(member, door=event.door)]
        return effects + self._welcome(member) if fresh and both_ways else effects

    def _refusal(self, hello: Hello, event: ControlReceived, known: Member | None) -> str | None:
        """Why a Hello is not taken: the name of a counter; None when it is."""
        if not event.door and event.sender is not None and event.sender != hello.sender:
            return "forged"
        if self._tombstones.get(hello.sender):
            return "revoked_boards"
        if known is not None and hello.incarnation < known.incarnation:
            return "old_incarnations"
        if known is not None and known.status is Status.LEFT and hello.incarnation == known.incarnation:
            return "old_incarnations"
        return None if self._roster.room_for(hello.sender) else "members_refused"

    def _enter(
        self, hello: Hello, source: str, known: Member | None, *, fresh: bool, both_ways: bool, now: float
    ) -> None:
        """Write down who said Hello, with the status that follows from what is known of it."""
        peer = hello.sender
        status, reason = self._roster.standing(frozenset(hello.models))
        if status is Status.ALIVE and not both_ways and (fresh or peer in self._roster.joining):
            self._roster.joining.add(peer)
            status, reason = Status.SUSPECT, "joining"
        elif status is Status.ALIVE and not both_ways and known is not None:
            status, reason = known.status, known.reason
        else:
            gone = known is not None and known.status in (Status.DEAD, Status.SUSPECT)
            same = known is not None and boot(known.incarnation) == boot(hello.incarnation)
            if status is Status.ALIVE and gone and same and peer not in self._roster.joining:
                status, reason = self._live.revived(peer, now)
            self._roster.joining.discard(peer)
            self._live.forget(peer)
        self._roster.enter(hello, source, status, reason, now)

    def _welcome(self, member: Member) -> list[ControlEffect]:
        """What somebody who has just come needs: a first ping, the other boards' doors, a token it may have missed."""
        me = self._roster.me
        doors = [
            Address(host=other.endpoint.host, port=other.endpoint.port)
            for other in self._roster.others(Status.ALIVE)
            if other.peer != member.peer
        ]
        effects: list[ControlEffect] = [SendControl(to=member, message=self._say.ping(0))]
        if doors:
            news = Peers(sender=me.peer, incarnation=me.incarnation, addresses=tuple(doors))
            effects.append(SendControl(to=member, message=news))
        if self._lock is not None and self._lock.generation:
            effects.append(SendControl(to=member, message=self._say.token(self._lock)))
        return effects

    def _change_token(self, token: bytes) -> list[ControlEffect]:
        """A person gave this board another token: the whole cluster is to have it."""
        generation = self._lock.generation + 1 if self._lock else 1
        self._lock = Lock(token=token, generation=generation)
        return [AdoptToken(lock=self._lock), *self._say.tell_all(self._say.token(self._lock))]

    def _token_news(self, message: TokenRotated) -> list[ControlEffect]:
        """Another member's token: the later generation wins, and of two rotations at once the larger bytes."""
        theirs = Lock(token=message.token, generation=message.generation)
        if self._lock is None or (theirs.generation, theirs.token) <= (self._lock.generation, self._lock.token):
            return []
        self._lock = theirs
        return [AdoptToken(lock=theirs), *self._say.tell_all(self._say.token(theirs), but=message.sender)]

    def _joined(self, member: Member, now: float) -> list[ControlEffect]:
        """The first message under its own key: it has let us in, both directions work."""
        if member.peer not in self._roster.joining:
            return []
        self._roster.joining.discard(member.peer)
        status, reason = self._roster.standing(member.models)
        self._roster.mark(member.peer, status, reason, now)
        return self._welcome(member)

    def _ping(self, message: Ping, member: Member) -> list[ControlEffect]:
        if message.speed:
            self._roster.update(member.peer, speed=message.speed)
        if self._left:
            return []
        me = self._roster.me
        stuck_ms = min(int(self.stuck_s * 1000), (1 << 32) - 1)
        pong = Pong(sender=me.peer, incarnation=me.incarnation, sequence=message.sequence, stuck_ms=stuck_ms)
        effects: list[ControlEffect] = [SendControl(to=member, message=pong)]
        if self._live.accused(member.peer):
            effects.append(SendControl(to=member, message=self._say.news(member, member.status)))
        return effects

    def _timer(self, now: float, *, late_s: float) -> list[ControlEffect]:
        if self._left:
            return []
        hello = self._say.hello(answer=False)
        knocks: list[ControlEffect] = [Knock(at=door, message=hello) for door in self._dials.due(now)]
        return knocks + self._live.timer(now, late_s=late_s)

    def _leave(self) -> list[ControlEffect]:
        me = self._roster.me
        goodbye = Goodbye(sender=me.peer, incarnation=me.incarnation)
        effects = self._say.tell_all(goodbye)
        self._left = True  # from here on nothing is said that could bring this board back
        return effects

    def _remove(self, peer: PeerId, *, revoked: bool, tell: bool, now: float) -> list[ControlEffect]:
        me = self._roster.me
        if peer == me.peer:
            return []
        effects: list[ControlEffect] = []
        if tell:
            news = Removed(sender=me.peer, incarnation=me.incarnation, about=peer, revoked=revoked)
            effects = self._say.tell_all(news, but=peer)
        self._forget(peer)
        self._dials.released(peer, now)
        self._roster.drop(peer)
        if len(self._tombstones) < MAX_TOMBSTONES:
            self._tombstones[peer] = revoked or self._tombstones.get(peer, False)
        return effects

    def _stranger(self, message: Stranger, now: float) -> list[ControlEffect]:
        if not self._roster.room_for(message.sender):
            self.counters["members_refused"] += 1
            return []
        self._forget(message.sender)
        self._dials.released(message.sender, now)
        self._roster.enter_stranger(message, now)
        return []

    def _answer(self, member: Member, *, door: bool) -> ControlEffect:
        hello = self._say.hello(answer=True)
        if door:
            return Knock(at=Address(host=member.endpoint.host, port=member.endpoint.port), message=hello)
        return SendControl(to=member, message=hello)

    def _forget(self, peer: PeerId) -> None:
        self._live.forget(peer)
        self._roster.joining.discard(peer)
